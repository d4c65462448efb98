/** The loudspeaker: AudioTrack, for the speech of one reply. */
package org.pocketomni.app

import android.content.Context
import android.media.AudioAttributes
import android.media.AudioFocusRequest
import android.media.AudioFormat
import android.media.AudioManager
import android.media.AudioTimestamp
import android.media.AudioTrack
import org.pocketomni.app.presenters.NoticeException
import org.pocketomni.app.presenters.NoticeKey
import org.pocketomni.app.presenters.SpeechDevice
import org.pocketomni.app.presenters.SpeechDevices

/** Opens tracks for a call, whose focus is that of the call. Echo cancellation knows such sound. */
class CallSpeaker : SpeechDevices {
    override fun open(rate: Int): SpeechDevice = track(rate, speech(AudioAttributes.USAGE_VOICE_COMMUNICATION)) {}
}

/** Opens tracks for replies in the chat. Other apps are quiet meanwhile; [lost] is called if one takes the sound. */
class ChatSpeaker(context: Context, private val lost: () -> Unit) : SpeechDevices {
    private val audio = context.getSystemService(AudioManager::class.java)

    override fun open(rate: Int): SpeechDevice {
        val attributes = speech(AudioAttributes.USAGE_ASSISTANT)
        val request = AudioFocusRequest.Builder(AudioManager.AUDIOFOCUS_GAIN_TRANSIENT)
            .setAudioAttributes(attributes)
            .setOnAudioFocusChangeListener { change -> if (change in LOSSES) lost() }
            .build()
        if (audio.requestAudioFocus(request) != AudioManager.AUDIOFOCUS_REQUEST_GRANTED) {
            throw NoticeException(NoticeKey.CALL_INTERRUPTED)
        }
        return track(rate, attributes) { audio.abandonAudioFocusRequest(request) }
    }

    private companion object {
        val LOSSES = setOf(AudioManager.AUDIOFOCUS_LOSS, AudioManager.AUDIOFOCUS_LOSS_TRANSIENT)
    }
}

private fun speech(usage: Int): AudioAttributes = AudioAttributes.Builder()
    .setUsage(usage)
    .setContentType(AudioAttributes.CONTENT_TYPE_SPEECH)
    .build()

private const val BUFFERS_PER_SECOND = 5

/** Open a track for floats at [rate] Hz; [closed] is called when it is closed. */
private fun track(rate: Int, attributes: AudioAttributes, closed: () -> Unit): SpeechDevice {
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
        track.play()
        return TrackDevice(track, closed)
    } catch (error: RuntimeException) {
        closed()
        throw NoticeException(NoticeKey.AUDIO_FAILED, error.message ?: error.toString())
    }
}

private class TrackDevice(private val track: AudioTrack, private val onClose: () -> Unit) : SpeechDevice {
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
        onClose()
    }

    private companion object {
        const val NANOSECONDS = 1_000_000_000L
    }
}
