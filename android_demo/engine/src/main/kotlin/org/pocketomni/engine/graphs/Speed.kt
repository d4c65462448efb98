package org.pocketomni.engine.graphs

import org.pocketomni.engine.bundle.SpeechConfig

/** Seconds of work per second of speech: codes, one DiT evaluation, vocoder. */
internal class SynthesisSpeed(val codes: Double, val evaluation: Double, val vocoder: Double) {
    /** Seconds of speech per second of work with this many function evaluations. */
    fun realtime(evaluations: Int): Double = 1 / (codes + evaluations * evaluation + vocoder)

    /** The preset with the most evaluations that runs in real time; else the one with the fewest. */
    fun affordable(evaluations: Map<String, Int>): String {
        val fromMost = evaluations.keys.sortedByDescending { evaluations.getValue(it) }
        return fromMost.firstOrNull { realtime(evaluations.getValue(it)) >= MARGIN } ?: fromMost.last()
    }

    companion object {
        /** Real-time factor a preset must reach to be chosen; the trial is short and leaves out the text. */
        private const val MARGIN = 1.2
        private const val CODES = 8
        private const val BLOCKS = 2
        private const val TRIES = 2

        /** Time each component on arbitrary inputs. The first try also warms up, so the fastest one counts. */
        fun measure(speech: SpeechConfig, talker: Talker, dit: Dit, vocoder: Vocoder, voice: FloatArray): SynthesisSpeed {
            val config = dit.config
            val full = ChunkScheduler.CHUNK_BLOCKS.last()
            val frame = speech.vocoder.samplesPerFrame.toDouble() / speech.vocoder.sampleRate
            val frames = BLOCKS * config.blockFrames
            val codes = IntArray(frames / config.framesPerCode) { 1 }
            val once = dit.single()
            val noise = seededNoise(0, config.blockFrames * config.melDim)
            val decoding = best { decode(talker) }
            val guided = best { MelStream(once, voice, noise).use { it.chunk(codes, BLOCKS) } }
            val sounding = best { vocoder.synthesize(FloatArray(frames * config.melDim), 0, 0) }
            // A large chunk also computes a block of look-ahead, and the vocoder context on both sides.
            val ahead = 1.0 / full
            val context = 2.0 * speech.vocoder.contextFrames / (full * config.blockFrames)
            return SynthesisSpeed(
                decoding / (CODES * config.framesPerCode * frame),
                guided / 2 / (frames * frame) * (1 + ahead),
                sounding / (frames * frame) * (1 + context),
            )
        }

        private fun decode(talker: Talker) {
            val config = talker.config
            val settings = TalkerSettings(config.sampling, CODES, Pcg64(0, 0))
            val row = talker.text(config.textPad).zip(talker.codec(config.codecBos)) { a, b -> a + b }.toFloatArray()
            talker.newCache().use { cache ->
                for (position in 0 until CODES) {
                    talker.sampleCode(talker.logits(cache, row, position), setOf(config.codecBos), settings)
                }
            }
        }

        private fun best(act: () -> Unit): Double = (1..TRIES).minOf {
            val started = System.nanoTime()
            act()
            (System.nanoTime() - started) / 1e9
        }
    }
}
