/** Pillow's bicubic resizing, to the last bit (docs/bundle.md, section 9), and the sizes of pictures. */
package org.pocketomni.engine.inputs

import org.pocketomni.engine.MediaError
import org.pocketomni.engine.RgbImage
import kotlin.math.abs
import kotlin.math.ceil
import kotlin.math.floor
import kotlin.math.max
import kotlin.math.min
import kotlin.math.round
import kotlin.math.sqrt

internal data class Size(val height: Int, val width: Int)

/**
 * Return the nearest size in multiples of [factor] whose area is within [least] and [most] pixels.
 *
 * Throws [MediaError] when one side is more than 200 times the other.
 */
internal fun smartResize(height: Int, width: Int, factor: Int, least: Int, most: Double): Size {
    if (max(height, width) > 200L * min(height, width)) {
        throw MediaError("a picture of $width x $height pixels exceeds the aspect ratio of 200 : 1", "crop it")
    }
    val rows = round(height.toDouble() / factor) * factor
    val columns = round(width.toDouble() / factor) * factor
    val area = height.toDouble() * width
    if (rows * columns > most) {
        val shrink = sqrt(area / most)
        fun side(one: Int) = max(factor.toDouble(), floor(one / shrink / factor) * factor).toInt()
        return Size(side(height), side(width))
    }
    if (rows * columns < least) {
        val grow = sqrt(least / area)
        fun side(one: Int) = (ceil(one * grow / factor) * factor).toInt()
        return Size(side(height), side(width))
    }
    return Size(rows.toInt(), columns.toInt())
}

/** Resize an image: along rows first, then along columns, each rounded to 8 bits. */
internal fun resize(image: RgbImage, size: Size): RgbImage {
    val wide = if (image.width == size.width) image else alongRows(image, size.width)
    return if (wide.height == size.height) wide else alongColumns(wide, size.height)
}

private const val BITS = 22
private const val HALF = 1 shl (BITS - 1)

/** First input and integer weights of each output of one axis. */
private class Taps(size: Int, wanted: Int) {
    val starts = IntArray(wanted)
    val weights: Array<IntArray>

    init {
        val scale = size.toDouble() / wanted
        val f = max(scale, 1.0)
        weights = Array(wanted) { output ->
            val center = (output + 0.5) * scale
            val start = max((center - 2 * f + 0.5).toInt(), 0)
            val stop = min((center + 2 * f + 0.5).toInt(), size)
            starts[output] = start
            val exact = DoubleArray(stop - start) { bicubic((start + it - center + 0.5) * (1 / f)) }
            val sum = exact.sum()
            IntArray(exact.size) { integer(if (sum == 0.0) exact[it] else exact[it] / sum) }
        }
    }

    private fun integer(weight: Double): Int {
        val scaled = weight * (1 shl BITS)
        return (if (scaled < 0) scaled - 0.5 else scaled + 0.5).toInt()
    }

    private fun bicubic(x: Double): Double {
        val d = abs(x)
        return when {
            d < 1 -> ((1.5 * d) - 2.5) * d * d + 1
            d < 2 -> (((d - 5) * d + 8) * d - 4) * -0.5
            else -> 0.0
        }
    }
}

private fun clipped(sum: Int): Byte = (sum shr BITS).coerceIn(0, 255).toByte()

private fun alongRows(image: RgbImage, width: Int): RgbImage {
    val taps = Taps(image.width, width)
    val source = image.rgb
    val out = ByteArray(image.height * width * 3)
    for (row in 0 until image.height) {
        for (column in 0 until width) {
            val weights = taps.weights[column]
            var at = (row * image.width + taps.starts[column]) * 3
            var red = HALF
            var green = HALF
            var blue = HALF
            for (weight in weights) {
                red += weight * (source[at].toInt() and 0xff)
                green += weight * (source[at + 1].toInt() and 0xff)
                blue += weight * (source[at + 2].toInt() and 0xff)
                at += 3
            }
            val to = (row * width + column) * 3
            out[to] = clipped(red)
            out[to + 1] = clipped(green)
            out[to + 2] = clipped(blue)
        }
    }
    return RgbImage(width, image.height, out)
}

private fun alongColumns(image: RgbImage, height: Int): RgbImage {
    val taps = Taps(image.height, height)
    val source = image.rgb
    val line = image.width * 3
    val out = ByteArray(height * line)
    val sums = IntArray(line)
    for (row in 0 until height) {
        sums.fill(HALF)
        taps.weights[row].forEachIndexed { i, weight ->
            val from = (taps.starts[row] + i) * line
            for (x in 0 until line) sums[x] += weight * (source[from + x].toInt() and 0xff)
        }
        for (x in 0 until line) out[row * line + x] = clipped(sums[x])
    }
    return RgbImage(image.width, height, out)
}
