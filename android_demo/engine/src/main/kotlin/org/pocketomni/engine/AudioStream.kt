package org.pocketomni.engine

import org.pocketomni.engine.bundle.AudioConfig
import org.pocketomni.engine.inputs.LogMelStream
import org.pocketomni.engine.inputs.MelFeatures
import org.pocketomni.engine.inputs.Resampler
import org.pocketomni.engine.inputs.emptySound
import org.pocketomni.engine.inputs.requireFinite

/**
 * A sound that is still being recorded, for [Part.LiveSound]: the model prefills its earlier samples meanwhile.
 *
 * One thread may push while the engine reads: a push only queues the samples. Made by [Engine.audioStream].
 */
class AudioStream internal constructor(internal val config: AudioConfig, val rate: Int) {
    private val queueLock = Any()
    private val melLock = Any()
    private var queue = ArrayList<FloatArray>()
    private var pushed = 0L
    private var mel = LogMelStream(config)
    private var resampler = Resampler(rate, config.sampleRate)
    private var melFinished = false

    /** Whether more samples may be pushed. */
    @Volatile
    var running = true
        private set

    init {
        if (rate <= 0) throw MediaError("a sound at $rate Hz is no sound", "record at a rate above 0")
    }

    /** Duration of the pushed samples, in seconds. */
    val seconds: Double get() = synchronized(queueLock) { pushed.toDouble() / rate }

    /** Append mono samples in -1 .. 1 at [rate] Hz. Throws [MediaError] for NaN, [UsageError] after [finish]. */
    fun push(samples: FloatArray) {
        requireFinite(samples, NAME)
        synchronized(queueLock) {
            if (!running) throw UsageError("$NAME is finished", "start a new one")
            queue.add(samples.copyOf())
            pushed += samples.size
        }
    }

    /** End the stream, so that its last samples are read, too. May be called twice. */
    fun finish() = synchronized(queueLock) { running = false }

    /** Return a finished copy of the stream so far. This stream goes on. */
    fun snapshot(): AudioStream = synchronized(melLock) {
        synchronized(queueLock) {
            val copy = AudioStream(config, rate)
            copy.queue.addAll(queue)
            copy.pushed = pushed
            copy.mel = mel.copy()
            copy.resampler = resampler.copy()
            copy.melFinished = melFinished
            copy.running = false
            copy
        }
    }

    /** The final blocks of a running stream, or all blocks of a finished one. Throws [MediaError] if it is empty. */
    internal fun features(): MelFeatures = synchronized(melLock) {
        val (pieces, over) = synchronized(queueLock) {
            if (!running && pushed == 0L) throw emptySound(NAME)
            (queue to !running).also { queue = ArrayList() }
        }
        if (!melFinished) {
            for (piece in pieces) mel.push(resampler.push(piece))
            if (over) {
                mel.push(resampler.finish())
                mel.finish()
                melFinished = true
            }
        }
        mel.features()
    }

    private companion object {
        const val NAME = "the recording"
    }
}
