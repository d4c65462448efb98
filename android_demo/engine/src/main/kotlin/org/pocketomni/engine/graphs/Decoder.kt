package org.pocketomni.engine.graphs

import ai.onnxruntime.OnnxTensor
import org.pocketomni.engine.BufferAllocator
import org.pocketomni.engine.bundle.DecoderConfig
import org.pocketomni.engine.inputs.Positions
import java.io.Closeable
import java.nio.Buffer
import java.nio.FloatBuffer

/** [hidden] (rows, width) where the graph has it, [logits] (vocabulary) after the last row. */
internal class DecoderOutput(val hidden: FloatArray, val logits: FloatArray)

/**
 * Runs a decoder graph: rows of [width] floats in, hidden states and logits out. The KV cache is the caller's.
 *
 * A step of one row allocates nothing but its result.
 */
internal class Decoder(
    private val graph: Graph,
    val config: DecoderConfig,
    private val width: Int,
    private val hasHidden: Boolean,
    private val cacheType: String,
    private val memory: BufferAllocator,
) : Closeable {
    private val last = Tensors.buffer(Int.SIZE_BYTES).asIntBuffer()
    private val total = Tensors.buffer(Int.SIZE_BYTES).asIntBuffer()
    private val lastTensor = Tensors.over(last, 1)
    private val totalTensor = Tensors.over(total)
    private val oneRow = Rows(1)

    /** Buffers of a step of [count] rows. */
    private inner class Rows(val count: Int) : Closeable {
        val embeddings: FloatBuffer = Tensors.buffer(Float.SIZE_BYTES * count * width).asFloatBuffer()
        val hidden: FloatBuffer = Tensors.buffer(Float.SIZE_BYTES * count * config.hiddenSize).asFloatBuffer()
        val logits: FloatBuffer = Tensors.buffer(Float.SIZE_BYTES * config.vocabSize).asFloatBuffer()
        val input: OnnxTensor = Tensors.over(embeddings, 1, count, width)
        val outputs = linkedMapOf<String, OnnxTensor>().apply {
            if (hasHidden) put("hidden", Tensors.over(hidden, 1, count, config.hiddenSize))
            put("logits", Tensors.over(logits, 1, config.vocabSize))
        }

        override fun close() {
            input.close()
            outputs.values.closeAll()
        }
    }

    fun newCache(limit: Int? = null) = KvCache(config, cacheType, memory, limit)

    /**
     * Append [rows] (n, width) at [positions], n >= 1, in pieces that bound the memory of activations.
     *
     * Throws ContextFullError, with the cache as it was, when they do not fit; [CancelledException].
     */
    fun extend(cache: KvCache, rows: FloatArray, positions: Positions): DecoderOutput {
        val count = positions.size
        cache.append(positions) // checks the room for all rows before the first piece
        val hidden = FloatArray(if (hasHidden) count * config.hiddenSize else 0)
        val logits = FloatArray(config.vocabSize)
        for (start in 0 until count step PREFILL_ROWS) {
            val size = minOf(PREFILL_ROWS, count - start)
            if (size == 1) {
                step(cache, oneRow, rows, start, hidden, logits)
            } else {
                Rows(size).use { step(cache, it, rows, start, hidden, logits) }
            }
        }
        return DecoderOutput(hidden, logits)
    }

    private fun step(cache: KvCache, piece: Rows, rows: FloatArray, start: Int, hidden: FloatArray, logits: FloatArray) {
        (piece.embeddings as Buffer).clear()
        piece.embeddings.put(rows, start * width, piece.count * width)
        (piece.embeddings as Buffer).clear()
        last.put(0, cache.length + piece.count - 1)
        total.put(0, cache.length + piece.count)
        val inputs = LinkedHashMap<String, OnnxTensor>()
        inputs["embeddings"] = piece.input
        inputs["last_position"] = lastTensor
        inputs["total_length"] = totalTensor
        inputs.putAll(cache.inputs)
        graph.run(inputs, emptySet(), piece.outputs + cache.outputs).close()
        cache.commit(piece.count)
        (piece.logits as Buffer).clear()
        piece.logits.get(logits)
        if (!hasHidden) return
        (piece.hidden as Buffer).clear()
        piece.hidden.get(hidden, start * config.hiddenSize, piece.count * config.hiddenSize)
    }

    override fun close() {
        oneRow.close()
        lastTensor.close()
        totalTensor.close()
        graph.close()
    }

    companion object {
        const val PREFILL_ROWS = 512
    }
}
