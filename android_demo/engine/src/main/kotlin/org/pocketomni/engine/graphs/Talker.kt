package org.pocketomni.engine.graphs

import org.pocketomni.engine.Sampling
import org.pocketomni.engine.bundle.Table
import org.pocketomni.engine.bundle.TalkerConfig
import org.pocketomni.engine.inputs.Positions

/** How codes are sampled, and the maximum number of them. */
internal class TalkerSettings(val sampling: Sampling, val maxCodes: Int, val random: Pcg64)

/** The Talker: the Thinker's rows to codec codes. [codes] is the number of codes that the DiT knows. */
internal class Talker(
    val config: TalkerConfig,
    private val decoder: Decoder,
    private val codecTable: Table,
    private val textTable: Table,
    codes: Int,
) {
    private val banned = (0 until config.decoder.vocabSize)
        .filter { it == config.codecBos || (it >= codes && it !in config.codecEos) }.toIntArray()

    fun newCache(limit: Int? = null) = decoder.newCache(limit)

    /** Append rows of the conversation (n, input_size). */
    fun append(cache: KvCache, rows: FloatArray, positions: Positions) {
        decoder.extend(cache, rows, positions)
    }

    /** Start the speech of a reply whose first row is [firstRow]. */
    /**
     * Start the speech of a reply. The voice and the first row continue the text, from [position] on; the rows after
     * them are at [following] or later, which is behind all pictures of the prompt.
     */
    fun start(
        cache: KvCache,
        textBos: Int,
        firstRow: FloatArray,
        position: Int,
        settings: TalkerSettings,
        following: Int = 0,
    ) = CodecStream(this, cache, textBos, firstRow, position, settings, following)

    fun codec(code: Int): FloatArray = codecTable.row(code)

    fun text(token: Int): FloatArray = textTable.row(token)

    /** Append rows from [position] on; return the logits of the last one. */
    fun logits(cache: KvCache, rows: FloatArray, position: Int): FloatArray =
        decoder.extend(cache, rows, Positions.line(position, rows.size / config.inputSize)).logits

    fun sampleCode(logits: FloatArray, seen: Set<Int>, settings: TalkerSettings): Int =
        sample(suppress(logits, banned), settings.sampling, seen, settings.random)
}

/** The codes of one reply, decoded one by one as the reply's rows arrive. */
internal class CodecStream(
    private val talker: Talker,
    private val cache: KvCache,
    textBos: Int,
    firstRow: FloatArray,
    private var position: Int,
    private val settings: TalkerSettings,
    private val following: Int,
) {
    private val rows = ArrayDeque<FloatArray>()
    private var textEnded = false
    private var eosSaid = false
    private val seen = linkedSetOf(talker.config.codecPad, talker.config.codecBos)
    private var nextRows: FloatArray
    private var lastCode = -1

    /** Codes so far, and whether there are no more: [complete] if the Talker ended by itself. */
    var count = 0
        private set
    var ended = false
        private set
    var complete = false
        private set

    /** Of the last step, before suppression and penalty. */
    var logits = FloatArray(0)
        private set

    init {
        if (cache.length > 0) seen.add(talker.config.codecMask)
        nextRows = sum(talker.text(textBos), talker.codec(talker.config.codecPad)) +
            sum(firstRow, talker.codec(talker.config.codecBos))
    }

    /** Add the next row of the reply. */
    fun feed(row: FloatArray) = rows.addLast(row)

    /** No more rows will come. */
    fun endText() {
        textEnded = true
    }

    /** Whether [step] has all it needs. */
    val ready: Boolean get() = !ended && (count == 0 || rows.isNotEmpty() || textEnded)

    /** Decode the next code; null when the speech has ended. */
    fun step(): Int? {
        if (count > 0) nextRows = sum(talker.codec(lastCode), replyRow())
        logits = talker.logits(cache, nextRows, position)
        position = maxOf(position + nextRows.size / talker.config.inputSize, following)
        val code = talker.sampleCode(logits, seen, settings)
        if (code in talker.config.codecEos) {
            ended = true
            complete = true
            return null
        }
        seen.add(code)
        lastCode = code
        count++
        if (count >= settings.maxCodes || cache.room == 0) ended = true
        return code
    }

    private fun replyRow(): FloatArray {
        rows.removeFirstOrNull()?.let { return it }
        val token = if (eosSaid) talker.config.textPad else talker.config.textEos
        eosSaid = true
        return talker.text(token)
    }

    private fun sum(a: FloatArray, b: FloatArray) = FloatArray(a.size) { a[it] + b[it] }
}
