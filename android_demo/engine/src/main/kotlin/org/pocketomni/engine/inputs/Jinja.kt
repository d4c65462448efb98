/** The part of Jinja that chat templates of the checkpoints use (docs/bundle.md, section 7). */
package org.pocketomni.engine.inputs

import org.pocketomni.engine.BundleError

/** A name or field that is not there; false, and nothing when it is written. */
internal object Undefined

private class Namespace(val values: MutableMap<String, Any?>)

private typealias Scope = MutableMap<String, Any?>
private typealias Expression = (Scope) -> Any?

private fun unsupported(what: String) = BundleError("the chat template uses $what, which this engine does not support")

/** A compiled template. Throws [BundleError] for a syntax that it does not know. */
internal class Jinja(source: String) {
    private val nodes: List<Node>

    init {
        val pieces = JinjaLexer(source).pieces()
        val parser = JinjaParser(pieces)
        nodes = parser.nodes(emptySet())
    }

    fun render(values: Map<String, Any?>): String {
        val out = StringBuilder()
        val scope = HashMap(values)
        nodes.forEach { it.render(scope, out) }
        return out.toString()
    }
}

private sealed class Node {
    abstract fun render(scope: Scope, out: StringBuilder)
}

private class TextNode(val text: String) : Node() {
    override fun render(scope: Scope, out: StringBuilder) {
        out.append(text)
    }
}

private class OutputNode(val value: Expression) : Node() {
    override fun render(scope: Scope, out: StringBuilder) {
        out.append(written(value(scope)))
    }
}

private class IfNode(val branches: List<Pair<Expression, List<Node>>>, val otherwise: List<Node>) : Node() {
    override fun render(scope: Scope, out: StringBuilder) {
        val taken = branches.firstOrNull { truth(it.first(scope)) }?.second ?: otherwise
        taken.forEach { it.render(scope, out) }
    }
}

private class ForNode(val name: String, val values: Expression, val body: List<Node>) : Node() {
    override fun render(scope: Scope, out: StringBuilder) {
        val items = values(scope) as? List<*> ?: throw unsupported("a loop over something else than a list")
        items.forEachIndexed { index, item ->
            val inner = HashMap(scope)
            inner[name] = item
            inner["loop"] = mapOf(
                "first" to (index == 0), "last" to (index == items.size - 1),
                "index" to index + 1L, "index0" to index.toLong(), "length" to items.size.toLong(),
            )
            body.forEach { it.render(inner, out) }
        }
    }
}

private class SetNode(val name: String, val field: String?, val value: Expression) : Node() {
    override fun render(scope: Scope, out: StringBuilder) {
        if (field == null) {
            scope[name] = value(scope)
            return
        }
        val space = scope[name] as? Namespace ?: throw unsupported("a field of something else than a namespace")
        space.values[field] = value(scope)
    }
}

private fun truth(value: Any?): Boolean = when (value) {
    null, Undefined, false, 0L, "" -> false
    is Collection<*> -> value.isNotEmpty()
    is Map<*, *> -> value.isNotEmpty()
    else -> true
}

private fun written(value: Any?): String = when (value) {
    Undefined -> ""
    null -> "None"
    true -> "True"
    false -> "False"
    is String, is Long -> value.toString()
    else -> throw unsupported("a list or an object as text")
}

/** Words of one tag: (kind, text). Kinds: name, text, number, sign. */
private class Word(val kind: Char, val text: String)

private class Piece(val kind: Char, val text: String, val words: List<Word>)

/** Splits a template into text (kind 't'), outputs ('o') and statements ('s'), with trim_blocks and lstrip_blocks. */
private class JinjaLexer(source: String) {
    private val text = source.replace("\r\n", "\n").replace('\r', '\n').removeSuffix("\n")
    private val found = ArrayList<Piece>()

    fun pieces(): List<Piece> {
        var at = 0
        var strip = false
        var trim = false
        while (true) {
            val open = Regex("\\{[{%#]").find(text, at)
            var plain = text.substring(at, open?.range?.first ?: text.length)
            if (strip) plain = plain.trimStart() else if (trim) plain = plain.removePrefix("\n")
            if (open == null) {
                add(plain)
                return found
            }
            val kind = open.value[1]
            val closing = mapOf('{' to "}}", '%' to "%}", '#' to "#}").getValue(kind)
            var start = open.range.first + 2
            val mark = text.getOrNull(start)
            if (mark == '-') plain = plain.trimEnd()
            else if (mark != '+' && kind != '{') plain = withoutIndent(plain, open.range.first)
            if (mark == '-' || mark == '+') start++
            add(plain)
            val end = end(start, closing)
            strip = text[end - 1] == '-' && end > start
            val kept = text[end - 1] == '+' && end > start && kind != '{'
            trim = kind != '{' && !kept
            val inside = text.substring(start, if (strip || kept) end - 1 else end)
            if (kind != '#') found.add(Piece(if (kind == '{') 'o' else 's', inside, words(inside)))
            at = end + 2
        }
    }

