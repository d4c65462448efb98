package org.pocketomni.engine

import org.pocketomni.engine.graphs.CancelToken
import org.pocketomni.engine.reply.Dialogue
import java.io.Closeable
import java.util.concurrent.Future

/**
 * Several turns with one model. Every method may be called from any thread. Methods that block must not be called by
 * a [ReplyListener] of the same conversation, except [cancel].
 *
 * Each turn leaves the conversation holding what was said, whether the reply ended, was stopped or failed. A turn that
 * is stopped or fails before its reply begins leaves no trace; of a regenerated one the question stays.
 */
class Conversation internal constructor(internal val engine: Engine, private val dialogue: Dialogue) : Closeable {
    private val lock = Any()
    private var active: CancelToken? = null

    /** Turns before the last reply. */
    private var turnsBefore = 0

    /** All messages, as of the last turn; the first one is the system prompt. */
    val messages: List<Message> get() = dialogue.view.messages

    /** Turns that can be taken back: not those of the history. */
    val turnCount: Int get() = dialogue.view.turns

    /** Tokens of the turns so far, and tokens that fit. */
    val contextUsed: Int get() = dialogue.view.used
    val contextLimit: Int get() = dialogue.view.limit

    /** Token ids and codes of the last reply; for tests, on the engine's thread. */
    internal val lastTokens: List<Int> get() = dialogue.lastTokens
    internal val lastCodes: List<Int> get() = dialogue.lastCodes

    /** Send a user message and stream the reply to [listener]. Returns at once; errors arrive as [ReplyEvent.Failed]. */
    fun send(parts: List<Part>, options: ReplyOptions = ReplyOptions(), listener: ReplyListener) =
        reply(listener) { token, emit -> dialogue.send(parts, options, token, emit) }

    /** Replace the last reply by another one to the same question. Stopped before it begins, the new one is empty. */
    fun regenerate(options: ReplyOptions = ReplyOptions(), listener: ReplyListener) =
        reply(listener) { token, emit -> dialogue.regenerate(options, token, emit) }

    /**
     * Prefill the beginning of a message that is still being made; [send] then takes less time. Returns at once.
     *
     * Without parts it is the system prompt. With [more] a [Part.LiveSound] at the end is still going on, and its
     * final blocks are read. What is sent in the end need not be what was announced. The future is done when the work
     * is; an error may be ignored, since the reply meets it again.
     */
    fun readAhead(parts: List<Part> = emptyList(), more: Boolean = false, speech: Boolean = true): Future<Unit> =
        engine.submit { dialogue.readAhead(parts, more, speech) }

    /** Stop the reply in progress, if there is one. Blocks until the conversation is at rest. */
    fun cancel() {
        stop()
        engine.call { }
    }

    /**
     * Stop the reply and cut it, with both KV caches, to what was heard in the first [heardSeconds] of its speech.
     * Returns the text that is left. Blocks. Throws [UsageError] when the last reply was not spoken.
     */
    fun interrupt(heardSeconds: Double): String {
        stop()
        return engine.call { dialogue.truncate(heardSeconds) }
    }

    /** Stop the reply in progress and take back its turn, if it has begun one; its prompt stays prefilled. Blocks. */
    fun retract() {
        stop()
        engine.call(::retractTurn)
    }

    /** Like [retract] without waiting; the future is done when the work is. */
    internal fun startRetract(): Future<Unit> {
        stop()
        return engine.submit(::retractTurn)
    }

    private fun retractTurn() {
        if (dialogue.turnCount > turnsBefore) dialogue.undo(keepPrompt = true)
    }

    /**
     * Take back the last turn, question and reply. [keepPrompt]: its prompt then counts as read ahead, for a question
     * that goes on. Blocks. Throws [UsageError] if there is no turn.
     */
    fun undo(keepPrompt: Boolean = false) {
        requireRest()
        engine.call { dialogue.undo(keepPrompt) }
    }

    /**
     * Forget the oldest turns until [tokens] more tokens fit, for a talk that is to go on; returns how many turns. The
     * system prompt and the last turn stay, and nothing is read again. Blocks. Throws [UsageError] during a reply.
     */
    fun makeRoom(tokens: Int): Int {
        requireRest()
        return engine.call { dialogue.makeRoom(tokens) }
    }

    /** Like [makeRoom], on the engine's thread behind the reply in progress; [done] gets the number of turns there. */
    internal fun makeRoomLater(tokens: Int, done: (Int) -> Unit) {
        engine.submit { done(dialogue.makeRoom(tokens)) }
    }

    /** Return an independent copy that goes on from here. Blocks. Throws [UsageError] during a reply. */
    fun fork(): Conversation {
        requireRest()
        return engine.added(engine.call { dialogue.fork() })
    }

    /** Stop the reply in progress and release the memory of the conversation. */
    override fun close() {
        stop()
        engine.removed(this)
        try {
            engine.call { dialogue.close() }
        } catch (error: OmniError) {
            if (error.code != "closed") throw error // a closed engine has released it
        }
    }

    /** Whether a reply is in progress that was not stopped. */
    internal val replying: Boolean get() = synchronized(lock) { active != null }

    /** Let the reply in progress end in a cancellation. Does not wait: what is asked for next comes behind its end. */
    internal fun stop() = synchronized(lock) {
        active?.cancel()
        active = null
    }

    /** On the engine's thread, at its end. */
    internal fun release() = dialogue.close()

    private fun requireRest() {
        if (replying) throw inProgress()
    }

    private fun inProgress() = UsageError(
        "a reply of this conversation is in progress", "wait for its end, or cancel it", "reply_in_progress",
    )

    private fun reply(listener: ReplyListener, work: (CancelToken, (ReplyEvent) -> Unit) -> Unit) {
        val token = CancelToken()
        val free = synchronized(lock) {
            (active == null).also { if (it) active = token }
        }
        if (!free) {
            token.close()
            engine.submit { listener.onEvent(ReplyEvent.Failed(inProgress())) }
            return
        }
        try {
            engine.submit {
                turnsBefore = dialogue.turnCount
                work(token) { event ->
                    if (event is ReplyEvent.Done || event is ReplyEvent.Failed) ended(token)
                    listener.onEvent(event)
                }
            }
        } catch (error: OmniError) {
            ended(token)
            throw error
        }
    }

    private fun ended(token: CancelToken) = synchronized(lock) {
        if (active === token) active = null
        token.close()
    }
}
