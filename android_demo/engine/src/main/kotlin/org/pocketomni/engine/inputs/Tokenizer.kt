package org.pocketomni.engine.inputs

import org.pocketomni.engine.BundleError
import org.pocketomni.engine.bundle.Json
import org.pocketomni.engine.bundle.JsonError
import org.pocketomni.engine.bundle.SpecialTokens
import java.text.Normalizer

/**
 * Byte-level BPE from the checkpoint's tokenizer.json. Text of a user never becomes a special token.
 *
 * [content] is the file's text; [controls] are special even if the file does not mark them. Throws [BundleError] for
 * a tokenizer of another kind.
 */
internal class Tokenizer(content: String, controls: SpecialTokens) {
    /** Ids of special tokens by their text. */
    val special: Map<String, Int>
    private val specialIds: Set<Int>
    private val raw: TokenCutter
    private val afterwards: TokenCutter
    private val normalize: Boolean
    private val bytes = IntArray(256)
    private val tokens: Array<String?>
    private val bpe: Bpe
    private val cut: TokenCutter
    private val known = object : LinkedHashMap<String, IntArray>(16, 0.75f, true) {
        override fun removeEldestEntry(eldest: MutableMap.MutableEntry<String, IntArray>?) = size > CACHED
    }

    private class Added(val id: Int, val content: String, val special: Boolean, val normalized: Boolean)

    init {
        val file = try {
            TokenizerFile(Json.parse(content))
        } catch (error: JsonError) {
            throw BundleError("tokenizer.json is not a tokenizer: ${error.message}")
        }
        normalize = file.normalizes
        val added = file.added.map { (id, text, flags) ->
            Added(id, text, "special" in flags || id in controls.all, "normalized" in flags)
        }
        special = added.filter { it.special }.associate { it.content to it.id }
        specialIds = special.values.toSet()
        val plain = added.filter { !it.special }
        raw = TokenCutter(plain.filter { !it.normalized }.associate { it.content to it.id })
        afterwards = TokenCutter(plain.filter { it.normalized }.associate { it.content to it.id })
        val vocabulary = file.vocabulary
        tokens = arrayOfNulls(1 + maxOf(vocabulary.values.maxOrNull() ?: 0, added.maxOfOrNull { it.id } ?: 0))
        vocabulary.forEach { (text, id) -> tokens[id] = text }
        added.forEach { tokens[it.id] = it.content }
        val ordinary = controls.eos.filter { tokens.getOrNull(it) != null }  // may end a reply as well
        (controls.all - specialIds - ordinary.toSet()).firstOrNull()?.let {
            throw BundleError("tokenizer.json lacks the token $it of the configuration")
        }
        for (byte in 0..255) {
            bytes[byte] = vocabulary[ByteLevel.written(byte).toString()]
                ?: throw BundleError("tokenizer.json has no token for byte $byte")
        }
        bpe = Bpe(file.merges)
        cut = TokenCutter(special)
    }

    /** Encode plain text, without special tokens. Lone surrogates become U+FFFD. */
    fun encode(text: String): IntArray {
        val found = IntList()
        raw.cut(withoutLoneSurrogates(text), found::add) { piece ->
            val normal = if (normalize) Normalizer.normalize(piece, Normalizer.Form.NFC) else piece
            afterwards.cut(normal, found::add) { plain -> PreTokenizer.forEach(plain) { found.addAll(piece(it)) } }
        }
        return found.toArray()
    }

    /** Split text of a template: call [token] for each special token, [text] for what is between them. */
    fun split(template: String, token: (Int) -> Unit, text: (String) -> Unit) = cut.cut(template, token, text)

    /** Decode [ids] without special tokens. Bytes that are no UTF-8 become U+FFFD. */
    fun decode(ids: IntArray): String {
        val found = ByteList()
        for (id in ids) {
            val token = if (id in specialIds) null else tokens.getOrNull(id)
            if (token != null) ByteLevel.read(token, found)
        }
        return decodeUtf8(found.values, found.size)
    }

    private fun piece(text: String): IntArray = known.getOrPut(text) {
        val utf8 = text.toByteArray(Charsets.UTF_8)
        bpe.merge(IntArray(utf8.size) { bytes[utf8[it].toInt() and 0xff] })
    }

    companion object {
        private const val CACHED = 4096
    }
}

/** Streaming decoder: its outputs, joined, equal [Tokenizer.decode] of all ids. */
internal class StreamDecoder(private val tokenizer: Tokenizer) {
    private val pending = IntList()

    /** Append a token; return the text that it completes, empty inside a character. */
    fun push(token: Int): String {
        pending.add(token)
        val text = tokenizer.decode(pending.toArray())
        return if (text.endsWith('\ufffd')) "" else text.also { pending.clear() }
    }

