package org.pocketomni.engine.inputs

import org.pocketomni.engine.AudioStream
import org.pocketomni.engine.BundleError
import org.pocketomni.engine.Message
import org.pocketomni.engine.Part
import org.pocketomni.engine.Role
import org.pocketomni.engine.UsageError
import org.pocketomni.engine.bundle.AudioConfig
import org.pocketomni.engine.bundle.ModelConfig
import org.pocketomni.engine.bundle.VisionConfig

/** A piece of a prompt before its positions are known. */
private sealed class Item {
    class Token(val id: Int) : Item()

    /** Two tokens that share a position. */
    class Pair(val first: Int, val second: Int) : Item()

    class Sound(val mel: MelFeatures, val running: Boolean) : Item()

    class Vision(val kind: String, val patches: Patches, val seconds: Double, val mel: MelFeatures?) : Item()
}

private sealed class PromptPiece {
    class Token(val id: Int) : PromptPiece()

    class Plain(val text: String) : PromptPiece()

    class Medium(val part: Part) : PromptPiece()
}

/** Builds the prompts of one bundle: token ids, positions, and media with their rows. Decodes the media. */
internal class PromptBuilder(private val tokenizer: Tokenizer, template: String, private val config: ModelConfig) {
    private val template = ChatTemplate(template)
    private val tokens = config.tokens
    private val kinds = mapOf(tokens.audio to "audio", tokens.image to "image", tokens.video to "video")

    /**
     * Build the prompt for a reply to [messages]; the default system message is added if there is none.
     *
     * With [sinceLastReply] it starts behind the text of the last assistant message, at [startPosition]; earlier
     * media are not read. [partial] allows a running recording; the prompt then ends with its final blocks.
     *
     * Throws [UsageError] for media without an encoder or a running recording, MediaError for media that cannot be
     * read, [BundleError] when the chat template drops a part.
     */
    fun build(messages: List<Message>, startPosition: Int = 0, sinceLastReply: Boolean = false, partial: Boolean = false): Prompt {
        val all = if (messages.firstOrNull()?.role == Role.SYSTEM) messages else {
            listOf(Message(Role.SYSTEM, listOf(Part.Text(config.systemPrompt)))) + messages
        }
        val after = if (sinceLastReply) ChatTemplate.lastReply(all) else null
        val items = items(flatten(template.render(all), all.flatMap { it.parts }, after), partial)
        pairMarkers(items)
        return Layout(config, startPosition).assemble(items)
    }

    /** Special tokens, plain text and media in order; only those behind part [after]. The nth marker is the nth medium. */
    private fun flatten(segments: List<Segment>, parts: List<Part>, after: Int?): List<PromptPiece> {
        val media = parts.filter { it !is Part.Text }.iterator()
        val pieces = ArrayList<PromptPiece>()
        for (segment in segments) {
            when (segment) {
                is Segment.Template -> tokenizer.split(
                    segment.text,
                    { id -> pieces.add(kinds[id]?.let { PromptPiece.Medium(next(media, it)) } ?: PromptPiece.Token(id)) },
                    { text -> pieces.add(PromptPiece.Plain(text)) },
                )
                is Segment.UserText -> if (segment.part == after) pieces.clear() else {
                    pieces.add(PromptPiece.Plain((parts[segment.part] as Part.Text).text))
                }
            }
        }
        if (media.hasNext()) throw noMarker(media.next().kind)
        return pieces
    }

    private fun next(media: Iterator<Part>, kind: String): Part {
        val part = if (media.hasNext()) media.next() else null
        return if (part?.kind == kind) part else throw noMarker(part?.kind ?: "media that are not in the message")
    }

    private fun noMarker(kind: String) = BundleError("the chat template has no marker, or a wrong one, for $kind")

    /** Tokens and loaded media. Text between special tokens is joined, then encoded. */
    private fun items(pieces: List<PromptPiece>, partial: Boolean): MutableList<Item> {
        val items = ArrayList<Item>()
        val plain = StringBuilder()
        fun encode() {
            tokenizer.encode(plain.toString()).forEach { items.add(Item.Token(it)) }
            plain.setLength(0)
        }
        for (piece in pieces) {
            if (piece is PromptPiece.Plain) {
                plain.append(piece.text)
                continue
            }
            encode()
            val item = if (piece is PromptPiece.Token) Item.Token(piece.id) else load((piece as PromptPiece.Medium).part)
            val running = item is Item.Sound && item.running
            if (running && !partial) throw UsageError("the recording is still running", "call its finish() first")
            items.add(item)
            if (running) return items
        }
        encode()
        return items
    }

