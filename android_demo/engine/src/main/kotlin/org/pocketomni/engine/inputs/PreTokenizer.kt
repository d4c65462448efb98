package org.pocketomni.engine.inputs

/** Classes of code points: letter, number, blank or other, as the Python runtime's tokenizer library has them. */
internal object Unicode {
    const val OTHER: Byte = 0
    const val LETTER: Byte = 1
    const val NUMBER: Byte = 2
    const val BLANK: Byte = 3

    /** Start of each run of one class, ascending, and its class. */
    private val starts: IntArray
    private val classes: ByteArray
    private val ascii: ByteArray

    init {
        val ranges = listOf(LETTERS to LETTER, NUMBERS to NUMBER, BLANKS to BLANK)
            .flatMap { (table, kind) -> ranges(table).map { Triple(it.first, it.last + 1, kind) } }
            .sortedBy { it.first }
        val runs = ArrayList<Pair<Int, Byte>>()
        var end = 0
        for ((start, stop, kind) in ranges) {
            if (start > end || runs.isEmpty()) runs.add(end to OTHER)
            runs.add(start to kind)
            end = stop
        }
        runs.add(end to OTHER)
        starts = IntArray(runs.size) { runs[it].first }
        classes = ByteArray(runs.size) { runs[it].second }
        ascii = ByteArray(128) { search(it) }
    }

    private val wide = ranges(WIDE)

    /** Whether a character is as wide as a Chinese one. */
    fun isWide(point: Int): Boolean = point >= wide[0].first && wide.any { point in it }

    fun classOf(point: Int): Byte = if (point < 128) ascii[point] else search(point)

    private fun ranges(table: String): List<IntRange> {
        val numbers = table.split(' ').map { it.toInt(36) }
        var at = 0
        return List(numbers.size / 2) {
            val start = at + numbers[2 * it]
            at = start + numbers[2 * it + 1]
            start until at
        }
    }

    private fun search(point: Int): Byte {
        var low = 0
        var high = starts.size - 1
        while (low < high) {
            val middle = (low + high + 1) ushr 1
            if (starts[middle] <= point) low = middle else high = middle - 1
        }
        return classes[low]
    }
}

/**
 * Cuts text as this regular expression does, written by hand since Android's differs from the JDK's:
 *
 *     (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
 */
internal object PreTokenizer {
    const val PATTERN =
        "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*" +
            "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

    /** Call [take] with each piece of [text] in order; joined they are the text. */
    inline fun forEach(text: String, take: (String) -> Unit) {
        var start = 0
        while (start < text.length) {
            val end = end(text, start)
            take(text.substring(start, end))
            start = end
        }
    }

    /** Return the end of the piece that begins at [start]. The alternatives are tried in order. */
    fun end(text: String, start: Int): Int {
        val first = text.codePointAt(start)
        val next = start + Character.charCount(first)
        contraction(text, start)?.let { return it }
        val kind = Unicode.classOf(first)
        if (kind == Unicode.LETTER) return run(text, next, Unicode.LETTER)
        val newline = first == '\r'.code || first == '\n'.code
        if (kind == Unicode.NUMBER) return next
        val following = if (next < text.length) Unicode.classOf(text.codePointAt(next)) else -1
        if (!newline && following == Unicode.LETTER) return run(text, next, Unicode.LETTER)
        if (kind == Unicode.OTHER) return newlines(text, run(text, next, Unicode.OTHER))
        if (first == ' '.code && following == Unicode.OTHER) return newlines(text, run(text, next, Unicode.OTHER))
        return blanks(text, start, run(text, next, Unicode.BLANK))
    }

    /** Blanks from [start] to [end]: up to the last newline; else all but the last one if text follows. */
    private fun blanks(text: String, start: Int, end: Int): Int {
        for (i in end - 1 downTo start) if (text[i] == '\r' || text[i] == '\n') return i + 1
        return if (end == text.length || end - start == 1) end else end - 1 // all blanks are single UTF-16 units
    }

    private fun newlines(text: String, start: Int): Int {
        var end = start
        while (end < text.length && (text[end] == '\r' || text[end] == '\n')) end++
        return end
    }

    private fun run(text: String, start: Int, kind: Byte): Int {
        var end = start
        while (end < text.length) {
            val point = text.codePointAt(end)
            if (Unicode.classOf(point) != kind) break
            end += Character.charCount(point)
        }
        return end
    }

    private fun contraction(text: String, start: Int): Int? {
        if (text[start] != '\'' || start + 1 >= text.length) return null
        val one = lower(text[start + 1])
        if (one in "stmd") return start + 2
        if (start + 2 >= text.length) return null
        val two = lower(text[start + 2])
        val found = (one == 'r' && two == 'e') || (one == 'v' && two == 'e') || (one == 'l' && two == 'l')
        return if (found) start + 3 else null
    }

    /** Unicode's simple case folding, as far as it gives one of the letters above: U+017F is an s. */
    private fun lower(c: Char): Char = when (c) {
        in 'A'..'Z' -> c + 32
        '\u017f' -> 's'
        else -> c
    }
}
