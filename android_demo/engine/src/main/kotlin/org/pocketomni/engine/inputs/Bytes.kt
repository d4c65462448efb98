/** Bytes and characters of byte-level BPE, and UTF-8 that is decoded alike on every Android release. */
package org.pocketomni.engine.inputs

/** A growing array of ints. */
internal class IntList {
    private var values = IntArray(16)
    var size = 0
        private set

    fun add(value: Int) {
        if (size == values.size) values = values.copyOf(2 * size)
        values[size++] = value
    }

    fun addAll(more: IntArray) = more.forEach(::add)

    fun toArray(): IntArray = values.copyOf(size)

    fun clear() {
        size = 0
    }
}

/** A growing array of bytes. */
internal class ByteList {
    var values = ByteArray(64)
        private set
    var size = 0

    fun add(value: Int) {
        if (size == values.size) values = values.copyOf(2 * size)
        values[size++] = value.toByte()
    }
}

/** GPT-2's table of bytes written as printable characters. */
internal object ByteLevel {
    private val characters = CharArray(256)
    private val values = HashMap<Char, Int>()

    init {
        var next = 256
        for (byte in 0..255) {
            val printable = byte in 33..126 || byte in 161..172 || byte in 174..255
            characters[byte] = if (printable) byte.toChar() else (next++).toChar()
            values[characters[byte]] = byte
        }
    }

    fun written(byte: Int): Char = characters[byte]

    /** Append the bytes of a token; a token with other characters stands for itself. */
    fun read(token: String, out: ByteList) {
        val before = out.size
        for (c in token) {
            val byte = values[c]
            if (byte == null) {
                out.size = before
                for (one in token.toByteArray(Charsets.UTF_8)) out.add(one.toInt())
                return
            }
            out.add(byte)
        }
    }
}

/** Return [text] with U+FFFD for each lone surrogate. */
internal fun withoutLoneSurrogates(text: String): String {
    var result: StringBuilder? = null
    var i = 0
    while (i < text.length) {
        val paired = text[i].isHighSurrogate() && i + 1 < text.length && text[i + 1].isLowSurrogate()
        if (text[i].isSurrogate() && !paired) {
            result = result ?: StringBuilder(text)
            result.setCharAt(i, '\ufffd')
        }
        i += if (paired) 2 else 1
    }
    return result?.toString() ?: text
}

/** Decode UTF-8; each longest start of a character that is cut or wrong becomes one U+FFFD (as the WHATWG says). */
internal fun decodeUtf8(bytes: ByteArray, size: Int): String {
    val text = StringBuilder(size)
    var i = 0
    while (i < size) {
        val first = bytes[i++].toInt() and 0xff
        if (first < 0x80) {
            text.append(first.toChar())
            continue
        }
        val more = when (first) {
            in 0xc2..0xdf -> 1
            in 0xe0..0xef -> 2
            in 0xf0..0xf4 -> 3
            else -> 0
        }
        var point = first and (0x3f shr more)
        var read = 0
        while (read < more && i < size) {
            val byte = bytes[i].toInt() and 0xff
            val low = if (read == 0 && first == 0xe0) 0xa0 else if (read == 0 && first == 0xf0) 0x90 else 0x80
            val high = if (read == 0 && first == 0xed) 0x9f else if (read == 0 && first == 0xf4) 0x8f else 0xbf
            if (byte !in low..high) break
            point = (point shl 6) or (byte and 0x3f)
            i++
            read++
        }
        if (more == 0 || read < more) text.append('\ufffd') else text.appendCodePoint(point)
    }
    return text.toString()
}
