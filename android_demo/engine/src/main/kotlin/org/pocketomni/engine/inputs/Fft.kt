package org.pocketomni.engine.inputs

/** Power spectrum of real signals of [size] samples, an even number, in double precision. */
internal class PowerSpectrum(private val size: Int) {
    private val half = size / 2
    private val factors = factors(half)
    private val cos = DoubleArray(size) { Math.cos(2 * Math.PI * it / size) }
    private val sin = DoubleArray(size) { -Math.sin(2 * Math.PI * it / size) }
    private val inputRe = DoubleArray(half)
    private val inputIm = DoubleArray(half)
    private val re = DoubleArray(half)
    private val im = DoubleArray(half)
    private val workRe = DoubleArray(factors.maxOrNull() ?: 1)
    private val workIm = DoubleArray(workRe.size)

    init {
        require(size % 2 == 0) { "$size samples" }
    }

    /** Write |FFT|^2 of [signal], bins 0 .. size / 2 inclusive, into [power]. */
    fun compute(signal: DoubleArray, power: DoubleArray) {
        // Even samples are the real, odd ones the imaginary part of a transform of half the size.
        for (i in 0 until half) {
            inputRe[i] = signal[2 * i]
            inputIm[i] = signal[2 * i + 1]
        }
        transform(half, 1, 0, 0, 0)
        for (k in 0..half) {
            val a = k % half
            val b = (half - k) % half
            val evenRe = (re[a] + re[b]) / 2
            val evenIm = (im[a] - im[b]) / 2
            val oddRe = (im[a] + im[b]) / 2
            val oddIm = (re[b] - re[a]) / 2
            val c = cos[k]
            val s = sin[k]
            val x = evenRe + oddRe * c - oddIm * s
            val y = evenIm + oddRe * s + oddIm * c
            power[k] = x * x + y * y
        }
    }

    /** Transform [n] inputs from [from] on, [stride] apart, into outputs from [to] on: mixed radix, decimation in time. */
    private fun transform(n: Int, stride: Int, from: Int, to: Int, level: Int) {
        if (n == 1) {
            re[to] = inputRe[from]
            im[to] = inputIm[from]
            return
        }
        val radix = factors[level]
        val part = n / radix
        for (r in 0 until radix) transform(part, stride * radix, from + r * stride, to + r * part, level + 1)
        val turn = size / n // of the table's angles for one n-th of a circle
        for (k in 0 until part) {
            for (r in 0 until radix) {
                val at = to + r * part + k
                val w = r * k * turn
                workRe[r] = re[at] * cos[w] - im[at] * sin[w]
                workIm[r] = re[at] * sin[w] + im[at] * cos[w]
            }
            for (q in 0 until radix) {
                var sumRe = workRe[0]
                var sumIm = workIm[0]
                for (r in 1 until radix) {
                    val w = q * r % radix * (size / radix)
                    sumRe += workRe[r] * cos[w] - workIm[r] * sin[w]
                    sumIm += workRe[r] * sin[w] + workIm[r] * cos[w]
                }
                re[to + q * part + k] = sumRe
                im[to + q * part + k] = sumIm
            }
        }
    }

    private fun factors(n: Int): IntArray {
        val found = IntList()
        var rest = n
        var factor = 4
        while (rest > 1) {
            while (rest % factor == 0) {
                found.add(factor)
                rest /= factor
            }
            factor = if (factor == 4) 2 else if (factor == 2) 3 else factor + 2
        }
        return found.toArray()
    }
}
