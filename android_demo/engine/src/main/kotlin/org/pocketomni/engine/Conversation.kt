package org.pocketomni.engine

import java.io.Closeable

/**
 * Several turns with one model. Every method may be called from any thread, but not from a listener where it says
 * that it blocks.
 *
 * Each turn leaves the conversation holding what was said, whether the reply ended or was stopped. A turn that fails,
 * or is stopped before its reply begins, leaves no trace.
 */
class Conversation internal constructor() : Closeable {
    /** All messages; the first one is the system prompt. */
    val messages: List<Message> get() = TODO()

    /** Tokens of the turns so far, and tokens that fit. */
    val contextUsed: Int get() = TODO()
    val contextLimit: Int get() = TODO()

    /** Send a user message and stream the reply to [listener]. Returns at once; errors arrive as [ReplyEvent.Failed]. */
    fun send(parts: List<Part>, options: ReplyOptions = ReplyOptions(), listener: ReplyListener) { TODO() }

    /** Replace the last reply by another one to the same question. */
    fun regenerate(options: ReplyOptions = ReplyOptions(), listener: ReplyListener) { TODO() }

    /**
     * Prefill the beginning of a message that is still being made; [send] then takes less time. Returns at once.
     *
     * Without parts it is the system prompt. With [more] a [Part.LiveSound] at the end is still going on, and its
     * final blocks are read. What is sent in the end need not be what was announced. An error is dropped: the reply
     * meets it again.
     */
    fun readAhead(parts: List<Part> = emptyList(), more: Boolean = false, speech: Boolean = true) { TODO() }

    /** Stop the reply in progress, if there is one. Blocks until the conversation is at rest. */
    fun cancel() { TODO() }

    /**
     * Stop the reply and cut it, with both KV caches, to what was heard in the first [heardSeconds] of its speech.
     * Returns the text that is left. Blocks. Throws [UsageError] when the last reply was not spoken.
     */
    fun interrupt(heardSeconds: Double): String = TODO()

    /** Stop the reply in progress and take back its turn, if it has begun one. Blocks. */
    fun retract() { TODO() }

    /** Take back the last turn, question and reply. Blocks. Throws [UsageError] if there is none. */
    fun undo() { TODO() }

    /** Return an independent copy that goes on from here. Blocks. Throws [UsageError] during a reply. */
    fun fork(): Conversation = TODO()

    /** Stop the reply in progress and release the memory of the conversation. */
    override fun close() { TODO() }
}
