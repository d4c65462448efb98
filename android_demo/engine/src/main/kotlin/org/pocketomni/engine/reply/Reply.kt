package org.pocketomni.engine.reply

import org.pocketomni.engine.Chunks
import org.pocketomni.engine.FinishReason
import org.pocketomni.engine.ReplyEvent
import org.pocketomni.engine.ReplyOptions
import org.pocketomni.engine.Sampling
import org.pocketomni.engine.SpeechOptions
import org.pocketomni.engine.Timings
import org.pocketomni.engine.UsageError
import org.pocketomni.engine.bundle.SpeechConfig
import org.pocketomni.engine.graphs.ChunkScheduler
import org.pocketomni.engine.graphs.Code2Wav
import org.pocketomni.engine.graphs.CodecStream
import org.pocketomni.engine.graphs.Pcg64
import org.pocketomni.engine.graphs.TalkerSettings
import org.pocketomni.engine.graphs.sample
import org.pocketomni.engine.graphs.seededNoise
import org.pocketomni.engine.inputs.StreamDecoder
import java.io.Closeable

/** Selects the highest-quality preset that runs in real time on this device. */
internal const val AUTO = "auto"

/** Speech options without defaults; [preset] may still be "auto". */
internal data class ResolvedSpeech(
    val voice: String,
    val preset: String,
    val sampling: Sampling,
    val maxCodes: Int,
    val chunks: Chunks,
)

/** Fill in the defaults of a bundle. Throws [UsageError] that lists the valid choices. */
internal fun SpeechOptions.resolved(speech: SpeechConfig) = ResolvedSpeech(
    chosen("voice", voice ?: speech.defaultVoice, speech.voices.keys),
    chosen("preset", preset ?: speech.defaultPreset, speech.presets.keys + AUTO),
    sampling ?: speech.talker.sampling,
    minOf(maxCodes ?: speech.talker.maxCodes, speech.talker.maxCodes),
    chunks,
)

private fun chosen(kind: String, name: String, known: Set<String>): String =
    if (name in known) name else throw UsageError("there is no $kind '$name'", "choose one of ${known.joinToString()}")

/** Seconds of work since a turn began: the time that a listener takes is left out. */
internal class WorkClock {
    private var started = System.nanoTime()

    fun seconds(): Double = (System.nanoTime() - started) / 1e9

    /** Call a listener with the clock stopped. */
    fun pausedFor(work: () -> Unit) {
        val before = System.nanoTime()
        work()
        started += System.nanoTime() - before
    }
}

/**
 * The reply to a prompt at the end of a context: Thinker, Talker, DiT and vocoder take turns.
 *
 * Each sampled token is shown before the Thinker reads it. For each token that was read the Talker decodes one code,
 * and whenever enough codes are there a chunk of speech is synthesized, so speech starts while the text goes on.
 * Its state is true at every moment, also when [run] is left by an exception.
 */
