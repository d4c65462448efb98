/** How many codes are synthesized at once, and when the samples are released. Nothing runs here. */
package org.pocketomni.engine.graphs

import org.pocketomni.engine.Chunks
import org.pocketomni.engine.bundle.SpeechConfig
import kotlin.math.ceil
import kotlin.math.max
import kotlin.math.min

/** Codes of look-ahead behind the first block in low-latency mode. */
internal const val FIRST_LOOK_AHEAD_CODES = 3

/** Schedules the chunks of one utterance. [lowLatency]: synthesize the first chunk early, with less look-ahead. */
internal interface ChunkScheduler {
    val lowLatency: Boolean

    /** After an underrun: why more will follow. Null while playback keeps up. */
    val underrun: Underrun?

    /**
     * After each code: how many blocks to synthesize now; 0 means wait. [ready] blocks have their codes and
     * look-ahead; the next one lacks [missing] codes.
     */
    fun commit(ready: Int, missing: Int): Int

    /** A chunk of [seconds] of speech is done: whether to release all samples that are held. */
    fun chunkDone(blocks: Int, seconds: Double): Boolean

    companion object {
        /** Blocks of the first chunk, the second and so on; later chunks have the last size. */
        val CHUNK_BLOCKS = listOf(1, 2, 4, 8)

        fun of(chunks: Chunks, speech: SpeechConfig, clock: () -> Double): ChunkScheduler {
            val codes = speech.dit.codesPerBlock
            return when (chunks) {
                Chunks.FIXED -> FixedScheduler(CHUNK_BLOCKS)
                Chunks.WHOLE -> FixedScheduler(listOf(Int.MAX_VALUE))
                Chunks.ADAPTIVE -> AdaptiveScheduler(codes / speech.codesPerSecond, codes, clock)
            }
        }
    }
}

/** Seconds of speech per second of work, below 1: with the largest chunks, and of decoding alone. */
internal class Underrun(val realtime: Double, val codes: Double)

/** Chunks of fixed sizes, released at once: the same samples on every machine. */
internal class FixedScheduler(private val sizes: List<Int>) : ChunkScheduler {
    override val lowLatency = false
    override val underrun: Underrun? = null
    private var chunks = 0

    override fun commit(ready: Int, missing: Int): Int {
        val size = sizes[min(chunks, sizes.size - 1)]
        return if (ready >= size) size else 0
    }

    override fun chunkDone(blocks: Int, seconds: Double): Boolean {
        chunks++
        return true
    }
}

/**
 * Chunk sizes that follow the playback buffer; [clock] returns seconds of work.
 *
 * The first chunk is one block, released once the buffered speech covers the estimated time to the next one. Later
 * chunks are as large as the buffer allows, but not so small that synthesis falls behind playback. If no reasonable
 * lead avoids underruns, speech is released at once and chunks double, so underruns are few.
 */
