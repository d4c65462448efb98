package org.pocketomni.engine.graphs

import ai.onnxruntime.OnnxTensor
import org.pocketomni.engine.bundle.DitConfig
import org.pocketomni.engine.bundle.FINAL_MODULATION_ROWS
import org.pocketomni.engine.bundle.MODULATION_ROWS
import org.pocketomni.engine.bundle.Npy
import org.pocketomni.engine.bundle.Solver
import org.pocketomni.engine.bundle.SolverPreset
import org.pocketomni.engine.bundle.Table
import java.io.Closeable
import java.nio.Buffer
import java.nio.FloatBuffer
import kotlin.math.cos
import kotlin.math.sin

/** Noise of [count] blocks from block [first] on. */
internal typealias Noise = (first: Int, count: Int) -> FloatArray

/** [mel] (frames, mel_dim) is final, [provisional] the look-ahead behind it. */
internal class MelChunk(val mel: FloatArray, val provisional: FloatArray)

/** The DiT's graph with the constants of one preset. */
internal class Dit(
    val graph: Graph,
    val config: DitConfig,
    val preset: SolverPreset,
    val codeTable: Table,
    modulation: (times: Int) -> Npy,
) {
    val branches = branches(preset)
    private val rowOf: IntArray
    private val rows: Npy

    init {
        val times = evaluationTimes(preset)
        val distinct = times.distinct().sorted()
        rowOf = IntArray(times.size) { distinct.indexOf(times[it]) }
        rows = modulation(distinct.size)
    }

    /** The same graph with a single guided evaluation, for timing; it takes the modulation of another preset. */
    fun single(): Dit {
        val one = SolverPreset(Solver.EULER, 1, 0.0, 1.0, 1, "one evaluation")
        return Dit(graph, config, one, codeTable) { _ -> rows }
    }

    /** Modulation (layers, 6, hidden) and (2, hidden) of one evaluation, over the mapped file. */
    fun modulation(evaluation: Int): Pair<OnnxTensor, OnnxTensor> {
        val row = rows.row(rowOf[evaluation]).asFloatBuffer()
        val layers = config.layers * MODULATION_ROWS * config.hiddenSize
        return Tensors.over(part(row, 0, layers), config.layers, MODULATION_ROWS, config.hiddenSize) to
            Tensors.over(part(row, layers, row.capacity()), FINAL_MODULATION_ROWS, config.hiddenSize)
    }

    private fun part(buffer: FloatBuffer, start: Int, end: Int): FloatBuffer {
        val view = buffer.duplicate()
        (view as Buffer).position(start).limit(end)
        return view.slice()
    }
}

/**
 * Produces the mel of one utterance chunk by chunk, with the left context cached for each evaluation.
 *
 * [voice] is (2, hidden): the guided branch, then the null branch.
 */
internal class MelStream(private val dit: Dit, private val voice: FloatArray, private val noise: Noise) : Closeable {
    private val config = dit.config
    private val hidden = config.hiddenSize
    private val left: Array<Pair<OnnxTensor, OnnxTensor>> = Array(dit.branches.size) { empty(it) to empty(it) }
    var blocksDone = 0
        private set

    private fun empty(evaluation: Int): OnnxTensor {
        val inner = config.heads * config.headDim
        val size = config.lookBackLayers * dit.branches[evaluation] * config.blockFrames * inner
        return Tensors.of(FloatArray(size), config.lookBackLayers, dit.branches[evaluation], config.blockFrames, inner)
    }

    /**
     * Return the mel of the next [commit] blocks. [codes] are those of the blocks and of the look-ahead; the last
     * block of an utterance may have fewer, and then only their frames are returned.
     */
    fun chunk(codes: IntArray, commit: Int): MelChunk {
        val frames = codes.size * config.framesPerCode
        val blocks = (frames + config.blockFrames - 1) / config.blockFrames
        check(commit in 1..blocks) { "$commit of $blocks blocks" }
        val state = Chunk(codes, blocks, commit).use { chunk ->
            integrate(dit.preset, noise(blocksDone, blocks).copyOf(frames * config.melDim), chunk::velocity)
        }
        blocksDone += commit
        val split = minOf(commit * config.blockFrames, frames)
        return MelChunk(state.copyOf(split * config.melDim), state.copyOfRange(split * config.melDim, frames * config.melDim))
    }

