/** Sounds, and sound tracks of films, as mono samples. */
package org.pocketomni.app

import android.media.AudioFormat
import android.media.MediaCodec
import android.media.MediaFormat
import org.pocketomni.engine.MediaClock
import org.pocketomni.engine.Samples
import org.pocketomni.engine.SoundTrack
import org.pocketomni.engine.TrackError
import java.io.File
import java.nio.ByteOrder

/**
 * Decode the first usable sound track of a file from [start] in seconds on, or else from its first sample; null if it has
 * none. Throws [MediaError] if it is longer than [maxSeconds], [TrackError] if no track can be used.
 */
internal fun decodeSound(file: File, maxSeconds: Double, start: Double? = null): Samples? =
    SoundTrack.firstOf(MediaTrack.count(file, "audio/")) { number ->
        val sound = SoundTrack(start, maxSeconds)
        MediaTrack.open(file, "audio/", number)?.use { it.decode(MonoMixer(file, it.clock(), sound)) }
        sound.samples()
    }

/** Averages the channels of decoded sound. */
private class MonoMixer(private val file: File, private val clock: MediaClock, private val sound: SoundTrack) : TrackSink {
    private var rate = 0
    private var channels = 1
    private var isFloat = false

    override fun format(format: MediaFormat) {
        rate = format.getInteger(MediaFormat.KEY_SAMPLE_RATE)
        channels = format.getInteger(MediaFormat.KEY_CHANNEL_COUNT)
        val encoding = format.getInteger(MediaFormat.KEY_PCM_ENCODING, AudioFormat.ENCODING_PCM_16BIT)
        isFloat = encoding == AudioFormat.ENCODING_PCM_FLOAT
        if (!isFloat && encoding != AudioFormat.ENCODING_PCM_16BIT) {
            throw TrackError("${file.name} has samples of a kind that is not supported ($encoding)")
        }
    }

    override fun output(codec: MediaCodec, index: Int, info: MediaCodec.BufferInfo): Boolean {
        val buffer = codec.getOutputBuffer(index) ?: return true
        buffer.position(info.offset).limit(info.offset + info.size)
        val data = buffer.slice().order(ByteOrder.nativeOrder())
        val count = info.size / channels / if (isFloat) Float.SIZE_BYTES else Short.SIZE_BYTES
        val floats = data.asFloatBuffer()
        val shorts = data.asShortBuffer()
        val mono = FloatArray(count) { frame ->
            var sum = 0f
            for (at in frame * channels until (frame + 1) * channels) sum += if (isFloat) floats.get(at) else shorts.get(at) / FULL_SCALE
            sum / channels
        }
        sound.add(clock.seconds(info.presentationTimeUs / MediaTrack.MICROSECONDS), mono, rate)
        return true
    }

    private companion object {
        const val FULL_SCALE = 32768f
    }
}
