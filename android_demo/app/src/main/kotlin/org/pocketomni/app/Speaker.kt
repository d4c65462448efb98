/** The loudspeaker: AudioTrack, for the speech of one reply. */
package org.pocketomni.app

import android.media.AudioAttributes
import android.media.AudioFormat
import android.media.AudioTimestamp
import android.media.AudioTrack
import org.pocketomni.app.presenters.NoticeException
import org.pocketomni.app.presenters.NoticeKey
import org.pocketomni.app.presenters.SpeechDevice
import org.pocketomni.app.presenters.SpeechDevices

/** Opens tracks. In a call the sound is that of a call, so that echo cancellation knows it. */
class Speaker(private val forCall: Boolean) : SpeechDevices {
    override fun open(rate: Int): SpeechDevice {
        val usage = if (forCall) AudioAttributes.USAGE_VOICE_COMMUNICATION else AudioAttributes.USAGE_ASSISTANT
        val attributes = AudioAttributes.Builder()
            .setUsage(usage)
            .setContentType(AudioAttributes.CONTENT_TYPE_SPEECH)
            .build()
        val format = AudioFormat.Builder()
            .setEncoding(AudioFormat.ENCODING_PCM_FLOAT)
            .setSampleRate(rate)
            .setChannelMask(AudioFormat.CHANNEL_OUT_MONO)
            .build()
        val least = AudioTrack.getMinBufferSize(rate, AudioFormat.CHANNEL_OUT_MONO, AudioFormat.ENCODING_PCM_FLOAT)
        // a short buffer, because playback begins when it is full
        val bytes = maxOf(least, rate * Float.SIZE_BYTES / BUFFERS_PER_SECOND)
        try {
            val track = AudioTrack.Builder()
                .setAudioAttributes(attributes)
                .setAudioFormat(format)
                .setBufferSizeInBytes(bytes)
                .setTransferMode(AudioTrack.MODE_STREAM)
                .build()
            return TrackDevice(track).also { track.play() }
        } catch (error: RuntimeException) {
            throw NoticeException(NoticeKey.AUDIO_FAILED, error.message ?: error.toString())
        }
    }

    private companion object {
        const val BUFFERS_PER_SECOND = 5
    }
}

private class TrackDevice(private val track: AudioTrack) : SpeechDevice {
    private val timestamp = AudioTimestamp()
    private var last = 0L
    private var closed = false

    override fun write(samples: FloatArray) {
        val written = track.write(samples, 0, samples.size, AudioTrack.WRITE_BLOCKING)
        if (written < 0 && !isClosed) throw NoticeException(NoticeKey.AUDIO_FAILED, "AudioTrack.write: $written")
    }

    private val isClosed: Boolean
        @Synchronized get() = closed

    override val framesPlayed: Long
        @Synchronized get() {
            if (closed) return last
            // frames that have left the loudspeaker; before the first time stamp, frames that were taken
            last = if (track.getTimestamp(timestamp)) {
                val since = System.nanoTime() - timestamp.nanoTime
                val played = timestamp.framePosition + since * track.sampleRate / NANOSECONDS
                maxOf(last, minOf(played, head()))
            } else {
                maxOf(last, head() - track.bufferSizeInFrames)
            }
            return maxOf(0, last)
        }

    private fun head(): Long = track.playbackHeadPosition.toLong() and 0xFFFFFFFFL

    override fun drain() {
        // stop() would reset the position, so silence pushes the last samples out
        track.write(FloatArray(track.bufferSizeInFrames), 0, track.bufferSizeInFrames, AudioTrack.WRITE_BLOCKING)
    }

    @Synchronized
    override fun stop() {
        if (closed) return
        framesPlayed
        // a pause ends a write that waits
        track.pause()
        track.flush()
    }

    @Synchronized
    override fun close() {
        if (closed) return
        framesPlayed
        closed = true
        track.release()
    }

    private companion object {
        const val NANOSECONDS = 1_000_000_000L
    }
}
