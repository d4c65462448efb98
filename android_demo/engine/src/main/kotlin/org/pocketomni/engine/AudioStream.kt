package org.pocketomni.engine

/**
 * A sound that is still being recorded, for [Part.LiveSound]: the model prefills its earlier samples meanwhile.
 *
 * One thread may push while the engine reads. Made by [Engine.audioStream].
 */
class AudioStream internal constructor(val rate: Int) {
    /** Duration of the pushed samples, in seconds. */
    val seconds: Double get() = TODO()

    /** Append mono samples in -1 .. 1 at [rate] Hz. Throws [UsageError] after [finish]. */
    fun push(samples: FloatArray) { TODO() }

    /** End the stream. May be called twice. */
    fun finish() { TODO() }
}
