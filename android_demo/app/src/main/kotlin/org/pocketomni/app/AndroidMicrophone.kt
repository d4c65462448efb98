/** The microphone: AudioRecord at 16 kHz, in a call with echo cancellation. */
package org.pocketomni.app

import android.Manifest
import android.content.Context
import android.content.pm.PackageManager
import android.media.AudioFormat
import android.media.AudioRecord
import android.media.MediaRecorder
import android.media.audiofx.AcousticEchoCanceler
import org.pocketomni.app.presenters.Microphone
import org.pocketomni.app.presenters.NoticeException
import org.pocketomni.app.presenters.NoticeKey

class AndroidMicrophone(private val context: Context, private val forCall: Boolean) : Microphone {
    private var recorder: AudioRecord? = null
    private var canceler: AcousticEchoCanceler? = null
    private var thread: Thread? = null

    @Volatile private var running = false

    @Synchronized
    override fun start(sink: (FloatArray) -> Unit) {
        check(recorder == null) { "the microphone is in use" }
        if (context.checkSelfPermission(Manifest.permission.RECORD_AUDIO) != PackageManager.PERMISSION_GRANTED) {
            throw NoticeException(NoticeKey.NO_MICROPHONE)
        }
        val opened = open()
        if (forCall && AcousticEchoCanceler.isAvailable()) {
            canceler = AcousticEchoCanceler.create(opened.audioSessionId)?.apply { enabled = true }
        }
        opened.startRecording()
        if (opened.recordingState != AudioRecord.RECORDSTATE_RECORDING) {
            release(opened)
            throw NoticeException(NoticeKey.AUDIO_FAILED, "another app records")
        }
        recorder = opened
        running = true
        thread = Thread({ read(opened, sink) }, "microphone").apply {
            priority = Thread.MAX_PRIORITY
            start()
        }
    }

    @Synchronized
    override fun stop() {
        val opened = recorder ?: return
        recorder = null
        running = false
        opened.stop()
        thread?.join()
        thread = null
        release(opened)
    }

    private fun open(): AudioRecord {
        val channel = AudioFormat.CHANNEL_IN_MONO
        val encoding = AudioFormat.ENCODING_PCM_FLOAT
        val least = AudioRecord.getMinBufferSize(Microphone.RATE, channel, encoding)
        val source = if (forCall) MediaRecorder.AudioSource.VOICE_COMMUNICATION else MediaRecorder.AudioSource.VOICE_RECOGNITION
        val opened = try {
            // half a second, so that a busy phone loses nothing
            AudioRecord(source, Microphone.RATE, channel, encoding, maxOf(least, Microphone.RATE / 2 * Float.SIZE_BYTES))
        } catch (error: IllegalArgumentException) {
            throw NoticeException(NoticeKey.AUDIO_FAILED, error.message ?: error.toString())
        }
        if (opened.state != AudioRecord.STATE_INITIALIZED) {
            opened.release()
            throw NoticeException(NoticeKey.AUDIO_FAILED, "AudioRecord.STATE_UNINITIALIZED")
        }
        return opened
    }

    private fun read(opened: AudioRecord, sink: (FloatArray) -> Unit) {
        val buffer = FloatArray(BLOCK)
        while (running) {
            val count = opened.read(buffer, 0, buffer.size, AudioRecord.READ_BLOCKING)
            if (count < 0) break
            if (count > 0 && running) sink(buffer.copyOf(count))
        }
    }

    private fun release(opened: AudioRecord) {
        canceler?.release()
        canceler = null
        opened.release()
    }

    private companion object {
        /** Samples: 32 ms, a frame of the voice activity model. */
        const val BLOCK = 512
    }
}
