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
import org.pocketomni.engine.FilmFrame
import org.pocketomni.engine.FilmTimes
import org.pocketomni.engine.MediaClock
import org.pocketomni.engine.MediaError
import org.pocketomni.engine.OpenFilm
import org.pocketomni.engine.RgbImage
import org.pocketomni.engine.Samples
import java.io.File

internal class FilmDecoder(private val file: File) : OpenFilm {
    private val track = MediaTrack.open(file, "video/") ?: throw MediaError("${file.name} has no pictures")
    private val rotation = track.format.integer(MediaFormat.KEY_ROTATION) ?: 0
    private val sideways = rotation % 180 != 0
    private val codedWidth = track.format.getInteger(MediaFormat.KEY_WIDTH)
    private val codedHeight = track.format.getInteger(MediaFormat.KEY_HEIGHT)

    override val width = if (sideways) codedHeight else codedWidth
    override val height = if (sideways) codedWidth else codedHeight

    override val times = FilmTimes.of(
        track.stamps(),
        MediaTrack.open(file, "audio/")?.use { it.firstStamp() },
        track.seconds.takeIf { track.container in STATES_LENGTH_OF_TRACK }, // others state that of the file
        track.format.integer(MediaFormat.KEY_FRAME_RATE)?.toDouble(),
    )

    override fun decode(visit: (FilmFrame?) -> Boolean) {
        track.decode(FrameReader(track.clock(), rotation, visit)) { format ->
            format.setInteger(MediaFormat.KEY_COLOR_FORMAT, MediaCodecInfo.CodecCapabilities.COLOR_FormatYUV420Flexible)
            // the frames are turned after they were selected
            format.setInteger(MediaFormat.KEY_ROTATION, 0)
        }
    }

    override fun sound(start: Double, maxSeconds: Double): Samples? = decodeSound(file, maxSeconds, start)

    override fun close() = track.close()

    private companion object {
        val STATES_LENGTH_OF_TRACK = setOf("video/mp4", "video/quicktime", "video/3gpp")
    }
}

private fun MediaFormat.integer(name: String): Int? = if (containsKey(name)) getInteger(name) else null

/** Hands out the frames, which come in the order in which they are shown. */
private class FrameReader(
    private val clock: MediaClock,
    private val rotation: Int,
    private val visit: (FilmFrame?) -> Boolean,
) : TrackSink {
    private var fullRange = false
    private var bt709 = false

    override fun format(format: MediaFormat) {
        fullRange = format.integer(MediaFormat.KEY_COLOR_RANGE) == MediaFormat.COLOR_RANGE_FULL
        bt709 = format.integer(MediaFormat.KEY_COLOR_STANDARD) == MediaFormat.COLOR_STANDARD_BT709
    }

    override fun output(codec: MediaCodec, index: Int, info: MediaCodec.BufferInfo): Boolean {
        val (full, hd) = fullRange to bt709 // those of the next frame may be others
        return visit(object : FilmFrame {
            override val seconds = clock.seconds(info.presentationTimeUs / MediaTrack.MICROSECONDS)

            override fun rgb(): RgbImage = codec.getOutputImage(index)?.use { it.yuv(full, hd).rgb(rotation) }
                ?: throw MediaError("the decoder does not give the pictures of this film")
        })
    }

    override fun end() {
        visit(null)
    }
}

/** Return the planes of an image. They are valid until it is closed. */
internal fun Image.yuv(fullRange: Boolean, bt709: Boolean): YuvImage {
    val (y, u, v) = planes.map { Plane(it.buffer, it.rowStride, it.pixelStride) }
    val shown = cropRect ?: Rect(0, 0, width, height)
    return YuvImage(y, u, v, Crop(shown.left, shown.top, shown.width(), shown.height()), fullRange, bt709)
}
