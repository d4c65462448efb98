/** numpy's random numbers: PCG64 for draws, so that a seed gives what it gives in Python, and Philox for noise. */
package org.pocketomni.engine.graphs

import kotlin.math.exp
import kotlin.math.ln
import kotlin.math.ln1p
import kotlin.math.sqrt

/** The upper half of the product of two unsigned 64-bit numbers. (Math.multiplyHigh is newer than Android 10.) */
internal fun multiplyHigh(a: Long, b: Long): Long {
    val low = 0xffffffffL
    val middle = (a ushr 32) * (b and low) + ((a and low) * (b and low) ushr 32)
    val other = (a and low) * (b ushr 32) + (middle and low)
    return (a ushr 32) * (b ushr 32) + (middle ushr 32) + (other ushr 32)
}

/** numpy's default generator with the seed `[seed, stream]`: PCG64 behind a SeedSequence. */
internal class Pcg64(seed: Long, stream: Long) {
    private var high = 0L
    private var low = 0L
    private val incrementHigh: Long
    private val incrementLow: Long

    init {
        val words = SeedWords(words(seed) + words(stream)).words(4)
        incrementHigh = (words[2] shl 1) or (words[3] ushr 63)
        incrementLow = (words[3] shl 1) or 1
        step()
        add(words[0], words[1])
        step()
    }

    /** An id drawn from probabilities. */
    fun choice(probabilities: DoubleArray): Int {
        val total = probabilities.sum()
        val wanted = uniform()
        var sum = 0.0
        for (i in probabilities.indices) {
            sum += probabilities[i]
            if (sum / total > wanted) return i
        }
        return probabilities.size - 1
    }

    private fun uniform(): Double {
        step()
        val mixed = high xor low
        val turned = java.lang.Long.rotateRight(mixed, (high ushr 58).toInt())
        return (turned ushr 11) * (1.0 / (1L shl 53))
    }

    private fun step() {
        val newLow = low * MULTIPLIER_LOW
        high = multiplyHigh(low, MULTIPLIER_LOW) + high * MULTIPLIER_LOW + low * MULTIPLIER_HIGH
        low = newLow
        add(incrementHigh, incrementLow)
    }

    private fun add(otherHigh: Long, otherLow: Long) {
        val sum = low + otherLow
        high += otherHigh + if (java.lang.Long.compareUnsigned(sum, low) < 0) 1 else 0
        low = sum
    }

    private fun words(number: Long): List<Int> =
        if (number ushr 32 == 0L) listOf(number.toInt()) else listOf(number.toInt(), (number ushr 32).toInt())

    private companion object {
        const val MULTIPLIER_HIGH = 0x2360ED051FC65DA4L
        const val MULTIPLIER_LOW = 0x4385DF649FCCF645L
    }
}

/** numpy's SeedSequence: spreads a few words over a pool of four. */
private class SeedWords(entropy: List<Int>) {
    private val pool = IntArray(4)
    private var hash = 0x43b0d7e5

    init {
        for (i in pool.indices) pool[i] = hashed(entropy.getOrElse(i) { 0 })
        for (from in pool.indices) for (to in pool.indices) if (from != to) pool[to] = mixed(pool[to], hashed(pool[from]))
        for (i in pool.size until entropy.size) for (to in pool.indices) pool[to] = mixed(pool[to], hashed(entropy[i]))
    }

    /** [count] numbers of 64 bits. */
    fun words(count: Int): LongArray {
        var hash = 0x8b51f9dd.toInt()
        val halves = IntArray(2 * count) { i ->
            var value = pool[i % pool.size] xor hash
            hash *= 0x58f38ded
            value *= hash
            value xor (value ushr 16)
        }
        return LongArray(count) { (halves[2 * it].toLong() and 0xffffffffL) or (halves[2 * it + 1].toLong() shl 32) }
    }

    private fun hashed(word: Int): Int {
        var value = word xor hash
        hash *= 0x931e8875.toInt()
        value *= hash
        return value xor (value ushr 16)
    }