    private fun add(plain: String) {
        if (plain.isNotEmpty()) found.add(Piece('t', plain, emptyList()))
    }

    /** Drop the blanks before a tag that begins its line. */
    private fun withoutIndent(plain: String, tag: Int): String {
        val line = text.lastIndexOf('\n', tag - 1) + 1
        val indent = text.substring(line, tag)
        return if (indent.isNotBlank() || plain.length < indent.length) plain else plain.dropLast(indent.length)
    }

    /** Place of the closing mark; marks in strings do not count. */
    private fun end(start: Int, closing: String): Int {
        var quote: Char? = null
        var i = start
        while (i < text.length) {
            val c = text[i]
            when {
                closing == "#}" -> Unit
                quote != null && c == '\\' -> i++
                quote != null -> if (c == quote) quote = null
                c == '"' || c == '\'' -> quote = c
            }
            if (quote == null && text.startsWith(closing, i)) return i
            i++
        }
        throw BundleError("the chat template is invalid: a tag is not closed")
    }

    private fun words(inside: String): List<Word> {
        val words = ArrayList<Word>()
        var at = 0
        while (at < inside.length) {
            val match = WORD.find(inside, at)
            if (match == null || match.range.first != at) throw unsupported(inside.substring(at).trim().take(20))
            at = match.range.last + 1
            val (string, name, number, sign) = match.destructured
            when {
                string.isNotEmpty() -> words.add(Word('t', unescaped(string.substring(1, string.length - 1))))
                name.isNotEmpty() -> words.add(Word('n', name))
                number.isNotEmpty() -> words.add(Word('d', number))
                sign.isNotEmpty() -> words.add(Word('s', sign))
            }
        }
        return words
    }

    private fun unescaped(text: String): String {
        val out = StringBuilder()
        var i = 0
        while (i < text.length) {
            val c = text[i++]
            if (c != '\\') {
                out.append(c)
                continue
            }
            when (val next = text[i++]) {
                'n' -> out.append('\n')
                't' -> out.append('\t')
                'r' -> out.append('\r')
                '\\', '\'', '"' -> out.append(next)
                else -> throw unsupported("\\$next")
            }
        }
        return out.toString()
    }

    companion object {
        private val WORD = Regex(
            """\s*(?:("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|([A-Za-z_][A-Za-z0-9_]*)|([0-9]+)|(==|!=|[()\[\].,=+])|$)\s*""",
        )
    }
}

private class JinjaParser(private val pieces: List<Piece>) {
    private var at = 0

    /** Parse up to a statement that begins with one of [ends], which is not consumed. */
    fun nodes(ends: Set<String>): List<Node> {
        val nodes = ArrayList<Node>()
        while (at < pieces.size) {
            val piece = pieces[at]
            val words = Words(piece)
            if (piece.kind == 's' && words.peek() in ends) return nodes
            at++
            nodes.add(
                when (piece.kind) {
                    't' -> TextNode(piece.text)
                    'o' -> OutputNode(words.whole())
                    else -> statement(words)
                },
            )
        }
        if (ends.isNotEmpty()) throw BundleError("the chat template is invalid: it lacks ${ends.first()}")
        return nodes
    }

    private fun statement(words: Words): Node = when (val keyword = words.name()) {
        "if" -> conditional(words.whole())
        "for" -> {
            val name = words.name()
            words.expect("in")
            val values = words.whole()
            val body = nodes(setOf("endfor"))
            at++
            ForNode(name, values, body)
        }
        "set" -> {
            val name = words.name()
            val field = if (words.take(".")) words.name() else null
            words.expect("=")
            SetNode(name, field, words.whole())
        }
        else -> throw unsupported(keyword)
    }

    private fun conditional(first: Expression): Node {
        val branches = arrayListOf(first to nodes(ENDS_OF_IF))
        while (true) {
            val words = Words(pieces[at++])
            when (words.name()) {
                "elif" -> branches.add(words.whole() to nodes(ENDS_OF_IF))
                "else" -> {
                    val otherwise = nodes(setOf("endif"))
                    at++
                    return IfNode(branches, otherwise)
                }
                else -> return IfNode(branches, emptyList())
            }
        }
    }

