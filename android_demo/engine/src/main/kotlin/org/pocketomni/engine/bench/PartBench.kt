/** Benchmarks of the parts of a model: those of `omni bench`, with its names, sizes and notes. */
package org.pocketomni.engine.bench

import org.pocketomni.engine.Engine
import org.pocketomni.engine.RgbImage
import org.pocketomni.engine.bundle.SpeechConfig
import org.pocketomni.engine.graphs.ChunkScheduler
import org.pocketomni.engine.graphs.Code2Wav
import org.pocketomni.engine.graphs.Dit
import org.pocketomni.engine.graphs.FixedScheduler
import org.pocketomni.engine.graphs.KvCache
import org.pocketomni.engine.graphs.MelStream
import org.pocketomni.engine.graphs.Pcg64
import org.pocketomni.engine.graphs.TalkerSettings
import org.pocketomni.engine.graphs.WaveStream
import org.pocketomni.engine.graphs.seededNoise
import org.pocketomni.engine.inputs.Positions
import org.pocketomni.engine.inputs.Prompt
import org.pocketomni.engine.inputs.audioTokens
import org.pocketomni.engine.inputs.logMel
import org.pocketomni.engine.inputs.picturePatches
import org.pocketomni.engine.reply.Model
import java.util.Locale
import java.util.Random

/** A measured quantity. */
class BenchQuantity(val name: String, val unit: String, val note: String = "")

/** [run] runs a case once and returns its value; it blocks. */
class BenchCase(val quantity: BenchQuantity, val run: () -> Double)

/** Benchmarks of the parts of a model. */
interface PartBench {
    /** Why the bundle lacks the part that [test] needs; null if it has it. */
    fun missing(test: String): String?

    /** Prepare the cases of one of [TESTS], and hand one after the other to [visit]. */
    fun cases(test: String, visit: (BenchCase) -> Unit)

    companion object {
        /** In the order of `omni bench`. */
        val TESTS = listOf("pp", "tg", "audio", "image", "talker", "dit", "vocoder", "code2wav")
    }
}

/**
 * The benchmarks of a loaded bundle. Inputs are random, of fixed size: the time does not depend on their values. A case
 * runs on the engine's thread, behind the replies in progress.
 */
class EngineBench(private val engine: Engine) : PartBench {
    private val model: Model = engine.model
    private val config = model.config

    override fun missing(test: String): String? = when (test) {
        "audio" -> "no audio encoder".takeIf { config.audio == null }
        "image" -> "no vision encoder".takeIf { config.vision == null }
        "talker", "dit", "vocoder", "code2wav" -> "no speech".takeIf { config.speech == null }
        else -> null
    }

    override fun cases(test: String, visit: (BenchCase) -> Unit) = when (test) {
        "pp" -> thinker("pp", PROMPT, visit) { cache, count, depth -> prefill(cache, count, depth) }
        "tg" -> thinker("tg", STEPS, visit) { cache, count, depth -> repeat(count) { model.thinker.step(cache, token(), depth + it) } }
        "audio" -> audio(visit)
        "image" -> image(visit)
        "talker" -> talker(visit)
        "dit" -> dit(visit)
        "vocoder" -> vocoder(visit)
        "code2wav" -> code2wav(visit)
        else -> error("there is no benchmark $test")
    }

    // Text

    private val random = Random(0)

    private fun token() = random.nextInt(config.decoder.vocabSize)

    private fun prefill(cache: KvCache, count: Int, depth: Int) {
        val prompt = Prompt(IntArray(count) { token() }, Positions.line(depth, count), emptyList(), depth + count)
        model.thinker.prefill(cache, prompt)
    }

    /** Tokens per second of [work] on `count` tokens, at depth 0 and at [DEPTH], within the context. */
    private fun thinker(name: String, wanted: Int, visit: (BenchCase) -> Unit, work: (KvCache, Int, Int) -> Unit) {
        val limit = config.decoder.maxContext
        val count = minOf(wanted, limit)
        val deep = minOf(DEPTH, limit - count)
        val cache = engine.call { model.thinker.newCache() }
        try {
            for (depth in listOf(0, deep).distinct()) {
                val note = if (depth in listOf(0, DEPTH)) "" else "context length $limit"
                val place = if (depth > 0) " @ d$depth" else ""
                visit(
                    case("$name$count$place", "tok/s", note) {
                        cache.truncate(minOf(depth, cache.length))
                        if (cache.length < depth) prefill(cache, depth - cache.length, cache.length)
                        count / seconds { work(cache, count, depth) }
                    },
                )
            }
        } finally {
            engine.call(cache::close)
        }
    }

    // Encoders

    private fun audio(visit: (BenchCase) -> Unit) {
        val audio = config.audio!!
        val mel = logMel(gaussian(AUDIO_SECONDS * audio.sampleRate, 1.0), audio)
        visit(case("audio encoder $AUDIO_SECONDS s", "s", "${audioTokens(mel.frames)} tokens") { seconds { model.audioEncoder().encode(mel) } })
        engine.call(model::mediaDone)
    }

    private fun image(visit: (BenchCase) -> Unit) {
        val vision = config.vision!!
        for ((name, side) in IMAGES) {
            val patches = picturePatches(RgbImage(side, side, ByteArray(side * side * 3).also(random::nextBytes)), vision)
            val (t, h, w) = patches.grid
            val size = "${w * vision.patchSize}x${h * vision.patchSize}"
            val note = "resized to $size, ${t * h * w / (vision.mergeSize * vision.mergeSize)} tokens"
            visit(case("image $name", "s", note) { seconds { model.visionEncoder().encode(patches) } })
        }
        engine.call(model::mediaDone)
    }

