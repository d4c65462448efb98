package org.pocketomni.engine.inputs

import kotlin.math.PI
import kotlin.math.abs
import kotlin.math.ceil
import kotlin.math.max
import kotlin.math.min
import kotlin.math.sin
import kotlin.math.sqrt

/**
 * Streaming change of the sample rate by a windowed sinc: any two rates, linear phase, length ceil(n * to / from).
 *
 * The pass band ends at 0.913 of the lower Nyquist frequency, as with the Python runtime's soxr HQ; what would fold
 * back is 120 dB down.
 */
internal class Resampler(private val from: Int, private val to: Int) {
    private val kernel = if (from == to) null else Kernel.of(min(1.0, to.toDouble() / from))
    private var signal = FloatArray(0)
    private var first = 0L // number of the first sample in `signal`
    private var taken = 0L
    private var given = 0L

    /** Append samples; return those that are complete. */
    fun push(samples: FloatArray): FloatArray {
        taken += samples.size
        if (kernel == null) return samples
        signal += samples
        // Sample k lies at k * from / to and needs `reach` inputs on each side.
        val complete = taken - 1 - kernel.reach
        val end = if (complete < 0) 0 else complete * to / from + 1
        return produce(max(end, given))
    }

    /** Return the rest; behind the end is silence. */
    fun finish(): FloatArray = if (kernel == null) FloatArray(0) else produce((taken * to + from - 1) / from)

    fun copy(): Resampler {
        val copy = Resampler(from, to)
        copy.signal = signal // never written to
        copy.first = first
        copy.taken = taken
        copy.given = given
        return copy
    }

    private fun produce(end: Long): FloatArray {
        val out = FloatArray((end - given).toInt())
        for (i in out.indices) {
            val place = (given + i) * from
            out[i] = kernel!!.at(signal, (place / to - first).toInt(), (place % to).toDouble() / to)
        }
        given = end
        val needed = min(max(given * from / to - kernel!!.reach, first), first + signal.size)
        signal = signal.copyOfRange((needed - first).toInt(), signal.size)
        first = needed
        return out
    }

    /**
     * The filter for [phases] + 1 places between two input samples, a row of 2 * [reach] weights each. Places between
     * are interpolated linearly, which costs 1e-6 of the amplitude.
     */
    private class Kernel(private val cutoff: Double) {
        private val width = TAPS / 2 / cutoff
        val reach: Int = ceil(width).toInt()
        private val phases = (STEPS * cutoff).toInt().coerceAtLeast(64)
        private val rows = Array(phases + 1) { phase ->
            FloatArray(2 * reach) { tap -> weight(tap - reach + 1 - phase.toDouble() / phases) }
        }

        /** The signal between its samples [place] and [place] + 1; outside of the signal is silence. */
        fun at(signal: FloatArray, place: Int, fraction: Double): Float {
            val phase = (fraction * phases).toInt()
            val between = (fraction * phases - phase).toFloat()
            val start = place - reach + 1
            val first = max(0, -start)
            val end = min(2 * reach, signal.size - start)
            val low = product(signal, start, rows[phase], first, end)
            return if (between == 0f) low else low + between * (product(signal, start, rows[phase + 1], first, end) - low)
        }

        /** Four sums at a time, which do not wait for each other. */
        private fun product(signal: FloatArray, start: Int, weights: FloatArray, first: Int, end: Int): Float {
            var a = 0f
            var b = 0f
            var c = 0f
            var d = 0f
            var i = first
            while (i + 3 < end) {
                a += signal[start + i] * weights[i]
                b += signal[start + i + 1] * weights[i + 1]
                c += signal[start + i + 2] * weights[i + 2]
                d += signal[start + i + 3] * weights[i + 3]
                i += 4
            }
            while (i < end) {
                a += signal[start + i] * weights[i]
                i++
            }
            return a + b + (c + d)
        }

        private fun weight(t: Double): Float {
            val distance = abs(t)
            if (distance >= width) return 0f
            return (cutoff * BAND * sinc(t * cutoff * BAND) * kaiser(distance / width)).toFloat()
        }

        private fun sinc(x: Double) = if (x == 0.0) 1.0 else sin(PI * x) / (PI * x)

        private fun kaiser(x: Double) = bessel(BETA * sqrt(max(0.0, 1 - x * x))) / LARGEST

        companion object {
            private const val BETA = 12.3
            private const val TAPS = 180
            private const val BAND = 0.9565 // the middle of the transition, 0.913 to 1
            private const val STEPS = 1024
            private val LARGEST = bessel(BETA)
            private val known = HashMap<Double, Kernel>()

            /** The modified Bessel function I0. */
            private fun bessel(x: Double): Double {
                var sum = 1.0
                var term = 1.0
                var n = 1
                while (term > 1e-18 * sum) {
                    term *= x / (2 * n) * (x / (2 * n))
                    sum += term
                    n++
                }
                return sum
            }

            fun of(cutoff: Double): Kernel = synchronized(known) { known.getOrPut(cutoff) { Kernel(cutoff) } }
        }
    }
}

/** Resample a complete signal. */
internal fun resampled(samples: FloatArray, from: Int, to: Int): FloatArray {
    if (from == to) return samples
    val resampler = Resampler(from, to)
    return resampler.push(samples) + resampler.finish()
}