    private fun load(part: Part): Item = when (part) {
        is Part.Text -> error("text is no medium")
        is Part.Sound -> {
            val audio = required(config.audio, "sound")
            val seconds = maxSeconds(audio)
            Item.Sound(logMel(loadSound(part.source.decode(seconds), audio.sampleRate, seconds), audio), false)
        }
        is Part.LiveSound -> live(part.stream, required(config.audio, "sound"))
        is Part.Picture -> {
            val vision = required(config.vision, "pictures")
            val image = part.source.decode(vision.imagePixels.last)
            Item.Vision("image", picturePatches(image, vision), 0.0, null)
        }
        is Part.Film -> film(part, required(config.vision, "films"))
    }

    private fun live(stream: AudioStream, audio: AudioConfig): Item {
        if (stream.config != audio) throw UsageError("the recording belongs to another model", "make it by the engine")
        val seconds = maxSeconds(audio)
        if (stream.seconds > seconds) throw soundTooLong("the recording", seconds)
        val running = stream.running // read first: one that finishes in between counts as running, which is safe
        return Item.Sound(stream.features(), running)
    }

    private fun film(part: Part.Film, vision: VisionConfig): Item {
        val audio = if (part.useSound) config.audio else null
        val seconds = audio?.let(::maxSeconds) ?: 0.0
        val film = part.source.open().use {
            loadFilm(it, vision, audio?.sampleRate, config.decoder.maxContext, seconds)
        }
        val mel = film.sound?.let { logMel(it, audio!!) }
        return Item.Vision("video", film.patches, film.seconds, mel)
    }

    /** Double the markers around each film with sound: vision outside, sound inside. */
    private fun pairMarkers(items: MutableList<Item>) {
        for (i in items.indices) {
            if ((items[i] as? Item.Vision)?.mel == null) continue
            val before = (items.getOrNull(i - 1) as? Item.Token)?.id
            val behind = (items.getOrNull(i + 1) as? Item.Token)?.id
            if (before != tokens.visionBos || behind != tokens.visionEos) {
                throw BundleError("the chat template has no markers around films")
            }
            items[i - 1] = Item.Pair(tokens.visionBos, tokens.audioBos)
            items[i + 1] = Item.Pair(tokens.audioEos, tokens.visionEos)
        }
    }

    private fun <T : Any> required(part: T?, noun: String): T =
        part ?: throw UsageError("this bundle has no encoder for $noun", "use a bundle of a checkpoint that has one")

    /** Seconds of sound that fill the context; a token is four mel frames. */
    private fun maxSeconds(audio: AudioConfig): Double =
        config.decoder.maxContext * 4.0 * audio.hopLength / audio.sampleRate
}

/** A prompt under construction: ids, positions, and media with their rows. */
private class Layout(private val config: ModelConfig, start: Int) {
    private val tokens = config.tokens
    private val merge = config.vision?.mergeSize ?: 1
    private val walk = PositionWalk(config.positions, start)
    private val ids = IntList()
    private val media = ArrayList<MediaSlot>()

    fun assemble(items: List<Item>): Prompt {
        for (item in items) {
            when (item) {
                is Item.Token -> {
                    ids.add(item.id)
                    walk.sequential(1)
                }
                is Item.Pair -> {
                    ids.add(item.first)
                    ids.add(item.second)
                    walk.shared(2)
                }
                is Item.Sound -> sound(item.mel)
                is Item.Vision -> vision(item)
            }
        }
        val (positions, following) = walk.finish()
        return Prompt(ids.toArray(), positions, media, following)
    }

    private fun sound(mel: MelFeatures) {
        val count = audioTokens(mel.frames)
        if (count == 0) return
        walk.sequential(count)
        media.add(MediaSlot("audio", rows(tokens.audio, count), Features.Heard(mel)))
    }

    private fun vision(item: Item.Vision) {
        val grid = item.patches.grid
        val run = VisionRun(grid.t, grid.h / merge, grid.w / merge, item.seconds)
        if (item.mel != null) return filmWithSound(item.patches, item.mel, run)
        walk.vision(run)
        val token = if (item.kind == "image") tokens.image else tokens.video
        media.add(MediaSlot(item.kind, rows(token, run.tokens), Features.Seen(item.patches)))
    }

    private fun filmWithSound(patches: Patches, mel: MelFeatures, run: VisionRun) {
        val seen = IntList()
        val heard = IntList()
        for (slice in walk.filmWithSound(run, audioTokens(mel.frames))) {
            val token = if (slice.picture) tokens.video else tokens.audio
            (if (slice.picture) seen else heard).addAll(rows(token, slice.end - slice.start))
        }
        media.add(MediaSlot("video", seen.toArray(), Features.Seen(patches)))
        media.add(MediaSlot("audio", heard.toArray(), Features.Heard(mel)))
    }

    private fun rows(token: Int, count: Int): IntArray {
        val first = ids.size
        repeat(count) { ids.add(token) }
        return IntArray(count) { first + it }
    }
}
