/** Sounds, and sound tracks of films, as mono samples. */
package org.pocketomni.app

import android.media.AudioFormat
import android.media.MediaCodec
import android.media.MediaFormat
import org.pocketomni.engine.MediaError
import org.pocketomni.engine.Samples
import java.io.File
import java.nio.ByteOrder

/** Decode the sound of a file; null if it has none. Throws [MediaError] if it is longer than [maxSeconds]. */
internal fun decodeSound(file: File, maxSeconds: Double): Samples? {
    val track = MediaTrack.open(file, "audio/") ?: return null
    val mixer = MonoMixer(file, maxSeconds)
    track.use { it.decode(mixer) }
    return Samples(mixer.samples(), mixer.rate)
}

/** Averages the channels of decoded sound. */
private class MonoMixer(private val file: File, private val maxSeconds: Double) : TrackSink {
    var rate = 0
        private set
    private var channels = 1
    private var isFloat = false
    private var out = FloatArray(0)
    private var size = 0

    fun samples(): FloatArray = out.copyOf(size)

    override fun format(format: MediaFormat) {
        rate = format.getInteger(MediaFormat.KEY_SAMPLE_RATE)
        channels = format.getInteger(MediaFormat.KEY_CHANNEL_COUNT)
        val encoding = format.getInteger(MediaFormat.KEY_PCM_ENCODING, AudioFormat.ENCODING_PCM_16BIT)
        isFloat = encoding == AudioFormat.ENCODING_PCM_FLOAT
        if (!isFloat && encoding != AudioFormat.ENCODING_PCM_16BIT) {
            throw MediaError("${file.name} has samples of a kind that is not supported ($encoding)")
        }
    }

    override fun output(codec: MediaCodec, index: Int, info: MediaCodec.BufferInfo): Boolean {
        val buffer = codec.getOutputBuffer(index) ?: return true
        buffer.position(info.offset).limit(info.offset + info.size)
        val data = buffer.slice().order(ByteOrder.nativeOrder())
        val count = info.size / channels / if (isFloat) Float.SIZE_BYTES else Short.SIZE_BYTES
        if (size + count > maxSeconds * rate) {
            throw MediaError("${file.name} is longer than ${maxSeconds.toInt()} s", "use a shorter one")
        }
        if (size + count > out.size) out = out.copyOf(maxOf(2 * out.size, size + count))
        val floats = data.asFloatBuffer()
        val shorts = data.asShortBuffer()
        for (frame in 0 until count) {
            var sum = 0f
            for (channel in 0 until channels) {
                val at = frame * channels + channel
                sum += if (isFloat) floats.get(at) else shorts.get(at) / FULL_SCALE
            }
            out[size++] = sum / channels
        }
        return true
    }

    private companion object {
        const val FULL_SCALE = 32768f
    }
}
