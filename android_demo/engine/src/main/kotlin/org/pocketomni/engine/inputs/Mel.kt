/** Streaming log-mel power of a clip (docs/bundle.md, section 8); the floor is applied in MelFeatures. */
package org.pocketomni.engine.inputs

import org.pocketomni.engine.bundle.AudioConfig
import kotlin.math.exp
import kotlin.math.ln
import kotlin.math.log10
import kotlin.math.max
import kotlin.math.min

/** Mel frames of the shortest clip that gives a token. */
internal const val MIN_FRAMES = 3

/** Tokens of [frames] mel frames: stride 2, then pairs averaged. */
internal fun audioTokens(frames: Int): Int = ((frames - 1) / 2 + 1) / 2

/** Log power of consecutive frames: [values] has a row of [frames] numbers for each of [mels] bands. */
internal class MelBlock(val mels: Int, val frames: Int, val values: FloatArray) {
    val least: Float = values.minOrNull() ?: Float.POSITIVE_INFINITY
    val most: Float = values.maxOrNull() ?: Float.NEGATIVE_INFINITY
}

/**
 * Stateful short-time Fourier transform and mel filters. Blocks are given out once no later sample changes them.
 *
 * Padding on the left puts the frames on a grid that ends with the clip. [length] is that of the clip in samples, if it
 * is known; if it is not, the samples after the last full hop are dropped.
 */
internal class LogPowerStream(private val config: AudioConfig, private val length: Int = 0) {
    private val margin = if (config.paddedLeft) (config.nFft / 2 + config.hopLength - 1) / config.hopLength + 1 else 0
    private var signal = FloatArray(0)
    private var start = 0 // of the window of frame `frames`
    private var padded = false
    private var samples = 0
    private var frames = 0
    private val spectrum = LogPower(config)

    init {
        if (margin > 0) {
            samples = margin * config.hopLength - length % config.hopLength
            signal = FloatArray(samples)
        }
    }

    /** Append mono samples; return the completed blocks, and frames outside of the clip whose windows overlap it. */
    fun push(more: FloatArray): Pair<List<MelBlock>, List<MelBlock>> {
        samples += more.size
        append(more)
        padStart()
        val size = config.blockFrames
        val dropped = if (margin > 0) config.hopLength - 1 else 0 // at most, by finish
        val blocks = ArrayList<MelBlock>()
        val outside = ArrayList<MelBlock>()
        while (padded) {
            val before = max(margin - frames, 0)
            if (signal.size - start - dropped < (before + size - 1) * config.hopLength + config.nFft) break
            if (before > 0) outside.add(take(before))
            blocks.add(take(size))
        }
        return blocks to outside
    }

    /** End the clip: return its last blocks, and frames outside of it whose windows overlap it. */
    fun finish(): Pair<List<MelBlock>, List<MelBlock>> {
        val hop = config.hopLength
        val all: Int
        val length: Int
        if (margin > 0) {
            all = max(samples / hop, margin + MIN_FRAMES)
            length = all * hop
            if (length > samples) signal = FloatArray(length - samples) + signal // the shortest clip
            signal = signal.copyOf(signal.size - max(samples - length, 0))
        } else {
            all = max((samples + hop - 1) / hop, MIN_FRAMES)
            // n_fft zeros behind the clip suffice: no window that overlaps the clip is longer.
            length = min(max(config.paddedSamples, all * hop), all * hop + config.nFft)
            append(FloatArray(length - samples))
        }
        padStart()
        val half = config.nFft / 2
        val last = signal.size - 1
        append(FloatArray(half) { signal[last - 1 - it] })
        val outside = ArrayList<MelBlock>()
        if (frames < margin) outside.add(take(margin - frames))
        val blocks = ArrayList<MelBlock>()
        while (frames < all) blocks.add(take(min(config.blockFrames, all - frames)))
        return blocks to outside + take(length / hop - all)
    }

    fun copy(): LogPowerStream {
        val copy = LogPowerStream(config, length)
        copy.signal = signal // never written to
        copy.start = start
        copy.padded = padded
        copy.samples = samples
        copy.frames = frames
        return copy
    }

    private fun append(more: FloatArray) {
        signal = signal.copyOfRange(start, signal.size) + more
        start = 0
    }

    private fun padStart() {
        val half = config.nFft / 2
        if (padded || signal.size <= half) return
        val before = signal
        signal = FloatArray(half) { before[half - it] } + before
        padded = true
    }

    private fun take(count: Int): MelBlock {
        val block = spectrum.block(signal, start, count)
        start = min(start + count * config.hopLength, signal.size)
        frames += count
        return block
    }
}

/** Windows of a signal to log10 of their mel power. */
private class LogPower(private val config: AudioConfig) {
    private val size = config.nFft
    private val hann = DoubleArray(size) { 0.5 - 0.5 * Math.cos(2 * Math.PI * it / size) }
    private val transform = PowerSpectrum(size)
    private val window = DoubleArray(size)
    private val power = DoubleArray(size / 2 + 1)
    private val filters = MelFilters(config)

    fun block(signal: FloatArray, first: Int, frames: Int): MelBlock {
        val values = FloatArray(config.nMels * frames)
        for (frame in 0 until frames) {
            val start = first + frame * config.hopLength
            for (i in 0 until size) window[i] = signal[start + i] * hann[i]
            transform.compute(window, power)
            for (mel in 0 until config.nMels) {
                values[mel * frames + frame] = log10(max(filters.apply(mel, power), 1e-10)).toFloat()
            }
        }
        return MelBlock(config.nMels, frames, values)
    }
}

/** Area-normalized triangles on Slaney's mel scale; only their non-zero weights are kept. */
private class MelFilters(config: AudioConfig) {
    private val starts = IntArray(config.nMels)
    private val weights: List<DoubleArray>

    init {
        val nyquist = config.sampleRate / 2.0
        val bins = linspace(nyquist, config.nFft / 2 + 1)
        val edges = linspace(hertzToMel(nyquist), config.nMels + 2).map(::melToHertz)
        weights = (0 until config.nMels).map { mel ->
            val (low, middle, high) = edges.subList(mel, mel + 3)
            val triangle = bins.map { max(0.0, min((it - low) / (middle - low), (high - it) / (high - middle))) }
            val scale = 2 / (high - low)
            starts[mel] = triangle.indexOfFirst { it > 0 }.coerceAtLeast(0)
            val end = triangle.indexOfLast { it > 0 } + 1
            DoubleArray(max(end - starts[mel], 0)) { triangle[starts[mel] + it] * scale }
        }
    }

    fun apply(mel: Int, power: DoubleArray): Double {
        var sum = 0.0
        val row = weights[mel]
        for (i in row.indices) sum += row[i] * power[starts[mel] + i]
        return sum
    }

    private fun linspace(end: Double, count: Int) = List(count) { if (it == count - 1) end else it * (end / (count - 1)) }

    private fun hertzToMel(hertz: Double): Double =
        if (hertz < LINEAR_TO) 3 * hertz / 200 else LINEAR_MELS + ln(hertz / LINEAR_TO) * LOG_STEP

    private fun melToHertz(mels: Double): Double =
        if (mels < LINEAR_MELS) 200 * mels / 3 else LINEAR_TO * exp((mels - LINEAR_MELS) / LOG_STEP)

    companion object {
        private const val LINEAR_TO = 1000.0 // hertz; below it the scale is linear, 3 mels per 200 Hz
        private const val LINEAR_MELS = 15.0
        private val LOG_STEP = 27 / ln(6.4)
    }
}