    companion object {
        private val ENDS_OF_IF = setOf("elif", "else", "endif")
    }
}

/** Parses expressions from the words of one tag. */
private class Words(private val piece: Piece) {
    private var at = 0

    fun peek(): String? = piece.words.getOrNull(at)?.takeIf { it.kind != 't' }?.text

    fun take(text: String): Boolean = (peek() == text).also { if (it) at++ }

    fun expect(text: String) {
        if (!take(text)) throw unsupported(piece.text.trim())
    }

    fun name(): String {
        val word = piece.words.getOrNull(at++)
        return if (word?.kind == 'n') word.text else throw unsupported(piece.text.trim())
    }

    /** The expression up to the end of the tag. */
    fun whole(): Expression = either().also { if (at != piece.words.size) throw unsupported(piece.text.trim()) }

    private fun either(): Expression {
        var left = both()
        while (take("or")) {
            val (a, b) = left to both()
            left = { scope -> a(scope).let { if (truth(it)) it else b(scope) } }
        }
        return left
    }

    private fun both(): Expression {
        var left = negation()
        while (take("and")) {
            val (a, b) = left to negation()
            left = { scope -> a(scope).let { if (truth(it)) b(scope) else it } }
        }
        return left
    }

    private fun negation(): Expression {
        if (!take("not")) return comparison()
        val value = negation()
        return { scope -> !truth(value(scope)) }
    }

    private fun comparison(): Expression {
        val a = sum()
        if (take("==")) return sum().let { b -> { scope -> a(scope) == b(scope) } }
        if (take("!=")) return sum().let { b -> { scope -> a(scope) != b(scope) } }
        if (take("in")) return sum().let { b -> { scope -> contains(b(scope), a(scope)) } }
        if (take("not")) {
            expect("in")
            return sum().let { b -> { scope -> !contains(b(scope), a(scope)) } }
        }
        if (!take("is")) return a
        val negated = take("not")
        val test = name()
        return { scope -> tested(test, a(scope)) != negated }
    }

    private fun tested(test: String, value: Any?): Boolean = when (test) {
        "string" -> value is String
        "defined" -> value !== Undefined
        "none" -> value == null
        else -> throw unsupported("is $test")
    }

    private fun contains(container: Any?, value: Any?): Boolean = when (container) {
        is Map<*, *> -> container.containsKey(value)
        is List<*> -> value in container
        is String -> value is String && value in container
        else -> throw unsupported("in")
    }

    private fun sum(): Expression {
        var left = access()
        while (take("+")) {
            val (a, b) = left to access()
            left = { scope -> added(a(scope), b(scope)) }
        }
        return left
    }

    private fun added(a: Any?, b: Any?): Any = when {
        a is Long && b is Long -> a + b
        a is String && b is String -> a + b
        else -> throw unsupported("+ of other values than texts or numbers")
    }

    private fun access(): Expression {
        var value = primary()
        while (true) {
            val container = value
            val key: Expression = when {
                take(".") -> name().let { name -> { name } }
                take("[") -> either().also { expect("]") }
                else -> return value
            }
            value = { scope -> element(container(scope), key(scope)) }
        }
    }

    private fun element(container: Any?, key: Any?): Any? = when (container) {
        is Map<*, *> -> if (container.containsKey(key)) container[key] else Undefined
        is Namespace -> if (container.values.containsKey(key)) container.values[key] else Undefined
        is List<*> -> if (key is Long) container.getOrElse(key.toInt()) { Undefined } else Undefined
        else -> throw unsupported("a field of something that has none")
    }

    private fun primary(): Expression {
        val word = piece.words.getOrNull(at++) ?: throw unsupported(piece.text.trim())
        return when (word.kind) {
            't' -> { _ -> word.text }
            'd' -> word.text.toLong().let { number -> { number } }
            'n' -> named(word.text)
            else -> if (word.text == "(") either().also { expect(")") } else throw unsupported(piece.text.trim())
        }
    }

    private fun named(name: String): Expression {
        if (name == "namespace" && take("(")) {
            val fields = ArrayList<Pair<String, Expression>>()
            while (!take(")")) {
                val field = name()
                expect("=")
                fields.add(field to either())
                take(",")
            }
            return { scope -> Namespace(fields.associateTo(HashMap()) { it.first to it.second(scope) }) }
        }
        if (peek() == "(") throw unsupported("$name()")
        return when (name) {
            "true", "True" -> { _ -> true }
            "false", "False" -> { _ -> false }
            "none", "None" -> { _ -> null }
            else -> { scope -> if (scope.containsKey(name)) scope[name] else Undefined }
        }
    }
}
