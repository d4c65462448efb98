/** When the frames of a film are shown (docs/bundle.md, section 10), and which decoded frames that are. */
package org.pocketomni.engine.inputs

import org.pocketomni.engine.FilmFrame
import org.pocketomni.engine.FilmTimes
import org.pocketomni.engine.MediaError
import org.pocketomni.engine.RgbImage
import kotlin.math.abs
import kotlin.math.max
import kotlin.math.min

/** Seconds. Shorter differences of time stamps are rounding, or the jitter of a recorder. */
internal const val HOLE = 0.1

/** Seconds. Many containers round time stamps to milliseconds. */
private const val ROUNDING = 0.002

/** Seconds that a frame is shown at most, and those of a single frame, where the container does not say it. */
private const val LONGEST_FRAME = 1.0
private const val ONLY_FRAME = 0.04

/**
 * When the frames are shown: [times] are their distinct time stamps, ascending. Pictures or sound begin at [start].
 * The film counts as one of [frames] frames at a constant [rate]: the true ones, or those of a variable rate on average.
 */
internal class FrameTimes(
    val times: DoubleArray,
    val start: Double,
    val frames: Int,
    val rate: Double,
    private val constant: Boolean,
) {
    /** Time stamps of the frames that are shown at these numbers of the constant rate. */
    fun shown(numbers: IntArray): DoubleArray = DoubleArray(numbers.size) {
        if (constant) times[numbers[it]] else times[max(after(start + numbers[it] / rate + ROUNDING) - 1, 0)]
    }

    /** How many time stamps are not behind [seconds]. */
    private fun after(seconds: Double): Int {
        val found = times.binarySearch(seconds)
        return if (found >= 0) found + 1 else -found - 1
    }

    companion object {
        /** A variable rate counts as at least [fps]: sampling at it finds every scene. Throws [MediaError] without frames. */
        fun of(film: FilmTimes, fps: Double): FrameTimes {
            val times = film.stamps.toSortedSet().toDoubleArray()
            if (times.isEmpty()) throw MediaError("the film has no frames", "convert it to mp4")
            val start = if (times[0] - film.start < HOLE) times[0] else film.start
            for (rate in film.rates) {
                if (rate > 0 && times.indices.all { abs(times[it] - start - it / rate) < 0.5 / rate }) {
                    return FrameTimes(times, start, times.size, rate, constant = true)
                }
            }
            val usual = if (times.size > 1) min(medianStep(times), LONGEST_FRAME) else ONLY_FRAME
            val duration = max(film.end, times.last() + usual) - start
            val frames = max(times.size.toDouble(), Math.rint(duration * fps)).toInt()
            return FrameTimes(times, start, frames, frames / duration, constant = false)
        }

        private fun medianStep(times: DoubleArray): Double {
            val steps = DoubleArray(times.size - 1) { times[it + 1] - times[it] }.apply { sort() }
            val middle = steps.size / 2
            return if (steps.size % 2 == 1) steps[middle] else (steps[middle - 1] + steps[middle]) / 2
        }
    }
}

/**
 * Takes the frames with the time stamps [wanted] from all frames of a film of [count] frames, in order.
 *
 * A frame that could not be decoded is replaced by the one before it. One that is shown for long is converted once.
 */
internal class FramePicker(
    private val wanted: DoubleArray,
    private val count: Int,
    private val convert: (RgbImage) -> RgbImage,
) {
    val images = ArrayList<RgbImage>()
    private var seen = 0
    private var last: FilmFrame? = null
    private var converted: FilmFrame? = null

    /** Take a frame as often as it is wanted, or null for the end. Returns whether more are wanted. */
    fun visit(frame: FilmFrame?): Boolean {
        if (frame == null) {
            end()
            return false
        }
        seen++
        while (images.size < wanted.size && wanted[images.size] < frame.seconds + ROUNDING) {
            val late = wanted[images.size] < frame.seconds - ROUNDING
            take(if (late) last ?: frame else frame)
        }
        last = frame
        return images.size < wanted.size
    }

    private fun end() {
        val frame = last
        if (frame == null || seen < ENOUGH * count) {
            throw MediaError("the film is cut: it has $seen of $count frames", "copy it again")
        }
        while (images.size < wanted.size) take(frame)
    }

    private fun take(frame: FilmFrame) {
        images.add(if (frame === converted) images.last() else convert(frame.rgb()))
        converted = frame
    }

    private companion object {
        const val ENOUGH = 0.9
    }
}
