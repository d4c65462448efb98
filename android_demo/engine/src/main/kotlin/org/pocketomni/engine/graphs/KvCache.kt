package org.pocketomni.engine.graphs

import ai.onnxruntime.OnnxTensor
import org.pocketomni.engine.BufferAllocator
import org.pocketomni.engine.ContextFullError
import org.pocketomni.engine.bundle.DecoderConfig
import org.pocketomni.engine.bundle.INT8
import org.pocketomni.engine.inputs.Positions
import org.pocketomni.engine.inputs.inverseFrequency
import java.io.Closeable
import java.nio.Buffer
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.FloatBuffer
import kotlin.math.cos
import kotlin.math.min
import kotlin.math.sin

/** cos and sin of multimodal rotary positions (docs/bundle.md, section 5). */
internal class RotaryTable(config: DecoderConfig) {
    val half = config.headDim / 2
    private val inverse = FloatArray(half) { inverseFrequency(2 * it, config.headDim, config.ropeTheta) }
    private val axis = config.mropeSection.flatMapIndexed { axis, count -> List(count) { axis } }.toIntArray()

    /** Write the rows of [positions] from row [first] on. */
    fun write(positions: Positions, first: Int, cosines: FloatBuffer, sines: FloatBuffer) {
        val axes = positions.axes
        for (token in 0 until positions.size) {
            for (i in 0 until half) {
                val angle = (axes[axis[i]][token].toFloat() * inverse[i]).toDouble()
                val at = (first + token) * half + i
                cosines.put(at, cos(angle).toFloat())
                sines.put(at, sin(angle).toFloat())
            }
        }
    }
}

/**
 * The KV cache of one decoder: keys, values and rotary tables of [length] tokens, in buffers for [capacity].
 *
 * The graph reads and writes the same buffers, so a step appends in place. Truncating sets a smaller length. Buffers
 * grow by doubling up to [limit], at most the model's context.
 */
internal class KvCache(
    private val config: DecoderConfig,
    private val type: String,
    private val memory: BufferAllocator,
    limit: Int? = null,
) : Closeable {
    val limit: Int = min(limit ?: config.maxContext, config.maxContext)
    var length = 0
        private set
    private val rotary = RotaryTable(config)
    private var buffers = allocate(min(FIRST_CAPACITY, this.limit))

    val capacity: Int get() = buffers.capacity

    /** Tokens that can still be appended. */
    val room: Int get() = limit - length

    /** Bytes of all buffers. */
    val bytes: Long get() = buffers.all.sumOf { it.capacity().toLong() }

    /** The tensors of `past_*`, `cos` and `sin`, and those of `present_*`, which are the same. */
    val inputs: Map<String, OnnxTensor> get() = buffers.inputs
    val outputs: Map<String, OnnxTensor> get() = buffers.outputs

    /** Throw [ContextFullError] when [rows] more tokens do not fit. */
    fun checkRoom(rows: Int) {
        if (rows > room) {
            throw ContextFullError(
                "the context is full: $length of $limit tokens are in use and $rows more are asked for",
                "start a new conversation, undo a turn, or use shorter media",
            )
        }
    }

    /** Reserve slots for tokens and write their rotary rows; the caller runs the step and then calls [commit]. */
    fun append(positions: Positions) {
        checkRoom(positions.size)
        if (length + positions.size > capacity) grow(length + positions.size)
        rotary.write(positions, length, buffers.cos, buffers.sin)
    }

    /** Add [rows] tokens, which a step has just written. */
    fun commit(rows: Int) {
        length += rows
    }

    /** Drop all tokens from [length] on. */
    fun truncate(length: Int) {
        check(length in 0..this.length) { "$length of ${this.length}" }
        this.length = length
    }

    /** Replace the first [stop] tokens by those of [start], which are not more. */
    fun replaceStart(stop: Int, start: KvCache) {
        buffers.move(stop, start.length, length - stop)
        buffers.copyFrom(start.buffers, start.length)
        length -= stop - start.length
    }

    /** Return an independent copy. */
    fun fork(limit: Int = this.limit): KvCache {
        val copy = KvCache(config, type, memory, limit)
        if (length > copy.capacity) copy.grow(length)
        copy.buffers.copyFrom(buffers, length)
        copy.length = length
        return copy
    }

    override fun close() = buffers.close()

    private fun grow(needed: Int) {
        var wanted = capacity
        while (wanted < needed) wanted *= 2
        val before = buffers
        buffers = allocate(min(wanted, limit))
        buffers.copyFrom(before, length)
        before.close()
    }

    private fun allocate(capacity: Int) = Buffers(config, type, capacity, memory)

    companion object {
        const val FIRST_CAPACITY = 512

        /** Bytes of all buffers at a capacity of [tokens] tokens. */
        fun bytesFor(config: DecoderConfig, tokens: Int, type: String): Long {
            val one = if (type == INT8) 1 else Float.SIZE_BYTES
            val states = 2L * config.layers * config.kvHeads * config.headDim * one
            return tokens * (states + 2L * (config.headDim / 2) * Float.SIZE_BYTES)
        }
    }
}

