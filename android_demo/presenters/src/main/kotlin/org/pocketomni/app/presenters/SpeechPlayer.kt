/** Plays the speech of a reply while it is made, and counts what was heard. */
package org.pocketomni.app.presenters

import java.io.Closeable
import java.util.concurrent.LinkedBlockingQueue
import java.util.concurrent.TimeUnit

/** A loudspeaker for one reply: mono samples in -1 .. 1. */
interface SpeechDevice : Closeable {
    /** Write samples, and block while the device's buffer is full. Return at once after [stop]. */
    fun write(samples: FloatArray)

    /** Frames that were played since the device was opened. */
    val framesPlayed: Long

    /** Play what is still in the buffer, even if it does not fill it. */
    fun drain()

    /** Stop now, and drop what was not played. */
    fun stop()
}

/** Opens a device for samples at a rate in Hz. Throws [NoticeException]. */
fun interface SpeechDevices {
    fun open(rate: Int): SpeechDevice
}

/**
 * The speech of one reply. [add] and [end] come from the engine's thread, [stop] from any.
 *
 * A thread of its own feeds the device, so that a full buffer never stops the engine. [finished] is called on this
 * thread, once, with the error that ended playback, or null.
 */
class SpeechPlayer(private val devices: SpeechDevices, private val finished: (Throwable?) -> Unit) {
    private class Chunk(val samples: FloatArray, val rate: Int)

    private val queue = LinkedBlockingQueue<Chunk>()
    private var thread: Thread? = null

    @Volatile private var device: SpeechDevice? = null

    @Volatile private var rate = 0

    @Volatile private var written = 0L

    @Volatile private var stopped = false

    /** Whether any speech was added. */
    val started: Boolean get() = rate > 0

    /** Seconds of the reply that were heard. */
    val heardSeconds: Double
        get() = heard ?: (device?.let { minOf(it.framesPlayed, written) / rate.toDouble() } ?: 0.0)

    /** What was heard when playback ended. */
    @Volatile private var heard: Double? = null

    /** Append samples at [rate] Hz. */
    @Synchronized
    fun add(samples: FloatArray, rate: Int) {
        if (stopped || samples.isEmpty()) return
        this.rate = rate
        queue.add(Chunk(samples, rate))
        if (thread == null) {
            thread = Thread({ run() }, "speech").apply {
                isDaemon = true
                start()
            }
        }
    }

    /** No samples follow. */
    @Synchronized
    fun end() {
        if (thread == null && !stopped) finished(null) else queue.add(Chunk(END, 0))
    }

    /** Stop at once and return the seconds that were heard. */
    fun stop(): Double {
        val now = heardSeconds
        heard = now
        stopped = true
        device?.stop()
        queue.add(Chunk(END, 0))
        return now
    }

    private fun run() {
        var failure: Throwable? = null
        try {
            if (stopped) return finished(null)
            val opened = devices.open(rate)
            device = opened
            opened.use {
                feed(it)
                if (heard == null) heard = written / rate.toDouble()
            }
        } catch (error: Exception) {
            if (!stopped) failure = error // a device that was stopped may refuse to go on
        }
        finished(failure)
    }

    private fun feed(device: SpeechDevice) {
        while (!stopped) {
            val samples = queue.take().samples
            if (samples === END) break
            // short pieces, so that a stop takes effect soon
            for (start in samples.indices step rate / PIECES_PER_SECOND) {
                if (stopped) return
                val piece = samples.copyOfRange(start, minOf(start + rate / PIECES_PER_SECOND, samples.size))
                device.write(piece)
                if (!stopped) written += piece.size
            }
        }
        if (!stopped) wait(device)
    }

    /** Wait until the device has played all samples, or plays no more. */
    private fun wait(device: SpeechDevice) {
        device.drain()
        var last = -1L
        var still = 0
        while (!stopped && device.framesPlayed < written && still < PATIENCE) {
            val played = device.framesPlayed
            still = if (played == last) still + 1 else 0
            last = played
            TimeUnit.MILLISECONDS.sleep(POLL_MILLISECONDS)
        }
    }

    private companion object {
        val END = FloatArray(0)
        const val PIECES_PER_SECOND = 50
        const val POLL_MILLISECONDS = 20L

        /** Polls without progress after which a device is taken for ended: one second. */
        const val PATIENCE = 50
    }
}
