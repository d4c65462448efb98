package org.pocketomni.engine.reply

import org.pocketomni.engine.FinishReason
import org.pocketomni.engine.Message
import org.pocketomni.engine.Part
import org.pocketomni.engine.ReplyEvent
import org.pocketomni.engine.ReplyOptions
import org.pocketomni.engine.Role
import org.pocketomni.engine.Samples
import org.pocketomni.engine.SamplesSource
import org.pocketomni.engine.Timings
import org.pocketomni.engine.UsageError
import org.pocketomni.engine.graphs.CancelToken
import org.pocketomni.engine.graphs.CancelledException
import org.pocketomni.engine.inputs.Prompt
import java.io.Closeable

/** A place between two turns: how many messages come before it, and where the context stood. */
private class Mark(val messages: Int, val context: ContextMark) {
    /** This place after as many messages and tokens before it were removed. */
    fun earlier(count: Int, tokens: Int) = Mark(messages - count, ContextMark(context.length - tokens, context.position))
}

/** Where a turn began, and where its prompt ended and its reply began. */
private class Turn(val start: Mark, val asked: Mark)

/** What a reply has come to. */
private class Progress {
    val clock = WorkClock()
    var reply: Reply? = null
    var prefill = 0.0
    var promptTokens = 0
    var cachedTokens = 0
}

/**
 * Messages, and a context that holds exactly what was said. Belongs to the engine's thread.
 *
 * Each turn appends its prompt to the context, streams a reply and keeps it, whether it ended, was stopped or failed. A
 * turn that is stopped or fails before its reply begins leaves no trace; of a regenerated one the question stays. Undo,
 * regenerate and cuts are truncations. [readAhead] prefills the start of a message that is still being made; every other
 * operation discards that first.
 */
