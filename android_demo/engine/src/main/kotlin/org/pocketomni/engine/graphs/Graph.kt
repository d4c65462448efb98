/** ONNX Runtime sessions: their options, the check against the contract, tensors, and cancellable runs. */
package org.pocketomni.engine.graphs

import ai.onnxruntime.NodeInfo
import ai.onnxruntime.OnnxJavaType
import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtException
import ai.onnxruntime.OrtLoggingLevel
import ai.onnxruntime.OrtSession
import ai.onnxruntime.TensorInfo
import org.pocketomni.engine.BundleError
import org.pocketomni.engine.bundle.GraphContract
import org.pocketomni.engine.bundle.TensorSpec
import java.io.Closeable
import java.io.File
import java.nio.Buffer
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.FloatBuffer
import java.nio.IntBuffer
import java.nio.LongBuffer

/** Thrown out of a graph whose reply was cancelled. Never leaves the engine. */
internal class CancelledException : RuntimeException(null, null, false, false)

/** The cancellation flag of one reply; [cancel] may be called from any thread. */
internal class CancelToken : Closeable {
    private var options: OrtSession.RunOptions? =
        OrtSession.RunOptions().apply { setLogLevel(OrtLoggingLevel.ORT_LOGGING_LEVEL_FATAL) }

    @Volatile
    var cancelled = false
        private set

    val runOptions: OrtSession.RunOptions? get() = options

    /** End the graph that is running between two of its nodes, and refuse the next one. */
    @Synchronized
    fun cancel() {
        cancelled = true
        options?.setTerminate(true)
    }

    @Synchronized
    override fun close() {
        options?.close()
        options = null
    }
}

/** The token of the reply that runs now, if there is one. */
internal class RunControl {
    private var token: CancelToken? = null

    val runOptions: OrtSession.RunOptions? get() = token?.runOptions
    val cancelled: Boolean get() = token?.cancelled == true

    fun check() {
        if (cancelled) throw CancelledException()
    }

    fun <T> running(token: CancelToken, work: () -> T): T {
        val outer = this.token
        this.token = token
        try {
            return work()
        } finally {
            this.token = outer
        }
    }
}

/** An open graph. Its [options] stay open as long: closing them unloads the library of custom operators. */
internal class Graph(
    private val session: OrtSession,
    private val options: OrtSession.SessionOptions,
    private val control: RunControl,
) : Closeable {
    /**
     * Run it; the caller closes the result. [outputs] come back in it, [pinned] ones are written into these tensors.
     *
     * Throws [CancelledException].
     */
    fun run(inputs: Map<String, OnnxTensor>, outputs: Set<String>, pinned: Map<String, OnnxTensor> = emptyMap()): OrtSession.Result {
        control.check()
        try {
            return session.run(inputs, outputs, pinned, control.runOptions)
        } catch (error: OrtException) {
            control.check() // ONNX Runtime reports a terminated run as an ordinary failure
            throw error
        }
    }

    override fun close() {
        session.close()
        options.close()
    }
}

/** ONNX Runtime's environment, of which a process has one. */
internal val environment: OrtEnvironment by lazy {
    OrtEnvironment.getEnvironment(OrtLoggingLevel.ORT_LOGGING_LEVEL_ERROR)
}

/** Opens graphs with the same options. */
internal class GraphLoader(private val threads: Int, private val kernels: File?, private val control: RunControl) {
    /** Open a graph and check it against its contract. Throws [BundleError]. */
    fun open(file: File, contract: GraphContract): Graph {
        val options = options()
        val session = try {
            environment.createSession(file.path, options)
        } catch (error: OrtException) {
            options.close()
            throw BundleError("$file cannot be loaded: ${error.message?.lineSequence()?.first()}")
        }
        val graph = Graph(session, options, control)
        try {
            check(file, "input", session.inputInfo, contract.inputs)
            check(file, "output", session.outputInfo, contract.outputs)
        } catch (error: BundleError) {
            graph.close()
            throw error
        }
        return graph
    }