    /** Return the rest after the last token. */
    fun finish(): String = tokenizer.decode(pending.toArray()).also { pending.clear() }
}

/** Finds the leftmost, longest of some tokens in a text. */
internal class TokenCutter(private val ids: Map<String, Int>) {
    private val longestFirst = ids.keys.sortedByDescending { it.length }
    private val starts = longestFirst.map { it[0] }.toSet()

    fun cut(text: String, token: (Int) -> Unit, plain: (String) -> Unit) {
        var start = 0
        var at = 0
        while (at < text.length) {
            val found = if (text[at] in starts) longestFirst.firstOrNull { text.startsWith(it, at) } else null
            if (found == null) {
                at++
                continue
            }
            if (at > start) plain(text.substring(start, at))
            token(ids.getValue(found))
            at += found.length
            start = at
        }
        if (start < text.length) plain(text.substring(start))
    }
}

/** What an engine reads of a tokenizer.json. A setting that it does not implement is a [JsonError]. */
private class TokenizerFile(value: Any?) {
    private val root = objectOf(value, "it")
    private val model = objectOf(root["model"], "model")

    val vocabulary: Map<String, Int> =
        objectOf(model["vocab"], "model.vocab").entries.associate { it.key to (it.value as Long).toInt() }
    val normalizes: Boolean = normalizer(root["normalizer"])
    val merges: List<IntArray>
    val added: List<Triple<Int, String, Set<String>>>

    init {
        expect(model["type"] == "BPE", "model.type")
        for (name in listOf("unk_token", "continuing_subword_prefix", "end_of_word_suffix", "dropout")) {
            expect(model[name] in listOf(null, ""), "model.$name")
        }
        for (name in listOf("byte_fallback", "ignore_merges")) expect(model[name] in listOf(null, false), "model.$name")
        preTokenizer()
        expect(objectOf(root["decoder"], "decoder")["type"] == "ByteLevel", "decoder")
        expect(vocabulary.values.all { it in 0 until (1 shl Bpe.BITS) }, "an id")
        merges = listAt(model["merges"], "model.merges").map(::merge)
        added = listAt(root["added_tokens"], "added_tokens").map { addedToken(objectOf(it, "an added token")) }
    }

    private fun merge(value: Any?): IntArray {
        val pair = if (value is String) value.split(' ') else listAt(value, "a merge").map { it as? String ?: "" }
        if (pair.size != 2) throw JsonError("a merge has ${pair.size} parts")
        fun id(token: String) = vocabulary[token] ?: throw JsonError("the token $token of a merge is missing")
        return intArrayOf(id(pair[0]), id(pair[1]), id(pair[0] + pair[1]))
    }

    private fun addedToken(token: Map<String, Any?>): Triple<Int, String, Set<String>> {
        val flags = token.entries.filter { it.value == true }.map { it.key }.toSet()
        expect("special" in flags || flags.none { it in setOf("single_word", "lstrip", "rstrip") }, "an added token")
        val text = token["content"] as? String
        expect(!text.isNullOrEmpty() && token["id"] is Long, "an added token")
        return Triple((token["id"] as Long).toInt(), text!!, flags)
    }

    private fun normalizer(value: Any?): Boolean {
        if (value == null) return false
        val type = objectOf(value, "normalizer")["type"]
        if (type == "Sequence") {
            val parts = listAt(objectOf(value, "normalizer")["normalizers"], "normalizers")
            return parts.map(::normalizer).any { it }
        }
        expect(type == "NFC", "normalizer")
        return true
    }

    private fun preTokenizer() {
        val whole = objectOf(root["pre_tokenizer"], "pre_tokenizer")
        val parts = listAt(whole["pretokenizers"], "pre_tokenizer").map { objectOf(it, "pre_tokenizer") }
        expect(whole["type"] == "Sequence" && parts.map { it["type"] } == listOf("Split", "ByteLevel"), "pre_tokenizer")
        val (split, level) = parts
        val pattern = objectOf(split["pattern"], "pattern")["Regex"]
        expect(pattern == PreTokenizer.PATTERN, "the pattern of its pre_tokenizer")
        expect(split["behavior"] == "Isolated" && split["invert"] == false, "pre_tokenizer")
        expect(level["add_prefix_space"] == false && level["use_regex"] == false, "pre_tokenizer")
    }

    private fun expect(holds: Boolean, what: String) {
        if (!holds) throw JsonError("$what is not supported")
    }

    @Suppress("UNCHECKED_CAST")
    private fun objectOf(value: Any?, what: String): Map<String, Any?> =
        value as? Map<String, Any?> ?: throw JsonError("$what is not an object")

    private fun listAt(value: Any?, what: String): List<Any?> = value as? List<*> ?: throw JsonError("$what is not a list")
}
