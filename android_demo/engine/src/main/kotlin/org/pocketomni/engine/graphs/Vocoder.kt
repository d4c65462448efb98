package org.pocketomni.engine.graphs

import org.pocketomni.engine.bundle.VocoderConfig
import kotlin.math.max
import kotlin.math.min

/** Runs the vocoder's graph over a window of mel frames. */
internal class Vocoder(private val graph: Graph, val config: VocoderConfig, private val melDim: Int) {
    /** The waveform of [mel] (frames, mel_dim) less [left] and [right] frames of context. */
    fun synthesize(mel: FloatArray, left: Int, right: Int): FloatArray {
        val frames = mel.size / melDim
        val transposed = FloatArray(mel.size) { mel[it % frames * melDim + it / frames] }
        val inputs = mapOf(
            "mel" to Tensors.of(transposed, 1, melDim, frames),
            "crops" to Tensors.of(crops(left, right), config.stageRates.size + 1, 2),
        )
        try {
            return graph.run(inputs, setOf("waveform")).use { it.floats("waveform") }
        } finally {
            inputs.values.closeAll()
        }
    }

    /** Samples to crop left and right after each stage: what no later stage needs. */
    fun crops(left: Int, right: Int): LongArray {
        val rows = LongArray(2 * (config.stageRates.size + 1))
        val kept = longArrayOf(left.toLong(), right.toLong())
        config.stageRates.forEachIndexed { stage, rate ->
            for (side in 0..1) {
                val there = kept[side] * rate
                kept[side] = min(there, config.margins[stage].toLong())
                rows[2 * stage + side] = there - kept[side]
            }
        }
        kept.copyInto(rows, rows.size - 2)
        return rows
    }
}

/** The waveform of one utterance chunk by chunk; one mel frame is cross-faded between chunks. */
internal class WaveStream(private val vocoder: Vocoder, private val melDim: Int) {
    private val config = vocoder.config
    private var context = FloatArray(0)
    private var seam = FloatArray(0)

    /** Samples of the new frames [mel]; [ahead] follows them. Every chunk but the [last] needs a frame in it. */
    fun push(mel: FloatArray, ahead: FloatArray, last: Boolean): FloatArray {
        val most = if (last) 0 else (config.contextFrames + SEAM_FRAMES) * melDim
        val behind = ahead.copyOf(min(ahead.size, most))
        val beyond = if (last) 0 else SEAM_FRAMES // frames computed twice, for the cross-fade
        val wave = vocoder.synthesize(context + mel + behind, context.size / melDim, behind.size / melDim - beyond)
        for (i in seam.indices) {
            val weight = if (i == seam.size - 1) 1f else (i * (1.0 / (seam.size - 1))).toFloat()
            wave[i] = seam[i] * (1f - weight) + wave[i] * weight
        }
        val samples = mel.size / melDim * config.samplesPerFrame
        seam = wave.copyOfRange(samples, wave.size)
        val known = context + mel
        context = known.copyOfRange(max(0, known.size - config.contextFrames * melDim), known.size)
        return wave.copyOf(samples)
    }

    private companion object {
        const val SEAM_FRAMES = 1
    }
}