    /** Tensors of one chunk; those of its evaluations share their buffers. */
    private inner class Chunk(codes: IntArray, blocks: Int, commit: Int) : Closeable {
        private val frames = codes.size * config.framesPerCode
        private val most = dit.branches.max()
        private val noisy = Tensors.buffer(Float.SIZE_BYTES * frames * config.melDim).asFloatBuffer()
        private val condition = Tensors.buffer(Float.SIZE_BYTES * most * frames * hidden).asFloatBuffer()
        private val noisyTensor = Tensors.over(noisy, 1, frames, config.melDim)
        private val conditions = (1..most).map { branches ->
            val view = condition.duplicate()
            (view as Buffer).limit(branches * frames * hidden)
            Tensors.over(view.slice(), branches, frames, hidden)
        }
        private val fixed: Map<String, OnnxTensor>

        init {
            conditions(codes)
            val half = config.headDim / 2
            val first = blocksDone * config.blockFrames
            val angles = FloatArray(frames * half) { (first + it / half).toFloat() * config.rotaryFrequencies[it % half] }
            fixed = mapOf(
                "cos" to Tensors.of(FloatArray(angles.size) { cos(angles[it].toDouble()).toFloat() }, frames, half),
                "sin" to Tensors.of(FloatArray(angles.size) { sin(angles[it].toDouble()).toFloat() }, frames, half),
                "key_bias" to Tensors.of(keyBias(blocks, frames), blocks + 2, config.blockFrames),
                "commit" to Tensors.of(longArrayOf(commit - 1L), 1),
            )
        }

        /** Code and voice in the first branch, the null code in the second. */
        private fun conditions(codes: IntArray) {
            val row = FloatArray(hidden)
            val code = FloatArray(hidden)
            for (branch in 0 until most) for (frame in 0 until frames) {
                voice.copyInto(row, 0, branch * hidden, (branch + 1) * hidden)
                if (frame % config.framesPerCode == 0) {
                    dit.codeTable.read(if (branch == 1) 0 else codes[frame / config.framesPerCode], code)
                }
                for (i in row.indices) row[i] += code[i]
                condition.put(row)
            }
            (condition as Buffer).clear()
        }

        fun velocity(evaluation: Int, state: FloatArray): FloatArray {
            (noisy as Buffer).clear()
            noisy.put(state)
            val branches = dit.branches[evaluation]
            val (modulation, final) = dit.modulation(evaluation)
            val (key, value) = left[evaluation]
            val inputs = LinkedHashMap(fixed)
            inputs["noisy"] = noisyTensor
            inputs["condition"] = conditions[branches - 1]
            inputs["modulation"] = modulation
            inputs["final_modulation"] = final
            inputs["past_key"] = key
            inputs["past_value"] = value
            val result = try {
                dit.graph.run(inputs, OUTPUTS)
            } finally {
                modulation.close()
                final.close()
            }
            val velocity = result.floats("velocity")
            result.tensor("velocity").close()
            left[evaluation] = result.tensor("present_key") to result.tensor("present_value")
            key.close()
            value.close()
            if (branches == 1) return velocity
            val size = velocity.size / 2
            val guidance = dit.preset.guidance.toFloat()
            return FloatArray(size) { velocity[it] + (velocity[it] - velocity[size + it]) * guidance }
        }

        override fun close() {
            noisyTensor.close()
            conditions.closeAll()
            fixed.values.closeAll()
        }
    }

    private fun keyBias(blocks: Int, frames: Int): FloatArray {
        val size = config.blockFrames
        val bias = FloatArray((blocks + 2) * size) { ABSENT }
        bias.fill(0f, size, size + frames)
        if (blocksDone > 0) bias.fill(0f, 0, size)
        return bias
    }

    override fun close() {
        for ((key, value) in left) {
            key.close()
            value.close()
        }
    }

    private companion object {
        const val ABSENT = -1e9f
        val OUTPUTS = linkedSetOf("velocity", "present_key", "present_value")
    }
}
