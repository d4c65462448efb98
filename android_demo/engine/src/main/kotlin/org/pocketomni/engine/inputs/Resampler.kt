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

    /** The filter at [STEPS] points an input sample, interpolated linearly, which costs 1e-6 of the amplitude. */
    private class Kernel(private val cutoff: Double) {
        val reach: Int
        private val table: FloatArray

        init {
            val width = TAPS / 2 / cutoff
            reach = ceil(width).toInt()
            val steps = (STEPS * cutoff).toInt().coerceAtLeast(64)
            table = FloatArray(reach * steps + 2) { i ->
                val t = i.toDouble() / steps
                if (t >= width) 0f else (cutoff * BAND * sinc(t * cutoff * BAND) * kaiser(t / width)).toFloat()
            }
        }

        private val steps = (STEPS * cutoff).toInt().coerceAtLeast(64)

        /** The signal between its samples [place] and [place] + 1. */
        fun at(signal: FloatArray, place: Int, fraction: Double): Float {
            var sum = 0.0
            for (i in max(place - reach + 1, 0)..min(place + reach, signal.size - 1)) {
                val t = abs(i - place - fraction) * steps
                val low = t.toInt()
                if (low + 1 >= table.size) continue
                val weight = table[low] + (table[low + 1] - table[low]) * (t - low)
                sum += signal[i] * weight
            }
            return sum.toFloat()
        }

        private fun sinc(x: Double) = if (x == 0.0) 1.0 else sin(PI * x) / (PI * x)

        private fun kaiser(x: Double) = bessel(BETA * sqrt(max(0.0, 1 - x * x))) / bessel(BETA)

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

        companion object {
            private const val BETA = 12.3
            private const val TAPS = 180
            private const val BAND = 0.9565 // the middle of the transition, 0.913 to 1
            private const val STEPS = 1024
            private val known = HashMap<Double, Kernel>()

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