    private fun options() = OrtSession.SessionOptions().apply {
        setIntraOpNumThreads(if (threads > 0) threads else Runtime.getRuntime().availableProcessors())
        setInterOpNumThreads(1)
        setSessionLogLevel(OrtLoggingLevel.ORT_LOGGING_LEVEL_ERROR)
        // Sessions alternate on few cores: threads of an idle one must not spin.
        addConfigEntry("session.intra_op.allow_spinning", "1")
        addConfigEntry("session.force_spinning_stop", "1")
        addConfigEntry("session.use_device_allocator_for_initializers", "1")
        addConfigEntry("session.set_denormal_as_zero", "1")
        kernels?.let { registerCustomOpLibrary(it.path) }
    }

    private fun check(file: File, kind: String, found: Map<String, NodeInfo>, wanted: List<TensorSpec>) {
        if (found.keys.toList() != wanted.map { it.name }) throw BundleError("$file has other ${kind}s than this engine expects")
        for (spec in wanted) {
            val info = found.getValue(spec.name).info as? TensorInfo
            val shape = info?.shape?.toList().orEmpty()
            val fits = info != null && TYPES[info.type] == spec.type && shape.size == spec.shape.size &&
                spec.shape.indices.all { spec.shape[it] == null || spec.shape[it]!!.toLong() == shape[it] }
            if (!fits) throw BundleError("$file: $kind ${spec.name} is ${info?.type} $shape, expected ${spec.type} ${spec.shape}")
        }
    }

    companion object {
        val TYPES = mapOf(
            OnnxJavaType.FLOAT to "float32", OnnxJavaType.INT8 to "int8", OnnxJavaType.INT32 to "int32",
            OnnxJavaType.INT64 to "int64",
        )
    }
}

/** Makes tensors. */
internal object Tensors {
    fun buffer(bytes: Int): ByteBuffer = ByteBuffer.allocateDirect(bytes).order(ByteOrder.nativeOrder())

    /** A tensor over a direct buffer, whose later content it has. */
    fun over(buffer: FloatBuffer, vararg shape: Int): OnnxTensor = OnnxTensor.createTensor(environment, buffer, longs(shape))

    fun over(buffer: IntBuffer, vararg shape: Int): OnnxTensor = OnnxTensor.createTensor(environment, buffer, longs(shape))

    fun int8(buffer: ByteBuffer, vararg shape: Int): OnnxTensor =
        OnnxTensor.createTensor(environment, buffer, longs(shape), OnnxJavaType.INT8)

    /** Copies of arrays. */
    fun of(values: FloatArray, vararg shape: Int): OnnxTensor =
        over(buffer(Float.SIZE_BYTES * values.size).asFloatBuffer().apply { put(values).rewindAny() }, *shape)

    fun of(values: IntArray, vararg shape: Int): OnnxTensor =
        over(buffer(Int.SIZE_BYTES * values.size).asIntBuffer().apply { put(values).rewindAny() }, *shape)

    fun of(values: LongArray, vararg shape: Int): OnnxTensor {
        val buffer: LongBuffer = buffer(Long.SIZE_BYTES * values.size).asLongBuffer().apply { put(values).rewindAny() }
        return OnnxTensor.createTensor(environment, buffer, longs(shape))
    }

    private fun Buffer.rewindAny() = rewind()

    private fun longs(shape: IntArray) = LongArray(shape.size) { shape[it].toLong() }
}

/** The values of an output. */
internal fun OrtSession.Result.floats(name: String): FloatArray {
    val buffer = tensor(name).floatBuffer
    return if (buffer.hasArray() && buffer.arrayOffset() == 0 && buffer.array().size == buffer.remaining()) {
        buffer.array()
    } else {
        FloatArray(buffer.remaining()).also { buffer.get(it) }
    }
}

internal fun OrtSession.Result.tensor(name: String): OnnxTensor = get(name).get() as OnnxTensor

/** Close tensors that were made for one run. */
internal fun Collection<OnnxTensor>.closeAll() = forEach { it.close() }