internal class AdaptiveScheduler(
    private val block: Double,
    private val codesPerBlock: Int,
    private val clock: () -> Double,
) : ChunkScheduler {
    override val lowLatency = true
    private var since = clock()
    private val decodes = ArrayDeque<Double>()
    private val chunks = ArrayDeque<Pair<Int, Double>>()
    private var first = 0.0 // seconds spent on the first chunk
    private var size = 0 // blocks of the last chunk
    private var held = 0.0 // seconds of speech not yet released
    private var lastsUntil: Double? = null // when the playback buffer runs empty
    private var pauses = 0

    override val underrun: Underrun?
        get() {
            if (pauses == 0) return null
            val speech = MAX_CHUNK_BLOCKS * block
            val costs = costs()
            val turn = costs.turn(MAX_CHUNK_BLOCKS)
            return if (turn <= speech) null else Underrun(speech / turn, block / costs.decode)
        }

    override fun commit(ready: Int, missing: Int): Int {
        val now = clock()
        decodes.keep(now - since, RECENT_DECODES)
        since = now
        if (ready < 1) return 0
        return if (ready >= wanted(now, ready, missing)) min(ready, MAX_CHUNK_BLOCKS) else 0
    }

    override fun chunkDone(blocks: Int, seconds: Double): Boolean {
        val now = clock()
        chunks.keep(blocks to now - since, RECENT_CHUNKS)
        since = now
        if (first == 0.0) first = chunks.first().second
        size = blocks
        held += seconds
        val until = lastsUntil
        if (until == null) {
            val lead = lead(costs())
            if (lead != null && held < lead) return false
        } else if (until < now) { // holding back would lengthen the gap
            pauses++
        }
        lastsUntil = max(now, until ?: 0.0) + held
        held = 0.0
        return true
    }

    /** Minimum size of the next chunk, in blocks. */
    private fun wanted(now: Double, ready: Int, missing: Int): Int {
        if (size == 0) return 1
        val costs = costs()
        val most = min(2 * size, MAX_CHUNK_BLOCKS)
        val lead = lead(costs) ?: return min(most, ChunkScheduler.CHUNK_BLOCKS.last())
        val until = lastsUntil ?: return min(max(costs.best, ceil((lead - held) / block).toInt()), most)
        if (ready < min(costs.best, most)) return ready + 1 // smaller chunks take longer than they play
        val more = missing * costs.decode / codesPerBlock + costs.synthesis(ready + 1)
        val late = now + SAFETY_FACTOR * more > until
        return if (late || ready >= most) ready else ready + 1
    }

    /** Seconds of speech to buffer before playback starts; null if no lead would suffice. */
    private fun lead(costs: Costs): Double? {
        var lead = costs.lead(costs.best)
        val one = chunks.size == 1 // it waits for the look-ahead that the first chunk skipped
        if (one) lead += SAFETY_FACTOR * costs.decode * (1 - FIRST_LOOK_AHEAD_CODES.toDouble() / codesPerBlock)
        val patience = MAX_LEAD_SECONDS * (if (one) FIRST_CHUNK_MARGIN else 1.0)
        return if (lead <= patience) lead else null
    }

    /** Fit recent measurements to a cost for each chunk plus a cost for each block. */
    private fun costs(): Costs {
        val decode = codesPerBlock * decodes.sum() / decodes.size
        // Chunks of one size determine no slope. The first one is half look-ahead: a point at 0.
        val points = listOf(0 to first / 2) + chunks
        val mean = points.sumOf { it.first }.toDouble() / points.size
        val cost = points.sumOf { it.second } / points.size
        val spread = points.sumOf { (it.first - mean) * (it.first - mean) }
        val slope = points.sumOf { (it.first - mean) * (it.second - cost) } / spread
        val kept = min(max(slope, 0.0), cost / mean) // neither cost is negative
        return Costs(block, decode, cost - kept * mean, kept)
    }

    private fun <T> ArrayDeque<T>.keep(value: T, count: Int) {
        addLast(value)
        if (size > count) removeFirst()
    }

    /** A block of speech plays for [length]; decoding it takes [decode]; n blocks take [chunk] + n * [perBlock]. */
    private class Costs(val length: Double, val decode: Double, val chunk: Double, val perBlock: Double) {
        fun synthesis(blocks: Int) = chunk + blocks * perBlock

        fun turn(blocks: Int) = blocks * decode + synthesis(blocks)

        /** Seconds of buffered speech that chunks of this size need to arrive in time. */
        fun lead(blocks: Int): Double {
            val turn = turn(blocks)
            return SAFETY_FACTOR * turn + LEAD_HORIZON_SECONDS * max(0.0, turn / (blocks * length) - REALTIME_TARGET)
        }

        val best: Int get() = (1..MAX_CHUNK_BLOCKS).minByOrNull(::lead)!!
    }

    private companion object {
        const val MAX_CHUNK_BLOCKS = 16
        const val SAFETY_FACTOR = 1.5
        const val LEAD_HORIZON_SECONDS = 10.0
        const val REALTIME_TARGET = 0.95
        const val MAX_LEAD_SECONDS = 4.0
        const val FIRST_CHUNK_MARGIN = 1.5
        const val RECENT_DECODES = 24
        const val RECENT_CHUNKS = 8
    }
}
