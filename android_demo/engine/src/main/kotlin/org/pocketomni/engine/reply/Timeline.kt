/**
 * When each word of a reply is spoken: an estimate, for cutting a reply to what was heard.
 *
 * The Talker reads text far ahead of its voice, so codes do not tell which word is spoken. Each word gets a typical
 * duration by its spelling, and all of them are scaled by one speed: the reply's own if its speech is complete,
 * otherwise that of earlier replies in this voice. Silence does not count.
 */
package org.pocketomni.engine.reply

import org.pocketomni.engine.inputs.Unicode
import kotlin.math.round
import kotlin.math.sqrt

/** Speed until a reply of this conversation was finished. */
internal const val USUAL_SPEED = 1.25

private const val FRAME_SECONDS = 0.01
private const val SILENCE = 0.03 // a frame is silent below this share of the loud frames' level
private const val WORD_SECONDS = 0.06
private const val LETTER_SECONDS = 0.054
private const val PAUSE_SECONDS = 0.042
private const val WIDE_SECONDS = 0.22
private const val DIGIT_SECONDS = 0.3

private fun isBlank(point: Int) = Unicode.classOf(point) == Unicode.BLANK

private fun isLetter(point: Int) = Unicode.classOf(point) == Unicode.LETTER

private fun points(text: String): IntArray {
    val found = IntArray(text.codePointCount(0, text.length))
    var at = 0
    for (i in found.indices) {
        found[i] = text.codePointAt(at)
        at += Character.charCount(found[i])
    }
    return found
}

/** How long a text takes when it is read aloud at speed 1, without pauses. */
internal fun typicalSeconds(text: String): Double {
    var total = 0.0
    for ((start, end) in words(text)) {
        val word = points(text.substring(start, end)).filterNot(::isBlank)
        if (word.isEmpty()) continue
        val letters = word.count(::isLetter)
        val wide = word.count { isLetter(it) && Unicode.isWide(it) }
        val digits = word.count(Character::isDigit)
        total += (letters - wide) * LETTER_SECONDS + wide * WIDE_SECONDS + digits * DIGIT_SECONDS + WORD_SECONDS
        val last = word.last()
        if (letters + digits > 0 && !isLetter(last) && !Character.isDigit(last)) total += PAUSE_SECONDS
    }
    return total
}

/** Words with the blanks behind them: start and end. */
private fun words(text: String): List<Pair<Int, Int>> {
    val found = ArrayList<Pair<Int, Int>>()
    var at = 0
    fun skip(blank: Boolean) {
        while (at < text.length && isBlank(text.codePointAt(at)) == blank) at += Character.charCount(text.codePointAt(at))
    }
    skip(blank = true)
    while (at < text.length) {
        val start = at
        skip(blank = false)
        skip(blank = true)
        found.add(start to at)
    }
    return found
}

/** Ends of the words of a text; in scripts without spaces, of each character. */
internal fun wordEnds(text: String): List<Int> {
    val ends = ArrayList<Int>()
    for ((start, end) in words(text)) {
        val word = points(text.substring(start, end))
        if (word.any(Unicode::isWide)) {
            var at = start
            for (point in word.dropLast(1)) {
                at += Character.charCount(point)
                ends.add(at)
            }
        }
        ends.add(end)
    }
    return ends
}

/** Text and speech of one reply as they are produced. */
internal class SpeechTimeline(val sampleRate: Int) {
    private val levels = ArrayList<Float>()
    private var rest = FloatArray(0)
    var samples = 0
        private set

    /** Note the next samples. */
    fun add(more: FloatArray) {
        samples += more.size
        val frame = (FRAME_SECONDS * sampleRate).toInt()
        val joined = rest + more
        for (start in 0..joined.size - frame step frame) {
            var sum = 0.0
            for (i in start until start + frame) sum += joined[i].toDouble() * joined[i]
            levels.add(sqrt(sum / frame).toFloat())
        }
        rest = joined.copyOfRange(joined.size / frame * frame, joined.size)
    }

    /** Seconds with a voice in them, in the first [until] seconds or in all of the speech. */
    fun voicedSeconds(until: Double? = null): Double {
        if (levels.isEmpty()) return 0.0
        val threshold = SILENCE * quantile(0.95)
        val count = if (until == null) levels.size else round(until / FRAME_SECONDS).toInt().coerceIn(0, levels.size)
        return levels.subList(0, count).count { it > threshold } * FRAME_SECONDS
    }

    /** Typical duration of [text] over that of the voice, when all of it has been spoken. */
    fun speed(text: String): Double {
        val seconds = voicedSeconds()
        return (if (seconds > 0) typicalSeconds(text) / seconds else USUAL_SPEED).coerceIn(MIN_SPEED, MAX_SPEED)
    }

    /** Length of the text whose words were heard in the first [seconds]; a word counts once half of it was heard. */
    fun heard(text: String, seconds: Double, speed: Double): Int {
        val spoken = speed * voicedSeconds(seconds)
        var heard = 0
        var before = 0.0
        for (end in wordEnds(text)) {
            val duration = typicalSeconds(text.substring(heard, end))
            if (before + duration / 2 > spoken) break
            heard = end
            before += duration
        }
        return heard
    }

    private fun quantile(share: Double): Double {
        val sorted = levels.sorted()
        val place = share * (sorted.size - 1)
        val low = place.toInt()
        val high = minOf(low + 1, sorted.size - 1)
        return sorted[low] + (sorted[high] - sorted[low]) * (place - low)
    }

    private companion object {
        const val MIN_SPEED = 0.4
        const val MAX_SPEED = 2.5
    }
}

/**
 * A reply that was spoken, as far as it came. [textEnds] is, for each token, the length of the text once it was
 * decoded. [complete]: the Talker ended by itself.
 */
internal class SpokenReply(
    val text: String,
    private val textEnds: List<Int>,
    private val timeline: SpeechTimeline,
    val complete: Boolean,
    val voice: String,
) {
    /** Speed of a complete reply; 1 is typical. */
    val speed: Double get() = timeline.speed(text)

    /** Tokens that make the words heard in the first [seconds]; [usual] is the voice's speed, for unfinished speech. */
    fun heardTokens(seconds: Double, usual: Double): Int {
        val length = timeline.heard(text, seconds, if (complete) speed else usual)
        if (complete && length >= text.length) return textEnds.size
        val wanted = text.substring(0, length).trimEnd { isBlank(it.code) }.length
        if (wanted == 0) return 0
        return textEnds.indexOfFirst { it >= wanted }.let { if (it < 0) textEnds.size else it + 1 }
    }

    /** The reply with its first [tokens] tokens. */
    fun cut(tokens: Int): SpokenReply {
        val ends = textEnds.take(tokens)
        return SpokenReply(text.substring(0, ends.lastOrNull() ?: 0), ends, timeline, complete, voice)
    }
}
