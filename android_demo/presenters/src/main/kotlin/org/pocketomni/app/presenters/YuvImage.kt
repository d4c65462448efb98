/** Pictures of the camera and of films, from planes of luminance and color to RGB. */
package org.pocketomni.app.presenters

import org.pocketomni.engine.RgbImage
import java.nio.ByteBuffer

/** One plane of an image: rows are [rowStride] bytes apart, pixels [pixelStride]. */
class Plane(val bytes: ByteBuffer, val rowStride: Int, val pixelStride: Int)

/** The part of an image that is shown. */
data class Crop(val left: Int, val top: Int, val width: Int, val height: Int)

/**
 * An image of 8 bits in YUV 4:2:0: [y] in full size, [u] and [v] in half of it. [fullRange] is whether luminance goes
 * from 0 to 255, and not from 16 to 235. [bt709] selects the color matrix of HD films instead of BT.601.
 */
class YuvImage(
    private val y: Plane,
    private val u: Plane,
    private val v: Plane,
    private val crop: Crop,
    private val fullRange: Boolean = false,
    private val bt709: Boolean = false,
) {
    /** Return the image in RGB, turned clockwise by [degrees]: 0, 90, 180 or 270. */
    fun rgb(degrees: Int = 0): RgbImage {
        val sideways = degrees % 180 != 0
        val width = if (sideways) crop.height else crop.width
        val height = if (sideways) crop.width else crop.height
        val out = ByteArray(width * height * 3)
        for (row in 0 until crop.height) {
            for (column in 0 until crop.width) {
                val at = when (degrees) {
                    0 -> row * width + column
                    90 -> column * width + (width - 1 - row)
                    180 -> (height - 1 - row) * width + (width - 1 - column)
                    else -> (height - 1 - column) * width + row
                }
                convert(crop.top + row, crop.left + column, out, 3 * at)
            }
        }
        return RgbImage(width, height, out)
    }

    private val kr = if (bt709) 0.2126 else 0.299
    private val kb = if (bt709) 0.0722 else 0.114
    private val lumaScale = if (fullRange) 1.0 else 255.0 / 219
    private val chromaScale = if (fullRange) 1.0 else 255.0 / 224
    private val floor = if (fullRange) 0 else 16
    private val red = chromaScale * 2 * (1 - kr)
    private val blue = chromaScale * 2 * (1 - kb)
    private val greenU = blue * kb / (1 - kr - kb)
    private val greenV = red * kr / (1 - kr - kb)

    private fun convert(row: Int, column: Int, out: ByteArray, at: Int) {
        val luma = (y.at(row, column) - floor) * lumaScale
        val blueness = u.at(row / 2, column / 2) - 128
        val redness = v.at(row / 2, column / 2) - 128
        out[at] = byte(luma + red * redness)
        out[at + 1] = byte(luma - greenU * blueness - greenV * redness)
        out[at + 2] = byte(luma + blue * blueness)
    }

    private fun Plane.at(row: Int, column: Int): Int = bytes.get(row * rowStride + column * pixelStride).toInt() and 0xFF

    private fun byte(value: Double): Byte = Math.round(value).coerceIn(0, 255).toByte()
}
