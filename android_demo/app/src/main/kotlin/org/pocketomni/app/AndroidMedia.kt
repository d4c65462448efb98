/** Decoders of the phone: pictures, sounds and films. */
package org.pocketomni.app

import android.content.Context
import android.graphics.Bitmap
import android.graphics.ColorSpace
import android.graphics.ImageDecoder
import org.pocketomni.app.presenters.MediaFiles
import org.pocketomni.engine.FilmSource
import org.pocketomni.engine.MediaError
import org.pocketomni.engine.OpenFilm
import org.pocketomni.engine.PictureSource
import org.pocketomni.engine.RgbImage
import org.pocketomni.engine.SoundSource
import org.pocketomni.engine.WebpAnimation
import org.pocketomni.engine.rgbImage
import org.pocketomni.engine.rgbImageOfHalves
import java.io.File
import java.io.IOException
import java.nio.ByteBuffer
import java.nio.ByteOrder
import kotlin.math.floor
import kotlin.math.sqrt

class AndroidMedia(private val context: Context) : MediaFiles {
    override fun sound(file: File) = SoundSource { maxSeconds ->
        decodeSound(file, maxSeconds) ?: throw MediaError("${file.name} has no sound")
    }

    override fun picture(file: File) = PictureSource { maxPixels -> decodePicture(file, maxPixels) }

    override fun film(file: File) = object : FilmSource {
        override fun open(): OpenFilm = animation(file) ?: FilmDecoder(file)
    }

    /** Android plays animated WebP, but does not hand out the frames. */
    private fun animation(file: File): OpenFilm? {
        val isWebp = file.inputStream().use { input ->
            val head = ByteArray(WEBP_HEADER)
            input.read(head) == head.size && String(head, Charsets.ISO_8859_1).run { startsWith("RIFF") && endsWith("WEBP") }
        }
        if (!isWebp) return null
        return WebpAnimation.open(file.readBytes()) { still ->
            val bitmap = decode(file, ImageDecoder.createSource(ByteBuffer.wrap(still))) { _, _ -> }
            IntArray(bitmap.width * bitmap.height).also { raw(bitmap).getPixels(it, 0, bitmap.width, 0, 0, bitmap.width, bitmap.height) }
        }
    }

    private fun decodePicture(file: File, maxPixels: Int): RgbImage {
        val bitmap = decode(file, ImageDecoder.createSource(file)) { decoder, info ->
            // a huge picture is scaled while it is decoded, so that it fits into memory
            val pixels = info.size.width.toLong() * info.size.height
            decoder.setTargetSampleSize(maxOf(1, floor(sqrt(pixels.toDouble() / maxPixels)).toInt()))
        }
        if (bitmap.config == Bitmap.Config.RGBA_F16) {
            val halves = ByteBuffer.allocate(bitmap.byteCount).order(ByteOrder.nativeOrder())
            bitmap.copyPixelsToBuffer(halves)
            halves.flip()
            return rgbImageOfHalves(bitmap.width, bitmap.height, halves.asShortBuffer())
        }
        val shown = raw(bitmap)
        return rgbImage(bitmap.width, bitmap.height) { y, row -> shown.getPixels(row, 0, row.size, 0, y, row.size, 1) }
    }

    /** Decode a picture. Android turns it upright by itself. Throws [MediaError]. */
    private fun decode(file: File, source: ImageDecoder.Source, prepare: (ImageDecoder, ImageDecoder.ImageInfo) -> Unit): Bitmap =
        try {
            ImageDecoder.decodeBitmap(source) { decoder, info, _ ->
                decoder.allocator = ImageDecoder.ALLOCATOR_SOFTWARE
                decoder.isUnpremultipliedRequired = true // transparency is blended by the engine
                prepare(decoder, info)
            }
        } catch (error: IOException) {
            throw MediaError("${file.name} is not a picture: ${error.message}")
        } catch (_: OutOfMemoryError) {
            throw MediaError("${file.name} is too large for the memory of this phone")
        }

    /** The bitmap with 8 bits, its pixels as they are in the file: the model knows no color profiles. */
    private fun raw(bitmap: Bitmap): Bitmap {
        val bytes = if (bitmap.config == Bitmap.Config.ARGB_8888) bitmap else bitmap.copy(Bitmap.Config.ARGB_8888, false)
        bytes.setColorSpace(ColorSpace.get(ColorSpace.Named.SRGB))
        return bytes
    }

    private companion object {
        const val WEBP_HEADER = 12
    }
}
