/** Decoders of the phone: pictures, sounds and films. */
package org.pocketomni.app

import android.content.Context
import android.graphics.Bitmap
import android.graphics.ImageDecoder
import org.pocketomni.app.presenters.MediaFiles
import org.pocketomni.engine.FilmSource
import org.pocketomni.engine.MediaError
import org.pocketomni.engine.OpenFilm
import org.pocketomni.engine.PictureSource
import org.pocketomni.engine.RgbImage
import org.pocketomni.engine.SoundSource
import java.io.File
import java.io.IOException
import kotlin.math.floor
import kotlin.math.sqrt

class AndroidMedia(private val context: Context) : MediaFiles {
    override fun sound(file: File) = SoundSource { maxSeconds ->
        decodeSound(file, maxSeconds) ?: throw MediaError("${file.name} has no sound")
    }

    override fun picture(file: File) = PictureSource { maxPixels -> decodePicture(file, maxPixels) }

    override fun film(file: File) = object : FilmSource {
        override fun open(): OpenFilm = FilmDecoder(file)
    }

    private fun decodePicture(file: File, maxPixels: Int): RgbImage {
        val decoded = try {
            ImageDecoder.decodeBitmap(ImageDecoder.createSource(file)) { decoder, info, _ ->
                decoder.allocator = ImageDecoder.ALLOCATOR_SOFTWARE
                // like an image without transparency
                decoder.isUnpremultipliedRequired = true
                // a huge picture is scaled while it is decoded, so that it fits into memory
                val pixels = info.size.width.toLong() * info.size.height
                decoder.setTargetSampleSize(maxOf(1, floor(sqrt(pixels.toDouble() / maxPixels)).toInt()))
            }
        } catch (error: IOException) {
            throw MediaError("${file.name} is not a picture: ${error.message}")
        } catch (_: OutOfMemoryError) {
            throw MediaError("${file.name} is too large for the memory of this phone")
        }
        val bitmap = if (decoded.config == Bitmap.Config.ARGB_8888) decoded else decoded.copy(Bitmap.Config.ARGB_8888, false)
        return rgb(bitmap)
    }

    private fun rgb(bitmap: Bitmap): RgbImage {
        val (width, height) = bitmap.width to bitmap.height
        val row = IntArray(width)
        val out = ByteArray(width * height * 3)
        var at = 0
        for (y in 0 until height) {
            bitmap.getPixels(row, 0, width, 0, y, width, 1)
            for (pixel in row) {
                out[at++] = (pixel shr 16).toByte()
                out[at++] = (pixel shr 8).toByte()
                out[at++] = pixel.toByte()
            }
        }
        return RgbImage(width, height, out)
    }
}