    private fun mixed(x: Int, y: Int): Int {
        val value = 0xca01f9dd.toInt() * x - 0x4973f715 * y
        return value xor (value ushr 16)
    }
}

/** Standard normal noise of one block: numpy's Philox4x64-10 and ziggurat (docs/bundle.md, section 12). */
internal class BlockNoise(private val seed: Long, block: Long) {
    private val counter = longArrayOf(0, 0, 0, block)
    private val words = IntArray(8)
    private var used = words.size

    fun fill(out: FloatArray, start: Int, count: Int) {
        for (i in start until start + count) out[i] = normal()
    }

    private fun normal(): Float {
        while (true) {
            val r = next()
            val i = r and 255
            val negative = r ushr 8 and 1 == 1
            val m = r ushr 9
            val v = (m * Ziggurat.w[i]).let { if (negative) -it else it }
            if (m < Ziggurat.border[i]) return v
            if (i == 0) return tail(m)
            val f = (Ziggurat.f[i - 1] - Ziggurat.f[i]) * uniform() + Ziggurat.f[i]
            if (f < exp(-0.5 * v * v)) return v
        }
    }

    private fun tail(m: Int): Float {
        while (true) {
            val a = INVERSE_R * log1pOfNegated(uniform())
            val b = -log1pOfNegated(uniform())
            if (b + b > a * a) return if (m ushr 8 and 1 == 1) -(R.toFloat() + a) else R.toFloat() + a
        }
    }

    private fun log1pOfNegated(u: Float): Float = ln1p(-u.toDouble()).toFloat()

    private fun uniform(): Float = (next() ushr 8) * (1f / (1 shl 24))

    private fun next(): Int {
        if (used == words.size) {
            counter[0]++
            philox()
            used = 0
        }
        return words[used++]
    }

    private fun philox() {
        var (c0, c1, c2, c3) = counter
        var k0 = seed
        var k1 = 0L
        repeat(10) {
            val h0 = multiplyHigh(M0, c0)
            val l0 = M0 * c0
            val h1 = multiplyHigh(M1, c2)
            val l1 = M1 * c2
            c0 = h1 xor c1 xor k0
            c1 = l1
            c2 = h0 xor c3 xor k1
            c3 = l0
            k0 += 0x9E3779B97F4A7C15uL.toLong()
            k1 += 0xBB67AE8584CAA73BuL.toLong()
        }
        listOf(c0, c1, c2, c3).forEachIndexed { i, word ->
            words[2 * i] = word.toInt()
            words[2 * i + 1] = (word ushr 32).toInt()
        }
    }

    private companion object {
        const val R = 3.6541528853610088
        const val INVERSE_R = (-1 / R).toFloat()
        val M0 = 0xD2E7470EE14C6C93uL.toLong()
        val M1 = 0xCA5A826395121157uL.toLong()
    }
}

/** Tables of the ziggurat of 256 layers. */
private object Ziggurat {
    val w = FloatArray(256)
    val f = FloatArray(256)
    val border = IntArray(256)

    init {
        val r = 3.6541528853610088
        val area = 0.00492867323399141
        val x = DoubleArray(256)
        x[255] = r
        for (i in 254 downTo 1) x[i] = sqrt(-2 * ln(area / x[i + 1] + exp(-x[i + 1] * x[i + 1] / 2)))
        x[0] = area / exp(-r * r / 2)
        val scale = (1 shl 23).toDouble()
        for (i in 0..255) {
            w[i] = (x[i] / scale).toFloat()
            f[i] = if (i == 0) 1f else exp(-x[i] * x[i] / 2).toFloat()
            border[i] = when (i) {
                0 -> (r / x[0] * scale).toInt()
                1 -> 0
                else -> (x[i - 1] / x[i] * scale).toInt()
            }
        }
    }
}

/** Noise by seed and block number: [size] values a block. */
internal fun seededNoise(seed: Long, size: Int): (first: Int, count: Int) -> FloatArray = { first, count ->
    FloatArray(count * size).also { out ->
        for (i in 0 until count) BlockNoise(seed, (first + i).toLong()).fill(out, i * size, size)
    }
}
