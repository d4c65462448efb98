package org.pocketomni.app.presenters

import org.junit.Assert.assertEquals
import org.junit.Test
import org.pocketomni.engine.RgbImage
import java.nio.ByteBuffer

class PictureTest {
    private fun plane(vararg values: Int, row: Int, pixel: Int = 1) =
        Plane(ByteBuffer.wrap(ByteArray(values.size) { values[it].toByte() }), row, pixel)

    private fun RgbImage.pixel(x: Int, y: Int) = (0 until 3).map { rgb[(y * width + x) * 3 + it].toInt() and 0xFF }

    private fun flat(y: Int, u: Int, v: Int, fullRange: Boolean, bt709: Boolean) =
        YuvImage(plane(y, y, y, y, row = 2), plane(u, row = 1), plane(v, row = 1), Crop(0, 0, 2, 2), fullRange, bt709)
            .rgb().pixel(1, 1)

    @Test
    fun colorsFollowTheStandards() {
        assertEquals(listOf(0, 0, 0), flat(16, 128, 128, fullRange = false, bt709 = false))
        assertEquals(listOf(255, 255, 255), flat(235, 128, 128, fullRange = false, bt709 = false))
        assertEquals(listOf(128, 128, 128), flat(128, 128, 128, fullRange = true, bt709 = false))
        // red of BT.601 and of BT.709 in the limited range
        assertEquals(listOf(254, 0, 0), flat(81, 90, 240, fullRange = false, bt709 = false))
        assertEquals(listOf(255, 0, 0), flat(63, 102, 240, fullRange = false, bt709 = true).map { if (it < 2) 0 else it })
        // blue in the full range of JPEG
        assertEquals(listOf(0, 0, 254), flat(29, 255, 107, fullRange = true, bt709 = false).map { if (it < 2) 0 else it })
    }

    @Test
    fun turnsAndCropsAndFollowsStrides() {
        // 4 x 2 pixels in rows of 6 bytes; the left column is cut
        val y = plane(9, 10, 20, 30, 0, 0, 9, 40, 50, 60, 0, 0, row = 6)
        val gray = plane(128, 0, 128, 0, row = 4, pixel = 2)
        val image = YuvImage(y, gray, gray, Crop(1, 0, 3, 2), fullRange = true)
        fun rows(degrees: Int) = image.rgb(degrees).run {
            (0 until height).map { row -> (0 until width).map { pixel(it, row).first() } }
        }
        assertEquals(listOf(listOf(10, 20, 30), listOf(40, 50, 60)), rows(0))
        assertEquals(listOf(listOf(40, 10), listOf(50, 20), listOf(60, 30)), rows(90))
        assertEquals(listOf(listOf(60, 50, 40), listOf(30, 20, 10)), rows(180))
        assertEquals(listOf(listOf(30, 60), listOf(20, 50), listOf(10, 40)), rows(270))
    }
}
