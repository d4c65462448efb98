package org.pocketomni.engine.reply

import org.pocketomni.engine.graphs.KvCache
import org.pocketomni.engine.graphs.ThinkerOutput
import org.pocketomni.engine.inputs.IntList
import org.pocketomni.engine.inputs.MediaSlot
import org.pocketomni.engine.inputs.Positions
import org.pocketomni.engine.inputs.Prompt
import java.io.Closeable

/** A place in a context: tokens before it, and the position of the next token. */
internal data class ContextMark(val length: Int, val position: Int)

/** Rows of [width] floats for the Talker, with their positions. */
internal class TalkerRows(private val width: Int) {
    private val pieces = ArrayList<Pair<FloatArray, Positions>>()
    var size = 0
        private set

    fun add(rows: FloatArray, positions: Positions) {
        pieces.add(rows to positions) // joined when they are read: a reply adds them one by one
        size += positions.size
    }

    /** All rows and their positions. */
    fun joined(): Pair<FloatArray, Positions> {
        if (pieces.size == 1) return pieces[0]
        val rows = FloatArray(size * width)
        val axes = List(3) { IntList() }
        var at = 0
        for ((part, positions) in pieces) {
            part.copyInto(rows, at)
            at += part.size
            positions.axes.forEachIndexed { axis, values -> axes[axis].addAll(values) }
        }
        val (time, height, breadth) = axes.map { it.toArray() }
        set(rows, Positions(time, height, breadth))
        return rows to pieces[0].second
    }

    /** Forget all but the first [count] rows. */
    fun truncate(count: Int) {
        if (count >= size) return
        val (rows, positions) = joined()
        set(rows.copyOf(count * width), positions.range(0, count))
    }

    /** Replace the first [stop] rows by those of [start]. */
    fun replaceStart(stop: Int, start: TalkerRows) {
        val (rows, positions) = joined()
        val (head, where) = start.joined()
        set(head + rows.copyOfRange(stop * width, rows.size), where + positions.range(stop, positions.size))
    }

    fun fork(): TalkerRows {
        val copy = TalkerRows(width)
        val (rows, positions) = joined()
        copy.add(rows, positions) // the arrays are never written to
        return copy
    }

    private fun set(rows: FloatArray, positions: Positions) {
        pieces.clear()
        pieces.add(rows to positions)
        size = positions.size
    }
}

/**
 * The token ids of a conversation, the KV caches of Thinker and Talker behind them, and rows the Talker has not read.
 *
 * Both may lag behind the ids: a token that was just sampled is pending until the next step reads it, and the Talker
 * reads rows only when there is something to speak. [length] counts the ids.
 */
