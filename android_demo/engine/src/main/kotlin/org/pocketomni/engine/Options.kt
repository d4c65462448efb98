/** Options of an engine and of one reply. */
package org.pocketomni.engine

import java.io.File
import java.nio.ByteBuffer

/**
 * How graphs run. [threads] 0 uses one thread per core. [int8Cache] stores the KV cache in 8 bits, a quarter of the
 * memory, where the bundle has such graphs. [keepEncoders] false releases the encoders of sound and pictures after
 * each message: less memory, and the next medium waits until they are open again. [kernels] is a library of custom
 * operators (domain `pocket_omni`), which run instead of the functions in the graphs. [memory] provides the buffers of
 * the KV caches.
 */
data class EngineOptions(
    val threads: Int = 0,
    val int8Cache: Boolean = false,
    val keepEncoders: Boolean = true,
    val kernels: File? = null,
    val memory: BufferAllocator = BufferAllocator.Direct,
)

/**
 * Provides memory for KV caches, the largest buffers of an engine: hundreds of megabytes with a long context.
 *
 * On Android direct buffers count as Java heap, which is limited; an app passes memory of another kind there, such as
 * SharedMemory. May be called from any thread.
 */
interface BufferAllocator {
    /** Return a direct buffer of [bytes] bytes, zeros. */
    fun allocate(bytes: Int): ByteBuffer

    /** Release a buffer that nothing uses any more. */
    fun release(buffer: ByteBuffer)

    /** Direct buffers of the JVM, released by its garbage collector. */
    object Direct : BufferAllocator {
        override fun allocate(bytes: Int): ByteBuffer = ByteBuffer.allocateDirect(bytes)

        override fun release(buffer: ByteBuffer) = Unit
    }
}

/** Sampling settings. A temperature of 0 is greedy; [topK] 0 keeps all. */
data class Sampling(
    val temperature: Double = 0.0,
    val topK: Int = 0,
    val topP: Double = 1.0,
    val repetitionPenalty: Double = 1.0,
)

/**
 * Sizes of the chunks of speech. FIXED: the same on every machine, so a seed gives the same samples. ADAPTIVE: they
 * follow the playback buffer. WHOLE: one chunk after the last code.
 */
enum class Chunks { FIXED, ADAPTIVE, WHOLE }

/**
 * How a reply is spoken. Null selects the bundle's default; [preset] "auto" the best one that runs in real time here.
 *
 * [sampling] null uses the Talker's own settings. [maxCodes] limits the length of the speech.
 */
data class SpeechOptions(
    val voice: String? = null,
    val preset: String? = null,
    val sampling: Sampling? = null,
    val maxCodes: Int? = null,
    val chunks: Chunks = Chunks.FIXED,
)

/** Options of a reply. [speech] null means text only. The seed determines all sampling. */
data class ReplyOptions(
    val speech: SpeechOptions? = SpeechOptions(),
    val sampling: Sampling = Sampling(),
    val maxTokens: Int = 1024,
    val seed: Long = 0,
)
