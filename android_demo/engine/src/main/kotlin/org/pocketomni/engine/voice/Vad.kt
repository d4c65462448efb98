package org.pocketomni.engine.voice

import ai.onnxruntime.OrtException
import ai.onnxruntime.OrtSession
import org.pocketomni.engine.OmniError
import org.pocketomni.engine.graphs.Tensors
import org.pocketomni.engine.graphs.closeAll
import org.pocketomni.engine.graphs.environment
import org.pocketomni.engine.graphs.floats
import java.io.Closeable

/**
 * Voice activity by Silero's network ([model] is its ONNX file): a speech probability for each frame of 32 ms.
 *
 * The network also sees the 64 samples before a frame and keeps a state: one instance for each stream.
 */
internal class Vad(model: ByteArray) : Closeable {
    private val session: OrtSession = try {
        OrtSession.SessionOptions().use { options ->
            options.setIntraOpNumThreads(1)
            options.setInterOpNumThreads(1)
            environment.createSession(model, options)
        }
    } catch (error: OrtException) {
        throw OmniError("the voice activity model cannot be loaded: ${error.message?.lineSequence()?.first()}", "install the app again")
    }
    private var context = FloatArray(CONTEXT)
    private var h = FloatArray(STATE)
    private var c = FloatArray(STATE)

    /** The speech probability of the next [FRAME] samples, mono at [SAMPLE_RATE] Hz in -1 .. 1. */
    fun probability(frame: FloatArray): Float {
        val joined = context + frame
        context = joined.copyOfRange(joined.size - CONTEXT, joined.size)
        val inputs = mapOf(
            "input" to Tensors.of(joined, 1, CONTEXT + FRAME), "h" to Tensors.of(h, 1, 1, STATE), "c" to Tensors.of(c, 1, 1, STATE),
        )
        try {
            session.run(inputs).use { result ->
                h = result.floats("hn")
                c = result.floats("cn")
                return result.floats("speech_probs")[0]
            }
        } finally {
            inputs.values.closeAll()
        }
    }

    override fun close() = session.close()

    companion object {
        const val SAMPLE_RATE = 16_000
        const val FRAME = 512
        const val FRAME_SECONDS = FRAME.toDouble() / SAMPLE_RATE
        private const val CONTEXT = 64
        private const val STATE = 128
    }
}
