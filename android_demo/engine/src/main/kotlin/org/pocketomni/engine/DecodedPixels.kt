/** Pixels as the decoders of a platform give them, as the images of a model: opaque, 8 bits. */
package org.pocketomni.engine

import java.nio.ShortBuffer

private const val OPAQUE = 255
private const val DEEPEST = 65535

/**
 * Return the image of which [read] writes row `y` into an array of [width] pixels: ARGB, 8 bits, not premultiplied.
 * Transparent areas are white.
 */
fun rgbImage(width: Int, height: Int, read: (y: Int, row: IntArray) -> Unit): RgbImage {
    val row = IntArray(width)
    val out = ByteArray(width * height * 3)
    var at = 0
    for (y in 0 until height) {
        read(y, row)
        for (pixel in row) {
            val alpha = pixel ushr 24
            for (shift in 16 downTo 0 step 8) out[at++] = onWhite(pixel shr shift and 0xff, alpha).toByte()
        }
    }
    return RgbImage(width, height, out)
}

/** Blend a value of 8 bits with white, rounded as Pillow does. */
private fun onWhite(value: Int, alpha: Int): Int {
    if (alpha == OPAQUE) return value
    val sum = value * alpha + OPAQUE * (OPAQUE - alpha) + 128
    return sum + (sum shr 8) shr 8
}

/**
 * Return an image from [rgba]: four half-precision numbers a pixel, 0 to 1, not premultiplied. That is what Android
 * makes of pictures of 16 bits. Transparent areas are white. In an opaque gray picture whose 16 bits are all below
 * 256 they are taken for 8, as in Pillow.
 */
fun rgbImageOfHalves(width: Int, height: Int, rgba: ShortBuffer): RgbImage {
    val scale = if (isShallowGray(width * height, rgba)) DEEPEST else OPAQUE
    fun byte(at: Int) = Math.rint(half(rgba[at]) * scale.toDouble()).toInt().coerceIn(0, OPAQUE)
    return rgbImage(width, height) { y, row ->
        for (x in 0 until width) {
            val at = 4 * (y * width + x)
            val alpha = Math.rint(half(rgba[at + 3]) * OPAQUE.toDouble()).toInt().coerceIn(0, OPAQUE)
            row[x] = alpha shl 24 or (byte(at) shl 16) or (byte(at + 1) shl 8) or byte(at + 2)
        }
    }
}

private fun isShallowGray(pixels: Int, rgba: ShortBuffer): Boolean = (0 until pixels).all { pixel ->
    val red = rgba[4 * pixel]
    val opaque = half(rgba[4 * pixel + 3]) == 1f
    opaque && red == rgba[4 * pixel + 1] && red == rgba[4 * pixel + 2] && Math.rint(half(red) * DEEPEST.toDouble()) <= OPAQUE
}

/** The value of a half-precision number that is finite. */
private fun half(bits: Short): Float {
    val exponent = bits.toInt() shr 10 and 0x1f
    val mantissa = bits.toInt() and 0x3ff
    val size = if (exponent == 0) Math.scalb(mantissa.toFloat(), -24) else Math.scalb((mantissa + 1024).toFloat(), exponent - 25)
    return if (bits < 0) -size else size
}