internal class Dialogue private constructor(
    private val model: Model,
    messages: List<Message>,
    private var context: Context,
) : Closeable {
    private val messages = ArrayList(messages)
    private val turns = ArrayList<Turn>()
    private val speeds = HashMap<String, List<Double>>() // of the latest complete replies, by voice
    private var spoken: SpokenReply? = null
    private var end = context.mark() // of the last turn, or of the prompt while its reply is in progress
    private var ahead: Prompt? = null // what the context holds behind it
    private var prompt: Prompt? = null // of the last turn
    private var closed = false

    /** Token ids and codes of the last reply. */
    var lastTokens: List<Int> = emptyList()
        private set
    var lastCodes: List<Int> = emptyList()
        private set

    val turnCount: Int get() = turns.size

    /** For other threads, as of the last operation. */
    @Volatile
    var view = View(this.messages.toList(), 0, 0, context.limit)
        private set

    class View(val messages: List<Message>, val turns: Int, val used: Int, val limit: Int)

    constructor(model: Model, system: String?, limit: Int?, history: List<Message>) : this(
        model,
        listOf(Message(Role.SYSTEM, listOf(Part.Text(system ?: model.config.systemPrompt)))) + history,
        Context(model, limit),
    )

    /** Add a user turn and stream the reply. Every outcome is an event; the last one is Done or Failed. */
    fun send(parts: List<Part>, options: ReplyOptions, token: CancelToken, emit: (ReplyEvent) -> Unit) =
        respond(token, emit) { progress, pass ->
            val speech = options.speech?.resolved(model.speech)
            if (parts.isEmpty()) throw UsageError("the message is empty", "give a text, a sound or a picture")
            val start = mark()
            val reply: Reply
            val logits: FloatArray
            val turn: Turn
            try {
                val message = Message(Role.USER, parts)
                val prompt = build(message)
                messages.add(message)
                logits = prefill(progress, prompt, speech != null)
                turn = Turn(start, mark())
                reply = Reply(model, options, speech, context, progress.clock, pass)
            } catch (error: Throwable) {
                returnTo(start)
                throw error
            }
            turns.add(turn)
            stream(progress, reply, logits)
        }

    /**
     * Replace the last reply by another one to the same question; no prompt is read again. If it is stopped or fails
     * before it begins, it is empty.
     */
    fun regenerate(options: ReplyOptions, token: CancelToken, emit: (ReplyEvent) -> Unit) =
        respond(token, emit) { progress, pass ->
            val speech = options.speech?.resolved(model.speech)
            val turn = turns.lastOrNull() ?: throw UsageError("there is no reply to make anew", "say something first")
            forgetAhead()
            if (speech != null) context.checkSpeechRoom(turn.asked.context)
            val reply: Reply
            val logits: FloatArray
            try {
                returnTo(turn.asked)
                progress.promptTokens = 1
                logits = context.rereadLast().logits
                if (speech != null) context.readUnread()
                reply = Reply(model, options, speech, context, progress.clock, pass)
            } catch (error: Throwable) {
                returnTo(turn.asked)
                messages.add(Message(Role.ASSISTANT, listOf(Part.Text(""))))
                lastTokens = emptyList()
                lastCodes = emptyList()
                spoken = null
                throw error
            }
            stream(progress, reply, logits)
        }

    /** Read the beginning of a message that is still being made. After an error nothing is read ahead. */
    fun readAhead(parts: List<Part>, more: Boolean, speech: Boolean) {
        requireOpen()
        val start = mark()
        try {
            val prompt = build(Message(Role.USER, parts), partial = more)
            val count = if (more) prompt.stableLength() else prompt.ids.size
            if (count > 0) read(prompt.split(count).first, whole = false)
            if (speech && model.config.speech != null) context.readUnread()
        } catch (error: Throwable) {
            returnTo(start)
            throw error
        }
    }

    /** Take back the last turn, question and reply. [keepPrompt]: its prompt then counts as read ahead. */
    fun undo(keepPrompt: Boolean = false) {
        requireOpen()
        val turn = turns.removeLastOrNull() ?: throw UsageError("there is no turn to take back", "say something first")
        forgetAhead()
        returnTo(turn.start, if (keepPrompt) prompt else null)
        prompt = null
        spoken = null
        publish()
    }

    /** Cut the last reply to what was heard in its first [heardSeconds] of speech; returns the text that is left. */
    fun truncate(heardSeconds: Double): String {
        requireOpen()
        val reply = spoken
        if (reply == null || turns.isEmpty()) {
            throw UsageError("there is no spoken reply to cut", "cut it before the next turn or undo")
        }
        forgetAhead()
        val known = listOf(USUAL_SPEED) + speeds[reply.voice].orEmpty()
        val tokens = reply.heardTokens(heardSeconds, known.average())
        if (tokens < lastTokens.size) cut(reply, tokens)
        return spoken!!.text
    }

    /**
     * Forget the oldest turns until [tokens] more tokens fit; returns how many turns. The system prompt and the last
     * turn stay. No turn that stays is read again, and positions go on.
     */
    fun makeRoom(tokens: Int): Int {
        requireOpen()
        forgetAhead()
        val excess = end.length + tokens - context.limit
        val count = turns.indexOfFirst { it.start.context.length >= excess }.let { if (it < 0) turns.size - 1 else it }
        return if (count > 0 && forgetTurns(count)) count else 0
    }

    fun fork(): Dialogue {
        requireOpen()
        val copy = Dialogue(model, messages, context.fork(context.limit, end))
        copy.turns.addAll(turns)
        copy.speeds.putAll(speeds)
        copy.spoken = spoken
        copy.lastTokens = lastTokens
        copy.publish()
        return copy
    }

    override fun close() {
        if (!closed) context.close()
        closed = true
    }

    // Replies

    private fun respond(token: CancelToken, emit: (ReplyEvent) -> Unit, work: (Progress, (ReplyEvent) -> Unit) -> Unit) {
        val progress = Progress()
        val last = try {
            model.control.running(token) {
                model.control.check()
                requireOpen()
                work(progress) { event ->
                    progress.clock.pausedFor { emit(event) }
                    model.control.check() // a listener may have stopped the reply
                }
            }
            done(progress)
        } catch (stopped: CancelledException) {
            done(progress)
        } catch (error: Throwable) {
            ReplyEvent.Failed(error)
        } finally {
            progress.reply?.close()
            publish()
        }
        emit(last)
    }

    private fun stream(progress: Progress, reply: Reply, logits: FloatArray) {
        progress.reply = reply
        progress.prefill = progress.clock.seconds()
        try {
            reply.run(logits)
        } finally {
            keep(reply)
        }
    }

    private fun done(progress: Progress): ReplyEvent.Done {
        val reply = progress.reply
        val seconds = progress.clock.seconds()
        return ReplyEvent.Done(
            reply?.text?.toString() ?: "",
            reply?.finishReason ?: FinishReason.INTERRUPTED,
            reply?.speechComplete,
            reply?.timings(progress.prefill, progress.promptTokens, progress.cachedTokens)
                ?: Timings(seconds, seconds, null, null, null, progress.promptTokens, 0, 0, 0, 0.0),
            end.length,
            context.limit,
            context.bytes,
        )
    }

    /** Make the reply, as far as it came, a part of the conversation. */
    private fun keep(reply: Reply) {
        end = context.mark()
        context.truncate(end) // which mends a step that was interrupted
        lastTokens = reply.tokens.toList()
        lastCodes = reply.codes.toList()
        messages[messages.size - 1] = withoutStreams(messages.last()) // the caches hold what was heard
        messages.add(Message(Role.ASSISTANT, listOf(Part.Text(reply.text.toString()))))
        spoken = reply.spoken
        val said = reply.spoken ?: return
        if (said.complete) speeds[said.voice] = (speeds[said.voice].orEmpty() + said.speed).takeLast(LATEST_SPEEDS)
    }

    private fun withoutStreams(message: Message) = Message(
        message.role,
        message.parts.map { if (it is Part.LiveSound) Part.Sound(SamplesSource(Samples(FloatArray(0), it.stream.rate))) else it },
    )

    private fun cut(reply: SpokenReply, tokens: Int) {
        val asked = turns.last().asked.context
        spoken = reply.cut(tokens)
        lastTokens = lastTokens.take(tokens)
        end = ContextMark(asked.length + tokens, asked.position + tokens)
        context.truncate(end)
        messages[messages.size - 1] = Message(Role.ASSISTANT, listOf(Part.Text(spoken!!.text)))
        publish()
    }

    /** Replace everything before turn [count] by the system prompt, if it ends like a turn. */
    private fun forgetTurns(count: Int): Boolean {
        val first = turns[count].start
        context.readPending()
        val stop = first.context.length
        val head = contextBefore(model, messages[0], context.ids.drop(stop), first.context.position) ?: return false
        head.use { context.replaceStart(stop, it) }
        val removed = stop - head.length
        messages.subList(1, first.messages).clear()
        val kept = turns.drop(count).map {
            Turn(it.start.earlier(first.messages - 1, removed), it.asked.earlier(first.messages - 1, removed))
        }
        turns.clear()
        turns.addAll(kept)
        end = ContextMark(end.length - removed, end.position)
        publish()
        return true
    }

    // The context

    private fun build(message: Message, partial: Boolean = false): Prompt =
        model.prompts.build(messages + message, end.position, turns.isNotEmpty(), partial)

    private fun prefill(progress: Progress, prompt: Prompt, speech: Boolean): FloatArray {
        progress.promptTokens = prompt.ids.size
        val (logits, known) = read(prompt, whole = true)
        progress.cachedTokens = known
        this.prompt = prompt
        ahead = null
        end = context.mark()
        if (speech) context.readUnread()
        model.mediaDone()
        return logits
    }

    /**
     * Let the context hold this prompt behind the last turn; what was read ahead of it is kept.
     *
     * Of a [whole] prompt at least the last token is read, for its logits. Returns them and how many tokens were known.
     */
    private fun read(prompt: Prompt, whole: Boolean): Pair<FloatArray, Int> {
        var known = 0
        ahead?.let {
            known = prompt.commonPrefix(it)
            if (whole) known = minOf(known, prompt.ids.size - 1)
            context.truncate(behind(prompt, known))
        }
        if (known == prompt.ids.size) {
            ahead = prompt // what was read may have been longer
            return FloatArray(0) to known
        }
        val rest = if (known > 0) prompt.split(known).second else prompt
        ahead = if (known > 0) prompt.split(known).first else null
        val logits = context.append(rest)
        ahead = prompt
        return logits to known
    }

    private fun forgetAhead() {
        ahead = null
        context.truncate(end)
    }

    private fun mark() = Mark(messages.size, end)

    /** Return to a mark; of what is behind it, the prompt [kept] stays in the context as read ahead. */
    private fun returnTo(mark: Mark, kept: Prompt? = null) {
        while (messages.size > mark.messages) messages.removeAt(messages.size - 1)
        ahead = kept
        end = mark.context
        context.truncate(if (kept == null) end else behind(kept, kept.ids.size))
    }

    /** The mark behind the first [count] tokens of a prompt that follows the last turn. */
    private fun behind(prompt: Prompt, count: Int) =
        ContextMark(end.length + count, if (count > 0) prompt.positions.largest(count) + 1 else end.position)

    private fun requireOpen() {
        if (closed) throw UsageError("the conversation is closed", "start a new one", "closed")
    }

    private fun publish() {
        view = View(messages.toList(), turns.size, end.length, context.limit)
    }

    private companion object {
        const val LATEST_SPEEDS = 8
    }
}
