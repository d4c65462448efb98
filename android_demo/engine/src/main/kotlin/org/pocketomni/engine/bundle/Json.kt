package org.pocketomni.engine.bundle

/** A text is not JSON. */
internal class JsonError(message: String) : Exception(message)

/**
 * A JSON reader: objects become Maps, arrays Lists, numbers Long or Double. Android's org.json is not on the JVM.
 */
internal class Json private constructor(private val text: String) {
    private var at = 0

    private fun value(depth: Int): Any? {
        if (depth > MAX_DEPTH) throw error("is nested too deeply")
        skipBlanks()
        return when (peek()) {
            '{' -> objectAt(depth)
            '[' -> arrayAt(depth)
            '"' -> string()
            't' -> literal("true", true)
            'f' -> literal("false", false)
            'n' -> literal("null", null)
            else -> number()
        }
    }

    private fun objectAt(depth: Int): Map<String, Any?> {
        val found = LinkedHashMap<String, Any?>()
        at++
        skipBlanks()
        if (peek() == '}') return found.also { at++ }
        while (true) {
            skipBlanks()
            if (peek() != '"') throw error("needs a name")
            val name = string()
            skipBlanks()
            expect(':')
            found[name] = value(depth + 1)
            skipBlanks()
            if (peek() == '}') return found.also { at++ }
            expect(',')
        }
    }

    private fun arrayAt(depth: Int): List<Any?> {
        val found = ArrayList<Any?>()
        at++
        skipBlanks()
        if (peek() == ']') return found.also { at++ }
        while (true) {
            found.add(value(depth + 1))
            skipBlanks()
            if (peek() == ']') return found.also { at++ }
            expect(',')
        }
    }

    private fun string(): String {
        at++
        val start = at
        while (at < text.length && text[at] != '"' && text[at] != '\\' && text[at] >= ' ') at++
        if (at < text.length && text[at] == '"') return text.substring(start, at++)
        val found = StringBuilder(text.substring(start, at))
        while (true) {
            val c = peek()
            at++
            when {
                c == '"' -> return found.toString()
                c < ' ' -> throw error("has a control character in a string")
                c != '\\' -> found.append(c)
                else -> found.append(escaped())
            }
        }
    }

    private fun escaped(): Char {
        val c = peek()
        at++
        if (c == 'u') {
            if (at + 4 > text.length) throw error("ends inside an escape")
            val code = text.substring(at, at + 4).toIntOrNull(16) ?: throw error("has a wrong escape")
            at += 4
            return code.toChar()
        }
        val place = "\"\\/bfnrt".indexOf(c)
        if (place < 0) throw error("has a wrong escape")
        return "\"\\/\b\u000c\n\r\t"[place]
    }

    private fun number(): Any {
        val start = at
        while (at < text.length && (text[at] in '0'..'9' || text[at] in "+-.eE")) at++
        val written = text.substring(start, at)
        if (written.isEmpty()) throw error("has an unexpected character")
        return written.toLongOrNull() ?: written.toDoubleOrNull() ?: throw error("has a wrong number")
    }

    private fun literal(word: String, value: Any?): Any? {
        if (!text.startsWith(word, at)) throw error("has an unexpected character")
        at += word.length
        return value
    }

    private fun peek(): Char = if (at < text.length) text[at] else throw error("ends too early")

    private fun expect(c: Char) {
        if (peek() != c) throw error("needs '$c'")
        at++
    }

    private fun skipBlanks() {
        while (at < text.length && text[at] in " \t\r\n") at++
    }

    private fun error(what: String) = JsonError("the JSON $what at character $at")

    companion object {
        private const val MAX_DEPTH = 64

        /** Read one value. Throws [JsonError]. */
        fun parse(text: String): Any? {
            val reader = Json(text)
            val value = reader.value(0)
            reader.skipBlanks()
            if (reader.at != text.length) throw reader.error("goes on after its end")
            return value
        }
    }
}

/** Strict access to a JSON object: a missing field, one of another type, or an unknown one is a [JsonError]. */
internal class Fields(value: Any?, private val path: String) {
    private val values: Map<*, *> = value as? Map<*, *> ?: throw JsonError("$path is not an object")
    private val used = HashSet<Any?>()

    fun <T> read(name: String, convert: (Any) -> T?): T =
        optional(name, convert) ?: throw JsonError("$path.$name is null or of another type")

    fun <T> optional(name: String, convert: (Any) -> T?): T? {
        if (name !in values.keys) throw JsonError("$path.$name is missing")
        used.add(name)
        val value = values[name] ?: return null
        return convert(value) ?: throw JsonError("$path.$name is of another type")
    }

    fun int(name: String): Int = read(name) { (it as? Long)?.let { n -> if (n == n.toInt().toLong()) n.toInt() else null } }

    fun long(name: String): Long = read(name) { it as? Long }

    fun double(name: String): Double = read(name) { (it as? Number)?.toDouble() }

    fun string(name: String): String = read(name) { it as? String }

    /** A string that may be missing. */
    fun string(name: String, missing: String): String = if (name in values.keys) string(name) else missing

    fun ints(name: String): List<Int> = list(name) { (it as? Long)?.toInt() }

    fun doubles(name: String): List<Double> = list(name) { (it as? Number)?.toDouble() }

    fun strings(name: String): List<String> = list(name) { it as? String }

    fun <T> list(name: String, convert: (Any?) -> T?): List<T> = read(name) { value ->
        (value as? List<*>)?.map { convert(it) ?: throw JsonError("$path.$name holds another type") }
    }

    /** The object in a field, read to its end by [use]. */
    fun <T> record(name: String, use: (Fields) -> T): T = read(name) { whole(it, "$path.$name", use) }

    fun <T> optionalRecord(name: String, use: (Fields) -> T): T? = optional(name) { whole(it, "$path.$name", use) }

    /** The object in a field as a map of records. */
    fun <T> records(name: String, use: (Fields) -> T): Map<String, T> = read(name) { value ->
        (value as? Map<*, *>)?.entries?.associate { (key, one) -> key as String to whole(one, "$path.$name.$key", use) }
    }

    /** Throw for fields that were not read. */
    fun end() {
        val unknown = values.keys - used
        if (unknown.isNotEmpty()) throw JsonError("$path has an unknown field ${unknown.first()}")
    }

    companion object {
        fun <T> whole(value: Any?, path: String, use: (Fields) -> T): T {
            val fields = Fields(value, path)
            return use(fields).also { fields.end() }
        }
    }
}
