/** Time stamps of decoded media, as platforms give them. */
package org.pocketomni.engine

import org.pocketomni.engine.inputs.HOLE
import org.pocketomni.engine.inputs.requireUsable
import org.pocketomni.engine.inputs.resampled
import org.pocketomni.engine.inputs.soundTooLong
import java.util.logging.Logger
import kotlin.math.max

/**
 * Turns the time stamps of one track into seconds that go on where recordings were joined. [joined]: the container
 * may have jumps forward, as an MPEG transport stream has.
 */
class MediaClock(private val joined: Boolean = false) {
    private var shift = 0.0
    private var last: Double? = null

    /** Return the seconds of a time stamp. Call it for each one in the order of the file or of the decoder. */
    fun seconds(stamp: Double): Double {
        var seconds = stamp + shift
        val before = last ?: seconds
        if (seconds < before - LONGEST_JUMP || (joined && seconds > before + LONGEST_JUMP)) {
            shift += before - seconds
            seconds = before
        }
        last = seconds
        return seconds
    }

    private companion object {
        /** Seconds: a longer jump is no pause. */
        const val LONGEST_JUMP = 10.0
    }
}

/**
 * Collects the samples of a sound track; holes in the time stamps become silence. It begins at [start] in seconds, or
 * with its first samples. More than [maxSeconds] are refused with a [MediaError].
 */
class SoundTrack(private var start: Double?, private val maxSeconds: Double) {
    private var earlier = 0.0 // seconds before the present part
    private var counted = 0 // samples of it
    private var first = 0 // its place in [joined]
    private var rate = 0
    private var joined = FloatArray(0)
    private var size = 0
    private var givenRate = 0

    /** Seconds so far. */
    val seconds: Double get() = if (rate == 0) earlier else earlier + counted.toDouble() / rate

    /** Add mono [samples] at [rate] Hz whose first one belongs to the time [at] in seconds. */
    fun add(at: Double, samples: FloatArray, rate: Int) {
        val begin = start ?: at.also { start = it }
        if (givenRate == 0) givenRate = rate
        val pause = at - begin - seconds
        if (pause > HOLE) {
            endPart()
            earlier += pause
            requireShort()
            append(FloatArray(Math.rint(pause * givenRate).toInt()))
            first = size
        }
        if (rate != this.rate) endPart()
        this.rate = rate
        counted += samples.size
        requireShort()
        append(samples)
    }

    /** Return all samples at the rate of the first ones. */
    fun samples(): Samples {
        endPart()
        return Samples(joined.copyOf(size), givenRate)
    }

    /** A part with another rate than the first one is resampled. */
    private fun endPart() {
        earlier = seconds
        if (counted > 0 && rate != givenRate) {
            val part = joined.copyOfRange(first, size)
            size = first
            append(resampled(part, rate, givenRate))
        }
        counted = 0
        first = size
    }

    private fun append(samples: FloatArray) {
        if (size + samples.size > joined.size) joined = joined.copyOf(max(2 * joined.size, size + samples.size))
        samples.copyInto(joined, size)
        size += samples.size
    }

    private fun requireShort() {
        if (seconds > maxSeconds) throw soundTooLong("the sound", maxSeconds)
    }

    companion object {
        /**
         * Return the first of [tracks] sound tracks of a file for which [decode], called with its number, does not throw a
         * [TrackError]; null if [tracks] is 0. A log line says so when others cannot be used. Throws the first
         * [TrackError] if none can.
         */
        fun firstOf(tracks: Int, decode: (Int) -> Samples): Samples? {
            var problem: TrackError? = null
            for (number in 0 until tracks) {
                try {
                    val sound = decode(number).also(::requireUsable)
                    problem?.let { log.warning("${it.message}; sound track ${number + 1} is used") }
                    return sound
                } catch (error: TrackError) {
                    problem = problem ?: error
                }
            }
            throw problem ?: return null
        }

        private val log = Logger.getLogger("org.pocketomni.engine")
    }
}