    // Speech

    private val speech: SpeechConfig get() = model.speech
    private val frameSeconds get() = speech.vocoder.samplesPerFrame.toDouble() / speech.vocoder.sampleRate
    private val blockFrames get() = speech.dit.blockFrames

    private fun talker(visit: (BenchCase) -> Unit) {
        val cache = engine.call { model.talker.newCache() }
        try {
            val count = minOf(CODES, cache.limit)
            visit(case("talker", "codes/s", codes(count)) { count / seconds { decodeCodes(cache, count) } })
        } finally {
            engine.call(cache::close)
        }
    }

    /** With the Talker's own sampling; an end code does not stop it. */
    private fun decodeCodes(cache: KvCache, count: Int) {
        val talker = model.talker
        cache.truncate(0)
        val settings = TalkerSettings(talker.config.sampling, count, Pcg64(0, 0))
        var code = talker.config.codecBos
        val seen = linkedSetOf(code)
        val text = talker.text(talker.config.textPad)
        for (position in 0 until count) {
            val row = talker.codec(code).also { for (i in it.indices) it[i] += text[i] }
            code = talker.sampleCode(talker.logits(cache, row, position), seen, settings)
            seen.add(code)
        }
    }

    private fun dit(visit: (BenchCase) -> Unit) {
        val blocks = COMMIT_BLOCKS + LOOK_AHEAD_BLOCKS
        val codes = randomCodes(blocks)
        val all = blocks * blockFrames * frameSeconds
        val length = String.format(Locale.ROOT, "%.2f", all)
        visit(case("DiT, 1 evaluation", "s/s", "with guidance, $length s at once") { mel(model.dit(speech.defaultPreset).single(), codes, blocks) / all })
        for (name in speech.presets.keys) {
            val branches = engine.call { model.dit(name).branches }
            val note = "${branches.size} evaluations, ${branches.sum()} passes; $LOOK_AHEAD_BLOCKS of $blocks blocks is look-ahead"
            visit(case("DiT, $name", "s/s", note) { mel(model.dit(name), codes, COMMIT_BLOCKS) / (COMMIT_BLOCKS * blockFrames * frameSeconds) })
        }
    }

    private fun mel(dit: Dit, codes: IntArray, commit: Int): Double =
        seconds { MelStream(dit, voice(), noise()).use { it.chunk(codes, commit) } }

    /** A chunk with context on both sides. */
    private fun vocoder(visit: (BenchCase) -> Unit) {
        val frames = COMMIT_BLOCKS * blockFrames
        fun mel(count: Int) = gaussian(count * speech.dit.melDim, MEL_DEVIATION).also { for (i in it.indices) it[i] += MEL_MEAN }
        val (before, chunk) = List(2) { mel(frames) }
        val ahead = mel(LOOK_AHEAD_BLOCKS * blockFrames)
        visit(
            case("vocoder", "s/s", "$frames frames at once; the context is recomputed") {
                val stream = WaveStream(model.vocoder, speech.dit.melDim)
                stream.push(before, chunk, last = false)
                seconds { stream.push(chunk, ahead, last = false) } / (frames * frameSeconds)
            },
        )
    }

    private fun code2wav(visit: (BenchCase) -> Unit) {
        val codes = randomCodes(UTTERANCE_BLOCKS)
        for (name in speech.presets.keys) {
            visit(case("code2wav, $name", "codes/s", codes(codes.size)) { codes.size / seconds { synthesize(name, codes) } })
        }
    }

    private fun synthesize(preset: String, codes: IntArray) {
        val scheduler = FixedScheduler(ChunkScheduler.CHUNK_BLOCKS)
        Code2Wav(model.dit(preset), model.vocoder, voice(), noise(), scheduler).use { stream ->
            codes.forEach { stream.push(it) }
            stream.finish()
        }
    }

    private fun voice() = model.bundle.voice(speech.defaultVoice)

    private fun noise() = seededNoise(0, blockFrames * speech.dit.melDim)

    private fun randomCodes(blocks: Int) =
        IntArray(blocks * blockFrames / speech.dit.framesPerCode) { 1 + random.nextInt(speech.dit.codes - 1) }

    private fun codes(count: Int) = "$count codes; ${Math.rint(speech.codesPerSecond).toInt()} codes/s is real time"

    private fun gaussian(count: Int, deviation: Double) = FloatArray(count) { (random.nextGaussian() * deviation).toFloat() }

    private fun case(name: String, unit: String, note: String, value: () -> Double) =
        BenchCase(BenchQuantity(name, unit, note)) { engine.call(value) }

    private fun seconds(work: () -> Unit): Double {
        val started = System.nanoTime()
        work()
        return (System.nanoTime() - started) / 1e9
    }

    private companion object {
        const val PROMPT = 512
        const val STEPS = 128
        const val DEPTH = 2048
        const val AUDIO_SECONDS = 30
        val IMAGES = mapOf("448x448" to 448, "1 MP" to 1024)
        const val CODES = 128

        /** A chunk of speech in the steady state: DiT blocks that are final, and look-ahead. */
        const val COMMIT_BLOCKS = 8
        const val LOOK_AHEAD_BLOCKS = 1
        const val UTTERANCE_BLOCKS = 12
        const val MEL_MEAN = -5f
        const val MEL_DEVIATION = 2.0
    }
}