/** The buffers of one capacity and the tensors over them. */
private class Buffers(config: DecoderConfig, type: String, val capacity: Int, private val memory: BufferAllocator) : Closeable {
    private val element = if (type == INT8) 1 else Float.SIZE_BYTES
    private val heads = config.kvHeads
    private val rowBytes = config.headDim * element
    private val half = config.headDim / 2
    private val states = List(2 * config.layers) { bytes(heads * capacity * rowBytes) }
    private val tables = List(2) { bytes(capacity * half * Float.SIZE_BYTES) }
    val all: List<ByteBuffer> get() = states + tables
    val cos: FloatBuffer = tables[0].asFloatBuffer()
    val sin: FloatBuffer = tables[1].asFloatBuffer()
    val inputs = LinkedHashMap<String, OnnxTensor>()
    val outputs = LinkedHashMap<String, OnnxTensor>()

    init {
        inputs["cos"] = Tensors.over(cos, capacity, half)
        inputs["sin"] = Tensors.over(sin, capacity, half)
        states.forEachIndexed { index, state ->
            val name = "${if (index % 2 == 0) "key" else "value"}_${index / 2}"
            val tensor = if (type == INT8) {
                Tensors.int8(state, 1, heads, capacity, config.headDim)
            } else {
                Tensors.over(state.asFloatBuffer(), 1, heads, capacity, config.headDim)
            }
            inputs["past_$name"] = tensor
            outputs["present_$name"] = tensor
        }
    }

    /** Copy the first [length] slots. */
    fun copyFrom(other: Buffers, length: Int) {
        states.zip(other.states).forEach { (mine, theirs) ->
            for (head in 0 until heads) {
                copy(theirs, head * other.capacity * rowBytes, mine, head * capacity * rowBytes, length * rowBytes)
            }
        }
        tables.zip(other.tables).forEach { (mine, theirs) -> copy(theirs, 0, mine, 0, length * half * Float.SIZE_BYTES) }
    }

    /** Move [count] slots, which may overlap their new place. */
    fun move(from: Int, to: Int, count: Int) {
        for (state in states) {
            for (head in 0 until heads) {
                val first = head * capacity
                copy(state, (first + from) * rowBytes, state, (first + to) * rowBytes, count * rowBytes)
            }
        }
        val row = half * Float.SIZE_BYTES
        for (table in tables) copy(table, from * row, table, to * row, count * row)
    }

    override fun close() {
        inputs.values.closeAll()
        all.forEach(memory::release)
    }

    private fun bytes(count: Int): ByteBuffer = memory.allocate(count).order(ByteOrder.nativeOrder())

    private fun copy(from: ByteBuffer, start: Int, to: ByteBuffer, at: Int, count: Int) {
        val source = from.duplicate()
        (source as Buffer).position(start).limit(start + count)
        val target = to.duplicate()
        (target as Buffer).position(at)
        target.put(source)
    }
}
