/** Frames and sound of a film file. */
package org.pocketomni.app

import android.graphics.Rect
import android.media.Image
import android.media.MediaCodec
import android.media.MediaCodecInfo
import android.media.MediaFormat
import org.pocketomni.app.presenters.Crop
import org.pocketomni.app.presenters.Plane
import org.pocketomni.app.presenters.YuvImage
import org.pocketomni.engine.MediaError
import org.pocketomni.engine.OpenFilm
import org.pocketomni.engine.RgbImage
import org.pocketomni.engine.Samples
import java.io.File

internal class FilmDecoder(private val file: File) : OpenFilm {
    private val track = MediaTrack.open(file, "video/") ?: throw MediaError("${file.name} has no pictures")
    private val times = track.times()
    private val rotation = track.format.integer(MediaFormat.KEY_ROTATION) ?: 0
    private val sideways = rotation % 180 != 0
    private val codedWidth = track.format.getInteger(MediaFormat.KEY_WIDTH)
    private val codedHeight = track.format.getInteger(MediaFormat.KEY_HEIGHT)

    override val frames = times.size
    override val width = if (sideways) codedHeight else codedWidth
    override val height = if (sideways) codedWidth else codedHeight

    override val rate: Double
        get() {
            // the last frame is shown as long as the others are on average
            val seconds = if (frames < 2) 0.0 else (times.last() - times.first()) / 1e6 * frames / (frames - 1)
            if (seconds <= 0) throw MediaError("${file.name} is a film of $frames frames in $seconds s")
            return frames / seconds
        }

    override fun read(numbers: IntArray, sink: (RgbImage) -> Unit) {
        val reader = FrameReader(numbers, rotation, sink)
        track.decode(reader) { format ->
            format.setInteger(MediaFormat.KEY_COLOR_FORMAT, MediaCodecInfo.CodecCapabilities.COLOR_FormatYUV420Flexible)
            // the frames are turned after they were selected
            format.setInteger(MediaFormat.KEY_ROTATION, 0)
        }
        if (!reader.complete) throw MediaError("${file.name} ends before frame ${numbers[reader.taken]}")
    }

    override fun sound(maxSeconds: Double): Samples? = decodeSound(file, maxSeconds)

    override fun close() = track.close()
}

private fun MediaFormat.integer(name: String): Int? = if (containsKey(name)) getInteger(name) else null

/** Converts the selected frames, which come in the order in which they are shown. */
private class FrameReader(
    private val numbers: IntArray,
    private val rotation: Int,
    private val sink: (RgbImage) -> Unit,
) : TrackSink {
    private var frame = 0
    private var fullRange = false
    private var bt709 = false

    /** How many frames were handed out. */
    var taken = 0
        private set

    val complete: Boolean get() = taken == numbers.size

    override fun format(format: MediaFormat) {
        fullRange = format.integer(MediaFormat.KEY_COLOR_RANGE) == MediaFormat.COLOR_RANGE_FULL
        bt709 = format.integer(MediaFormat.KEY_COLOR_STANDARD) == MediaFormat.COLOR_STANDARD_BT709
    }

    override fun output(codec: MediaCodec, index: Int, info: MediaCodec.BufferInfo): Boolean {
        // a number may be given more than once
        var image: RgbImage? = null
        while (!complete && numbers[taken] == frame) {
            image = image ?: codec.getOutputImage(index)?.use { rgb(it) }
                ?: throw MediaError("the decoder does not give the pictures of this film")
            sink(image)
            taken++
        }
        frame++
        return !complete
    }

    private fun rgb(image: Image): RgbImage = image.yuv(fullRange, bt709).rgb(rotation)
}

/** Return the planes of an image. They are valid until it is closed. */
internal fun Image.yuv(fullRange: Boolean, bt709: Boolean): YuvImage {
    val (y, u, v) = planes.map { Plane(it.buffer, it.rowStride, it.pixelStride) }
    val shown = cropRect ?: Rect(0, 0, width, height)
    return YuvImage(y, u, v, Crop(shown.left, shown.top, shown.width(), shown.height()), fullRange, bt709)
}