internal class Context private constructor(
    private val model: Model,
    private val thinker: KvCache,
    private var talker: KvCache?,
    private val unread: TalkerRows,
) : Closeable {
    constructor(model: Model, limit: Int?) :
        this(model, model.thinker.newCache(limit), null, TalkerRows(model.config.decoder.hiddenSize))

    private val speaks = model.config.speech != null
    private val tokens = ArrayList<Int>()
    private var speechStart: Int? = null

    /** Position of the next token. */
    var position = 0
        private set

    /** For lengths at which it is not [position], one more than the position of the last token. */
    private var tails = mapOf<Int, Int>()

    /**
     * One more than the position of the last token. [position] is more if the pictures of a film outlast its sound
     * and the text behind it.
     */
    val textPosition: Int get() = tails[length] ?: position

    val ids: List<Int> get() = tokens
    val length: Int get() = tokens.size
    val limit: Int get() = thinker.limit
    val room: Int get() = limit - length
    val bytes: Long get() = thinker.bytes + (talker?.bytes ?: 0)

    fun mark() = ContextMark(length, position)

    /** Prefill a prompt; returns the logits behind it. Throws ContextFullError before any work. */
    fun append(prompt: Prompt): FloatArray {
        val pending = tokens.subList(thinker.length, length).toIntArray()
        thinker.checkRoom(pending.size + prompt.ids.size)
        val whole = behind(pending, prompt)
        val output = model.thinker.prefill(thinker, whole)
        addRows(output.talkerRows, whole.positions)
        prompt.ids.forEach(tokens::add)
        position = prompt.nextPosition
        noteTail(prompt.positions.time.last() + 1)
        return output.logits
    }

    /** Append a sampled token; it stays pending until [forward]. There must be room. */
    fun push(token: Int) {
        check(room > 0)
        tokens.add(token)
        position++
    }

    /** Let the Thinker read the one pending token. */
    fun forward(): ThinkerOutput {
        check(thinker.length == length - 1)
        val output = model.thinker.step(thinker, tokens.last(), position - 1)
        addRows(output.talkerRows, Positions.shared(position - 1, 1))
        return output
    }

    /** Let the Thinker read the pending token, if there is one. */
    fun readPending() {
        if (thinker.length < length) forward()
    }

    /**
     * Replace the first [stop] tokens by those of [start], which are not more. What follows keeps its positions and
     * its cached states, which were computed while the replaced tokens were there.
     */
    fun replaceStart(stop: Int, start: Context) {
        val speaking = talker
        if (speaking != null) { // either the cache or the unread rows hold all tokens
            readUnread()
            start.readUnread()
            speaking.replaceStart(stop, start.talkerCache())
        } else if (speaks) {
            unread.replaceStart(stop, start.unread)
        }
        thinker.replaceStart(stop, start.thinker)
        val rest = tokens.drop(stop)
        tokens.clear()
        tokens.addAll(start.tokens)
        tokens.addAll(rest)
        tails = tails.filterKeys { it > stop }.mapKeys { it.key - (stop - start.length) }
    }

    /** Read the last token once more, for its logits. */
    fun rereadLast(): ThinkerOutput {
        val token = tokens.last()
        val before = position
        val tail = textPosition
        truncate(ContextMark(length - 1, tail - 1))
        push(token)
        val output = forward()
        position = before
        noteTail(tail)
        return output
    }

    /** Throw ContextFullError when the Talker could not say anything behind [mark]. */
    fun checkSpeechRoom(mark: ContextMark = mark()) {
        val cache = talkerCache()
        cache.checkRoom(mark.length - minOf(cache.length, mark.length) + MIN_SPEECH_ROWS)
    }

    /** Let the Talker read what it has not read yet. */
    fun readUnread() {
        val cache = talkerCache()
        cache.checkRoom(unread.size + MIN_SPEECH_ROWS)
        val before = cache.length
        if (unread.size > 0) {
            val (rows, positions) = unread.joined()
            try {
                model.talker.append(cache, rows, positions)
            } catch (error: Throwable) {
                cache.truncate(before)
                throw error
            }
        }
        unread.truncate(0)
    }

    /** The Talker's cache, for codec rows until [endSpeech]. All rows must have been read. */
    fun beginSpeech(): KvCache {
        val cache = talkerCache()
        speechStart = cache.length
        return cache
    }

    /** Remove the codec rows; the reply's own rows stay unread like those of a prompt. */
    private fun endSpeech() {
        speechStart?.let { talker?.truncate(it) }
        speechStart = null
    }

    /** Forget everything behind [mark]. */
    fun truncate(mark: ContextMark) {
        endSpeech()
        val read = minOf(talker?.length ?: 0, mark.length)
        talker?.truncate(read)
        unread.truncate(mark.length - read)
        // A step that was interrupted may have filled the Thinker's cache and given no row.
        val known = if (speaks) read + unread.size else thinker.length
        thinker.truncate(minOf(thinker.length, mark.length, known))
        while (length > mark.length) tokens.removeAt(length - 1)
        tails = tails.filterKeys { it <= length }
        position = mark.position
    }

    /** Return an independent copy that ends at [mark]. */
    fun fork(limit: Int, mark: ContextMark): Context {
        val copy = Context(model, thinker.fork(limit), talker?.fork(limit), unread.fork())
        copy.tokens.addAll(tokens)
        copy.position = position
        copy.tails = tails
        copy.speechStart = speechStart
        copy.truncate(mark)
        return copy
    }

    override fun close() {
        thinker.close()
        talker?.close()
    }

    private fun talkerCache(): KvCache = talker ?: model.talker.newCache(limit).also { talker = it }

    private fun noteTail(tail: Int) {
        if (tail != position) tails = tails + (length to tail)
    }

    private fun addRows(rows: FloatArray, positions: Positions) {
        if (speaks) unread.add(rows, positions)
    }

    /** The prompt behind pending tokens, which are read together with it. */
    private fun behind(pending: IntArray, prompt: Prompt): Prompt {
        if (pending.isEmpty()) return prompt
        val shift = pending.size
        return Prompt(
            pending + prompt.ids,
            Positions.line(position - shift, shift) + prompt.positions,
            prompt.media.map { slot -> MediaSlot(slot.kind, IntArray(slot.rows.size) { slot.rows[it] + shift }, slot.features) },
            prompt.nextPosition,
        )
    }

    private companion object {
        /** Rows that the Talker needs to say anything: voice, first reply row, one code. */
        const val MIN_SPEECH_ROWS = 3
    }
}
