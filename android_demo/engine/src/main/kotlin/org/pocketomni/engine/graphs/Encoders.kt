/** Audio and vision encoders: features in, rows for the Thinker out. */
package org.pocketomni.engine.graphs

import org.pocketomni.engine.bundle.AudioConfig
import org.pocketomni.engine.bundle.VisionConfig
import org.pocketomni.engine.inputs.MelFeatures
import org.pocketomni.engine.inputs.Patches
import org.pocketomni.engine.inputs.VisionGeometry
import org.pocketomni.engine.inputs.audioTokens
import java.io.Closeable

/** Encodes log-mel; blocks are independent, so any batch gives the same rows of [width] floats. */
internal class AudioEncoder(
    private val graph: Graph,
    private val config: AudioConfig,
    private val width: Int,
) : Closeable by graph {
    /** Encode a clip of at least one block: (tokens, width). */
    fun encode(features: MelFeatures): FloatArray {
        val out = FloatArray((0 until features.blocks).sumOf { audioTokens(features.blockLength(it)) } * width)
        var at = 0
        for (blocks in batches(features)) {
            val start = blocks.first()
            val lengths = blocks.map(features::blockLength)
            val longest = lengths.max()
            val mel = FloatArray(lengths.size * config.nMels * longest)
            for (i in lengths.indices) features.write(start + i, mel, i * config.nMels * longest, longest)
            val inputs = mapOf(
                "mel" to Tensors.of(mel, lengths.size, config.nMels, longest),
                "frames" to Tensors.of(lengths.toIntArray(), lengths.size),
            )
            try {
                graph.run(inputs, setOf("embeddings")).use { result ->
                    val rows = result.floats("embeddings")
                    lengths.forEachIndexed { i, length ->
                        val first = i * (rows.size / lengths.size)
                        rows.copyInto(out, at, first, first + audioTokens(length) * width)
                        at += audioTokens(length) * width
                    }
                }
            } finally {
                inputs.values.closeAll()
            }
        }
        return out
    }

    /** Blocks to encode at once. A short last one is on its own, since a batch pads it to a full block. */
    private fun batches(features: MelFeatures): List<List<Int>> {
        val (full, short) = (0 until features.blocks).partition { features.blockLength(it) == config.blockFrames }
        return full.chunked(BLOCKS_AT_ONCE) + listOf(short).filter { it.isNotEmpty() }
    }

    companion object {
        /** 16 s of sound: bounds the memory of activations. */
        const val BLOCKS_AT_ONCE = 8
    }
}

/** Encodes the patches of one picture or film into rows of [width] floats. */
internal class VisionEncoder(
    private val graph: Graph,
    private val config: VisionConfig,
    private val width: Int,
) : Closeable by graph {
    /** Rows (tokens, width) in the order of the prompt. */
    fun encode(patches: Patches): FloatArray {
        val where = VisionGeometry(patches.grid, config)
        val count = patches.grid.patches
        val size = config.patchLength
        val ordered = FloatArray(count * size)
        where.patchIndex.forEachIndexed { i, patch -> patches.values.copyInto(ordered, i * size, patch * size, (patch + 1) * size) }
        val windows = where.windowLengths.size
        val inputs = mapOf(
            "patches" to Tensors.of(ordered, count, size),
            "cos" to Tensors.of(where.cos, count, config.headDim / 2),
            "sin" to Tensors.of(where.sin, count, config.headDim / 2),
            "window_slots" to Tensors.of(where.windowSlots, windows, where.widest),
            "window_lengths" to Tensors.of(where.windowLengths, windows),
            "unpad" to Tensors.of(where.unpad, count),
            "grid_frames" to Tensors.of(longArrayOf(patches.grid.t.toLong()), 1),
        )
        try {
            val found = graph.run(inputs, setOf("embeddings")).use { it.floats("embeddings") }
            val out = FloatArray(found.size)
            where.reverseIndex.forEachIndexed { i, row -> found.copyInto(out, i * width, row * width, (row + 1) * width) }
            return out
        } finally {
            inputs.values.closeAll()
        }
    }
}
