package org.pocketomni.engine

import java.io.Closeable
import java.io.File

/**
 * A loaded bundle and the thread that owns it. Usable from any thread; one reply runs at a time.
 *
 * Graphs are opened on first use; [warmUp] opens them beforehand.
 */
class Engine private constructor() : Closeable {
    /** What the bundle is and can do. */
    val bundle: BundleInfo get() = TODO()

    /**
     * Start a conversation. [system] replaces the model's system prompt, [context] lowers its context length (tokens).
     *
     * [history] are turns that took place elsewhere, user and assistant messages in turn; the first reply reads them.
     */
    fun conversation(system: String? = null, context: Int? = null, history: List<Message> = emptyList()): Conversation = TODO()

    /** Return a stream for sound that is recorded at [rate] Hz. Throws [UsageError] for a bundle that cannot hear. */
    fun audioStream(rate: Int): AudioStream = TODO()

    /** Open the graphs of text and, with [speech], of speech. Blocks; throws [BundleError]. */
    fun warmUp(speech: Boolean = true) { TODO() }

    /** Cancel all replies, end the thread and release all memory. */
    override fun close() { TODO() }

    companion object {
        /** Open the bundle in [folder]: checks format, digest and file sizes. Blocks; throws [BundleError]. */
        fun open(folder: File, options: EngineOptions = EngineOptions()): Engine = TODO()
    }
}
