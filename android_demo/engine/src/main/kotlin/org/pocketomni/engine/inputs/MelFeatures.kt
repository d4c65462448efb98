package org.pocketomni.engine.inputs

import org.pocketomni.engine.bundle.AudioConfig
import kotlin.math.max
import kotlin.math.min

/** Values further below the clip's maximum are raised: decades of power. */
private const val RANGE = 8f

/** Return the features of a complete clip of mono samples. */
internal fun logMel(samples: FloatArray, config: AudioConfig): MelFeatures {
    val stream = LogMelStream(config, samples.size)
    stream.push(samples)
    stream.finish()
    return stream.features()
}

/**
 * Stateful log-mel: samples are pushed, features are read. Only one thread may push.
 *
 * A later, louder sound raises the floor of earlier blocks. Blocks therefore keep their raw log power, and the floor
 * is applied when a block is read. [length] is that of the clip in samples, if it is known.
 */
internal class LogMelStream(val config: AudioConfig, length: Int = 0) {
    private var power = LogPowerStream(config, length)
    private val blocks = ArrayList<MelBlock>()
    private val floors = ArrayList<Float>() // all floors of the clip so far, ascending

    /** Frames of all blocks so far. */
    var frames = 0
        private set

    /** Blocks that later samples change only by a higher floor. */
    var stableBlocks = 0
        private set

    fun push(samples: FloatArray) {
        val (full, outside) = power.push(samples)
        append(full, outside)
        stableBlocks = blocks.size
    }

    fun finish() {
        val (last, outside) = power.finish()
        append(last, outside)
    }

    /** A view of all blocks so far; later pushes do not change it. */
    fun features() = MelFeatures(this, 0, frames, floors.size)

    fun copy(): LogMelStream {
        val copy = LogMelStream(config)
        copy.power = power.copy()
        copy.blocks.addAll(blocks)
        copy.floors.addAll(floors)
        copy.frames = frames
        copy.stableBlocks = stableBlocks
        return copy
    }

    /** How many of the first [count] floors change values of a block. */
    fun revision(block: Int, count: Int): Int {
        val least = blocks[block].least
        return max(0, count - floors.count { it <= least })
    }

    fun blockLength(block: Int): Int = blocks[block].frames

    /** Write a block, raised to floor number [count] - 1, into rows of [width] floats from [at] on. */
    fun write(block: Int, count: Int, out: FloatArray, at: Int, width: Int) {
        val source = blocks[block]
        val floor = floors[count - 1]
        for (mel in 0 until source.mels) {
            for (frame in 0 until source.frames) {
                val value = source.values[mel * source.frames + frame]
                out[at + mel * width + frame] = (max(value, floor) + 4f) * 0.25f
            }
        }
    }

    /** Append blocks. Frames outside of the clip are not used, but count for the maximum. */
    private fun append(more: List<MelBlock>, outside: List<MelBlock>) {
        blocks.addAll(more)
        frames += more.sumOf { it.frames }
        val found = (more + outside).filter { it.frames > 0 }.maxOfOrNull { it.most - RANGE } ?: return
        if (floors.isEmpty() || found > floors.last()) floors.add(found)
    }
}

/** A view of consecutive blocks of a clip. A last block that is too short for a token counts in [frames] only. */
internal class MelFeatures(private val stream: LogMelStream, private val start: Int, val frames: Int, private val floors: Int) {
    private val config: AudioConfig get() = stream.config

    /** Blocks that give at least one token. */
    val blocks: Int get() = frames / config.blockFrames + (if (frames % config.blockFrames >= MIN_FRAMES) 1 else 0)

    /** Blocks that later samples could change only by a higher floor. */
    val stableBlocks: Int get() = max(0, min(blocks, stream.stableBlocks - start))

    /** Tokens of a full block. */
    val blockTokens: Int get() = audioTokens(config.blockFrames)

    fun blockLength(block: Int): Int = stream.blockLength(start + block)

    /** Write a block into rows of [width] floats from [at] on, one row for each mel band. */
    fun write(block: Int, out: FloatArray, at: Int, width: Int) = stream.write(start + block, floors, out, at, width)

    /** Two views: the blocks before [block], and those from it on. */
    fun split(block: Int): Pair<MelFeatures, MelFeatures> {
        val before = block * config.blockFrames
        return MelFeatures(stream, start, before, floors) to MelFeatures(stream, start + block, frames - before, floors)
    }

    /** Leading blocks that are equal, by revision or by value. */
    fun commonBlocks(other: MelFeatures): Int {
        val both = min(blocks, other.blocks)
        return (0 until both).firstOrNull { !equals(other, it) } ?: both
    }

    private fun equals(other: MelFeatures, block: Int): Boolean {
        if (stream === other.stream && start == other.start) {
            return stream.revision(start + block, floors) == other.stream.revision(start + block, other.floors)
        }
        return values(block).contentEquals(other.values(block))
    }

    private fun values(block: Int): FloatArray {
        val length = blockLength(block)
        return FloatArray(config.nMels * length).also { write(block, it, 0, length) }
    }

    /** All frames, (n_mels, frames). */
    fun toArray(): FloatArray {
        val all = FloatArray(config.nMels * frames)
        for (block in 0 until (frames + config.blockFrames - 1) / config.blockFrames) {
            write(block, all, block * config.blockFrames, frames)
        }
        return all
    }
}