internal class Reply(
    private val model: Model,
    private val options: ReplyOptions,
    private var speechOptions: ResolvedSpeech?,
    private val context: Context,
    private val clock: WorkClock,
    private val emit: (ReplyEvent) -> Unit,
) : Closeable {
    val tokens = ArrayList<Int>()
    val text = StringBuilder()
    var finishReason = FinishReason.INTERRUPTED
        private set
    private val textEnds = ArrayList<Int>()
    private val timeline = SpeechTimeline(model.config.speech?.vocoder?.sampleRate ?: 1)
    private val start = context.mark()
    private val firstPosition = context.textPosition
    private val random = Pcg64(options.seed, TEXT_STREAM)
    private val decoder = StreamDecoder(model.tokenizer)
    private var speech: CodecStream? = null
    private var sound: Code2Wav? = null
    private var scheduler: ChunkScheduler? = null
    private var underrunReported = false
    private var firstText: Double? = null
    private var lastText: Double? = null
    private var firstAudio: Double? = null

    /** Codes of the speech so far. */
    val codes = ArrayList<Int>()

    /** Whether the Talker ended by itself; null when it did not speak. */
    val speechComplete: Boolean? get() = speech?.complete

    /** What is needed to cut the reply to what was heard; null when nothing is spoken. */
    val spoken: SpokenReply?
        get() = speechOptions?.let { SpokenReply(text.toString(), textEnds.toList(), timeline, speech?.complete == true, it.voice) }

    /** Stream the reply after a prefill that ended with [logits]. */
    fun run(logits: FloatArray) {
        var latest = logits
        var reason: FinishReason? = null
        while (true) {
            reason = endOfText()
            if (reason != null) break
            val seen = if (options.sampling.repetitionPenalty != 1.0) context.ids else emptyList()
            val token = sample(latest, options.sampling, seen, random)
            if (token in model.config.tokens.eos) {
                reason = FinishReason.STOP
                break
            }
            decode(token)
            val output = context.forward()
            latest = output.logits
            speak(output.talkerRows)
        }
        show(decoder.finish())
        speech?.let { stream ->
            stream.endText()
            while (stream.ready) nextCode(stream)
            hear(sound!!.finish())
        }
        finishReason = reason
    }

    private fun endOfText(): FinishReason? = when {
        tokens.size >= options.maxTokens -> FinishReason.LENGTH
        context.room == 0 -> FinishReason.CONTEXT
        else -> null
    }

    private fun decode(token: Int) {
        context.push(token)
        tokens.add(token)
        val delta = decoder.push(token)
        if (delta.isNotEmpty()) noted(delta)
        textEnds.add(text.length)
        if (delta.isNotEmpty()) emit(ReplyEvent.TextDelta(delta, lastText!!))
    }

    private fun show(delta: String) {
        if (delta.isEmpty()) return
        noted(delta)
        emit(ReplyEvent.TextDelta(delta, lastText!!))
    }

    private fun noted(delta: String) {
        text.append(delta)
        lastText = clock.seconds()
        if (firstText == null) firstText = lastText
    }

    private fun speak(row: FloatArray) {
        val options = speechOptions ?: return
        val begun = speech
        if (begun == null && options.preset == AUTO) choosePreset(options)
        val stream = begun?.also { it.feed(row) } ?: beginSpeech(speechOptions!!, row)
        if (stream.ready) nextCode(stream)
    }

    private fun choosePreset(options: ResolvedSpeech) {
        val preset = model.speed.affordable(model.evaluations)
        speechOptions = options.copy(preset = preset)
        emit(ReplyEvent.PresetChosen(preset, model.evaluations.mapValues { model.speed.realtime(it.value) }, clock.seconds()))
    }

    private fun beginSpeech(speaking: ResolvedSpeech, firstRow: FloatArray): CodecStream {
        val config = model.speech
        val noise = seededNoise(options.seed, config.dit.blockFrames * config.dit.melDim)
        val scheduler = ChunkScheduler.of(speaking.chunks, config, clock::seconds).also { scheduler = it }
        sound = Code2Wav(model.dit(speaking.preset), model.vocoder, model.bundle.voice(speaking.voice), noise, scheduler)
        return model.talker.start(
            context.beginSpeech(),
            config.voices.getValue(speaking.voice),
            firstRow,
            firstPosition,
            TalkerSettings(speaking.sampling, speaking.maxCodes, Pcg64(options.seed, TALKER_STREAM)),
            start.position,
        ).also { speech = it }
    }

    private fun nextCode(stream: CodecStream) {
        val code = stream.step() ?: return
        codes.add(code)
        hear(sound!!.push(code))
        reportUnderrun()
    }

    private fun hear(samples: FloatArray?) {
        if (samples == null || samples.isEmpty()) return
        val seconds = clock.seconds()
        if (firstAudio == null) firstAudio = seconds
        val first = timeline.samples
        timeline.add(samples)
        val position = textEnds[minOf(codes.size, textEnds.size) - 1] // each code consumed one row of text
        emit(ReplyEvent.AudioDelta(samples, timeline.sampleRate, seconds, first, position))
    }

    /** Once, when a listener has heard that this device cannot keep up. */
    private fun reportUnderrun() {
        val found = if (underrunReported) null else scheduler?.underrun
        if (found == null) return
        underrunReported = true
        val preset = speechOptions!!.preset
        val faster = model.fasterPresets(preset)
        emit(ReplyEvent.PlaybackUnderrun(found.realtime, found.codes, preset, faster, clock.seconds()))
    }

    /** The numbers of the reply so far. */
    fun timings(prefill: Double, promptTokens: Int, cachedTokens: Int) = Timings(
        clock.seconds(), prefill, firstText, firstAudio, lastText, promptTokens, cachedTokens, tokens.size, codes.size,
        timeline.samples.toDouble() / timeline.sampleRate,
    )

    override fun close() {
        sound?.close()
    }

    private companion object {
        /** Independent random streams of one seed, so that speech never changes the text. */
        const val TEXT_STREAM = 0L
        const val TALKER_STREAM = 1L
    }
}
