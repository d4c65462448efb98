package org.pocketomni.engine

import java.nio.ByteBuffer
import java.nio.ByteOrder
import kotlin.math.max

/** Decodes a still WebP to its pixels in rows: ARGB, 8 bits, not premultiplied. Throws [MediaError]. */
fun interface StillDecoder {
    fun decode(file: ByteArray): IntArray
}

/**
 * An animated WebP as a film. Platforms decode still pictures only, or do not hand over the frames; here the file is
 * taken apart into still ones, and the decoded frames are composed as libwebp does.
 */
class WebpAnimation private constructor(
    private val frames: List<Frame>,
    override val width: Int,
    override val height: Int,
    private val decoder: StillDecoder,
) : OpenFilm {
    /** A frame: where it belongs, how long it is shown, how it is drawn, and a WebP of its own. */
    private class Frame(
        val left: Int, val top: Int, val width: Int, val height: Int,
        val seconds: Double, val blends: Boolean, val disposed: Boolean, val transparent: Boolean, val still: ByteArray,
    ) {
        fun contains(x: Int, y: Int) = x >= left && x < left + width && y >= top && y < top + height

        fun fills(canvasWidth: Int, canvasHeight: Int) = width == canvasWidth && height == canvasHeight
    }

    override val times: FilmTimes
        get() {
            val ends = frames.runningFold(0.0) { end, frame -> end + frame.seconds }
            return FilmTimes(ends.dropLast(1).toDoubleArray(), 0.0, ends.last(), DoubleArray(0))
        }

    override fun decode(visit: (FilmFrame?) -> Boolean) {
        val stamps = times.stamps
        var canvas = IntArray(width * height)
        var before: Frame? = null
        var fresh = true // whether the frame before was drawn on an empty canvas
        frames.forEachIndexed { number, frame ->
            val last = before
            val covers = (!frame.transparent || !frame.blends) && frame.fills(width, height)
            fresh = last == null || covers || (last.disposed && (last.fills(width, height) || fresh))
            val drawn = if (fresh) IntArray(width * height) else canvas.copyOf()
            draw(frame, drawn, last.takeIf { it?.disposed == true }, blend = frame.blends && !fresh)
            if (!visit(Shown(stamps[number], drawn))) return
            canvas = drawn
            if (frame.disposed) canvas = drawn.copyOf().also { clear(frame, it) }
            before = frame
        }
        visit(null)
    }

    /** Nothing of the area of the [disposed] frame is left to blend with. */
    private fun draw(frame: Frame, canvas: IntArray, disposed: Frame?, blend: Boolean) {
        val pixels = decoder.decode(frame.still)
        if (pixels.size != frame.width * frame.height) throw damaged("a frame of another size")
        for (y in 0 until frame.height) for (x in 0 until frame.width) {
            val at = (frame.top + y) * width + frame.left + x
            val pixel = pixels[y * frame.width + x]
            val over = blend && pixel ushr 24 != 255 && disposed?.contains(frame.left + x, frame.top + y) != true
            canvas[at] = if (over) blended(pixel, canvas[at]) else pixel
        }
    }

    private fun clear(frame: Frame, canvas: IntArray) {
        for (y in frame.top until frame.top + frame.height) {
            canvas.fill(0, y * width + frame.left, y * width + frame.left + frame.width)
        }
    }

    private inner class Shown(override val seconds: Double, private val canvas: IntArray) : FilmFrame {
        override fun rgb() = rgbImage(width, height) { y, row -> canvas.copyInto(row, 0, y * width, (y + 1) * width) }
    }

    override fun sound(start: Double, maxSeconds: Double): Samples? = null

    override fun close() = Unit

    companion object {
        private const val SHORTEST = 0.01
        private const val MAX_PIXELS = 1 shl 24
        private const val MAX_FRAMES = 100_000
        private const val CHUNK_HEADER = 8
        private const val FRAME_HEADER = 16

        /** Open an animated WebP; null for a file of another kind. Throws [MediaError] for a damaged one. */
        fun open(file: ByteArray, decoder: StillDecoder): WebpAnimation? {
            val chunks = chunks(ByteBuffer.wrap(file)) ?: return null
            val header = chunks.firstOrNull { it.first == "VP8X" }?.second ?: return null
            val parts = chunks.filter { it.first == "ANMF" }.take(MAX_FRAMES)
            if (parts.isEmpty()) return null
            if (header.remaining() < 10) throw damaged("its header is cut")
            val (width, height) = header.size(4) to header.size(7)
            if (width.toLong() * height > MAX_PIXELS) throw MediaError("the film has frames of $width x $height pixels", "scale it down")
            return WebpAnimation(parts.map { frame(it.second, width, height) }, width, height, decoder)
        }

        private fun frame(chunk: ByteBuffer, canvasWidth: Int, canvasHeight: Int): Frame {
            if (chunk.remaining() < FRAME_HEADER) throw damaged("a frame is cut")
            val (left, top) = 2 * chunk.number(0) to 2 * chunk.number(3)
            val (width, height) = chunk.size(6) to chunk.size(9)
            if (left + width > canvasWidth || top + height > canvasHeight) throw damaged("a frame is outside of the picture")
            val flags = chunk.get(15).toInt()
            val inner = part(chunk, FRAME_HEADER, chunk.limit())
            val chunks = chunks(inner, 0).orEmpty()
            val lossless = chunks.firstOrNull { it.first == "VP8L" }?.second
            val transparent = chunks.any { it.first == "ALPH" } || (lossless != null && lossless.remaining() > 4 && lossless.get(4).toInt() and 0x10 != 0)
            return Frame(
                left, top, width, height, max(chunk.number(12) / 1000.0, SHORTEST),
                blends = flags and 2 == 0, disposed = flags and 1 != 0, transparent, still(width, height, inner, transparent),
            )
        }

        /** A file of one frame: its chunks behind a header. */
        private fun still(width: Int, height: Int, chunks: ByteBuffer, transparent: Boolean): ByteArray {
            val out = ByteBuffer.allocate(12 + 18 + chunks.remaining()).order(ByteOrder.LITTLE_ENDIAN)
            out.put("RIFF".toByteArray()).putInt(out.capacity() - CHUNK_HEADER).put("WEBPVP8X".toByteArray())
            out.putInt(10).putInt(if (transparent) 0x10 else 0)
            for (side in listOf(width - 1, height - 1)) for (shift in 0..16 step 8) out.put((side shr shift).toByte())
            return out.put(chunks.duplicate()).array()
        }

        /** Names and contents of the chunks of a WebP, or of a part of one from [start] on; null for another file. */
        private fun chunks(file: ByteBuffer, start: Int = 12): List<Pair<String, ByteBuffer>>? {
            if (start > 0 && (file.limit() < start || file.name(0) != "RIFF" || file.name(8) != "WEBP")) return null
            val found = ArrayList<Pair<String, ByteBuffer>>()
            var at = start
            while (at + CHUNK_HEADER <= file.limit()) {
                val size = file.order(ByteOrder.LITTLE_ENDIAN).getInt(at + 4)
                if (size < 0) break
                found.add(file.name(at) to part(file, at + CHUNK_HEADER, minOf(at + CHUNK_HEADER.toLong() + size, file.limit().toLong()).toInt()))
                val next = at + CHUNK_HEADER.toLong() + size + size % 2
                if (next > file.limit()) break
                at = next.toInt()
            }
            return found
        }

        private fun part(file: ByteBuffer, start: Int, end: Int): ByteBuffer {
            val view = file.duplicate() as java.nio.Buffer
            view.position(start).limit(end)
            return (view as ByteBuffer).slice()
        }

        private fun ByteBuffer.name(at: Int) = String(ByteArray(4) { get(at + it) }, Charsets.ISO_8859_1)

        /** A number of 24 bits. */
        private fun ByteBuffer.number(at: Int): Int = (0..2).sumOf { (get(at + it).toInt() and 0xff) shl (8 * it) }

        private fun ByteBuffer.size(at: Int): Int = number(at) + 1

        private fun damaged(reason: String) = MediaError("the film is damaged: $reason", "save or download it again")

        /** Blend a pixel over another one. Both are not premultiplied, and so is the result. */
        private fun blended(over: Int, under: Int): Int {
            val alpha = over ushr 24
            if (alpha == 0) return under
            val rest = (under ushr 24) * (256 - alpha) shr 8
            val sum = alpha + rest
            val scale = (1L shl 24) / sum
            var out = sum shl 24
            for (shift in 0..16 step 8) {
                val value = (over shr shift and 0xff) * alpha + (under shr shift and 0xff) * rest
                out = out or ((value * scale shr 24).toInt() shl shift)
            }
            return out
        }
    }
}
