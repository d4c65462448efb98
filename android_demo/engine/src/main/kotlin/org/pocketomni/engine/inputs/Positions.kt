/** TMRoPE: the (time, height, width) position of every token (docs/bundle.md, section 11). */
package org.pocketomni.engine.inputs

import org.pocketomni.engine.bundle.PositionConfig
import kotlin.math.max

/** Positions of n tokens on three axes. */
internal class Positions(val time: IntArray, val height: IntArray, val width: IntArray) {
    val size: Int get() = time.size

    /** The axes in order: time, height, width. */
    val axes: List<IntArray> get() = listOf(time, height, width)

    /** The largest of the first [count] positions. There must be one. */
    fun largest(count: Int = size): Int {
        var found = 0
        for (axis in axes) for (i in 0 until count) found = max(found, axis[i])
        return found
    }

    fun range(start: Int, end: Int) =
        Positions(time.copyOfRange(start, end), height.copyOfRange(start, end), width.copyOfRange(start, end))

    operator fun plus(other: Positions) = Positions(time + other.time, height + other.height, width + other.width)

    fun sameAt(other: Positions, i: Int): Boolean =
        time[i] == other.time[i] && height[i] == other.height[i] && width[i] == other.width[i]

    companion object {
        val EMPTY = Positions(IntArray(0), IntArray(0), IntArray(0))

        /** [count] positions from [start] on, the same on all axes. */
        fun line(start: Int, count: Int): Positions = IntArray(count) { start + it }.let { Positions(it, it, it) }

        /** [count] tokens that share one position. */
        fun shared(at: Int, count: Int): Positions = IntArray(count) { at }.let { Positions(it, it, it) }
    }
}

/** Merged tokens (t, h, w) of a picture or film; [seconds] is the time from t to t + 1. */
internal class VisionRun(val t: Int, val h: Int, val w: Int, val seconds: Double) {
    val tokens: Int get() = t * h * w
}

/** Tokens [start, end) of one track of a film with sound. */
internal class TrackSlice(val picture: Boolean, val start: Int, val end: Int)

/** Positions of a prompt under construction, piece by piece. */
internal class PositionWalk(private val config: PositionConfig, private val start: Int) {
    private val pieces = ArrayList<Positions>()
    private var following = start

    fun sequential(count: Int) = add(Positions.line(following, count))

    fun shared(count: Int) = add(Positions.shared(following, count))

    fun vision(run: VisionRun) = add(positions(run))

    /** A film with [soundTokens]; returns the order of its tracks. */
    fun filmWithSound(run: VisionRun, soundTokens: Int): List<TrackSlice> {
        val picture = positions(run)
        val sound = Positions.line(following, soundTokens)
        val order = interleave(run, soundTokens)
        for (slice in order) {
            add((if (slice.picture) picture else sound).range(slice.start, slice.end))
        }
        return order
    }

    /** All positions, and the next one: one more than the largest. */
    fun finish(): Pair<Positions, Int> {
        if (pieces.isEmpty()) return Positions.EMPTY to start
        fun joined(axis: (Positions) -> IntArray): IntArray {
            val out = IntArray(pieces.sumOf { it.size })
            var at = 0
            for (piece in pieces) {
                axis(piece).copyInto(out, at)
                at += piece.size
            }
            return out
        }
        val all = Positions(joined { it.time }, joined { it.height }, joined { it.width })
        return all to all.largest() + 1
    }

    /** The walk goes on behind the last piece, even if an earlier one reached further. */
    private fun add(piece: Positions) {
        if (piece.size == 0) return
        pieces.add(piece)
        following = piece.largest() + 1
    }

    private fun positions(run: VisionRun): Positions {
        val seconds = run.seconds.toFloat()
        val rate = config.idsPerSecond.toFloat()
        val area = run.h * run.w
        return Positions(
            IntArray(run.tokens) { following + ((it / area).toFloat() * seconds * rate).toInt() },
            IntArray(run.tokens) { following + it % area / run.w },
            IntArray(run.tokens) { following + it % run.w },
        )
    }

    /** For each chunk of time the frames, then the sound. Times are not truncated. */
    private fun interleave(run: VisionRun, soundTokens: Int): List<TrackSlice> {
        val size = (config.idsPerSecond * config.secondsPerChunk).toInt()
        val area = run.h * run.w
        val picture = chunks(run.tokens, size) { (it / area).toDouble() * run.seconds * config.idsPerSecond }
        val sound = chunks(soundTokens, size) { it.toDouble() }
        val order = ArrayList<TrackSlice>()
        for (i in 0 until max(picture.size, sound.size)) {
            picture.getOrNull(i)?.let { order.add(TrackSlice(true, it.first, it.second)) }
            sound.getOrNull(i)?.let { order.add(TrackSlice(false, it.first, it.second)) }
        }
        return order
    }

    /** Cut where the time first reaches 1, 2, 3 ... times [size], at most once a token. */
    private fun chunks(count: Int, size: Int, time: (Int) -> Double): List<Pair<Int, Int>> {
        val found = ArrayList<Pair<Int, Int>>()
        var start = 0
        for (i in 0 until count) {
            if (time(i) >= (found.size + 1).toDouble() * size) {
                found.add(start to i)
                start = i
            }
        }
        found.add(start to count)
        return found
    }
}
