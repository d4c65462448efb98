/** JSON values of the parity tests: requests from Python, and answers with tensors in base64. */
package org.pocketomni.engine

import org.pocketomni.engine.inputs.Positions
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.util.Base64

/** An array with its shape, as Python writes and reads it. */
class Tensor(val dtype: String, val shape: List<Int>, val bytes: ByteArray) {
    val floats: FloatArray
        get() = FloatArray(bytes.size / 4).also { buffer().asFloatBuffer().get(it) }

    private fun buffer() = ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN)

    fun json(): Map<String, Any> =
        mapOf("dtype" to dtype, "shape" to shape, "data" to Base64.getEncoder().encodeToString(bytes))

    companion object {
        fun of(values: FloatArray, vararg shape: Int): Tensor {
            val bytes = ByteBuffer.allocate(4 * values.size).order(ByteOrder.LITTLE_ENDIAN)
            bytes.asFloatBuffer().put(values)
            val sizes = if (shape.isEmpty()) listOf(values.size) else shape.toList()
            return Tensor("float32", sizes, bytes.array())
        }

        fun of(values: DoubleArray): Tensor {
            val bytes = ByteBuffer.allocate(8 * values.size).order(ByteOrder.LITTLE_ENDIAN)
            bytes.asDoubleBuffer().put(values)
            return Tensor("float64", listOf(values.size), bytes.array())
        }

        fun of(image: RgbImage) = Tensor("uint8", listOf(image.height, image.width, 3), image.rgb)

        fun read(value: Any?): Tensor {
            val fields = value as Map<*, *>
            return Tensor(fields["dtype"] as String, ints(fields["shape"]).toList(), Base64.getDecoder().decode(fields["data"] as String))
        }
    }
}

internal fun ints(value: Any?): IntArray = (value as List<*>).map { (it as Long).toInt() }.toIntArray()

internal fun positions(value: Any?): Positions = (value as List<*>).map(::ints).let { Positions(it[0], it[1], it[2]) }

internal fun image(value: Any?): RgbImage = Tensor.read(value).let { RgbImage(it.shape[1], it.shape[0], it.bytes) }

internal fun samples(value: Any?): Samples = (value as Map<*, *>).let { Samples(Tensor.read(it["samples"]).floats, (it["rate"] as Long).toInt()) }

/** A film in memory: frames (t, h, w, 3) with time stamps, and sound in pieces of one rate, each with its time stamp. */
internal class MemoryFilm(
    private val tensor: Tensor,
    private val shown: List<Double>,
    override val times: FilmTimes,
    private val track: (start: Double, maxSeconds: Double) -> Samples?,
) : FilmSource, OpenFilm {
    override fun open() = this
    override val height = tensor.shape[1]
    override val width = tensor.shape[2]

    /** Only the frame that is visited, and the one before it, can be converted. */
    private inner class Frame(private val number: Int, override val seconds: Double) : FilmFrame {
        override fun rgb(): RgbImage {
            check(number >= visited - 1) { "frame $number is gone" }
            val size = width * height * 3
            return RgbImage(width, height, tensor.bytes.copyOfRange(number * size, (number + 1) * size))
        }
    }

    private var visited = 0

    override fun decode(visit: (FilmFrame?) -> Boolean) {
        shown.forEachIndexed { number, seconds ->
            visited = number
            if (!visit(Frame(number, seconds))) return
        }
        visit(null)
    }

    override fun sound(start: Double, maxSeconds: Double) = track(start, maxSeconds)

    override fun close() = Unit
}

internal fun doubles(value: Any?): List<Double> = (value as List<*>).map { (it as Number).toDouble() }

internal fun filmTimes(value: Any?): FilmTimes {
    val fields = value as Map<*, *>
    fun number(name: String) = (fields[name] as Number?)?.toDouble()
    return FilmTimes.of(doubles(fields["stamps"]).toDoubleArray(), number("sound"), number("length"), number("rate"))
}

/** A film of a constant rate, or one with the time stamps of `times`; those of decoded frames are `shown`. */
private fun film(fields: Map<*, *>): FilmSource {
    val frames = Tensor.read(fields["frames"])
    val times = fields["times"]
    if (times == null) {
        val rate = (fields["rate"] as Number).toDouble()
        val stamps = List(frames.shape[0]) { it / rate }
        val sound = fields["sound"]?.let(::samples)
        return MemoryFilm(frames, stamps, FilmTimes(stamps.toDoubleArray(), 0.0, stamps.size / rate, doubleArrayOf(rate))) { _, _ -> sound }
    }
    return MemoryFilm(frames, doubles(fields["shown"]), filmTimes(times)) { start, maxSeconds ->
        (fields["sound"] as List<*>?)?.let { pieces ->
            val track = SoundTrack(start, maxSeconds)
            for (piece in pieces) samples(piece).let { track.add(((piece as Map<*, *>)["at"] as Number).toDouble(), it.samples, it.rate) }
            track.samples()
        }
    }
}

internal fun part(value: Any?): Part {
    val (kind, content) = (value as Map<*, *>).entries.single().toPair()
    return when (kind) {
        "text" -> Part.Text(content as String)
        "sound" -> Part.Sound(SamplesSource(samples(content)))
        "picture" -> Part.Picture(ImageSource(image(content)))
        "video" -> Part.Film(film(content as Map<*, *>))
        else -> error("there is no part $kind")
    }
}

internal fun parts(value: Any?): List<Part> = (value as List<*>).map(::part)

internal fun messages(value: Any?): List<Message> = (value as List<*>).map {
    val fields = it as Map<*, *>
    Message(Role.valueOf((fields["role"] as String).uppercase()), parts(fields["parts"]))
}

internal fun sampling(value: Any?): Sampling = (value as Map<*, *>).let {
    fun number(name: String) = (it[name] as Number).toDouble()
    Sampling(number("temperature"), number("top_k").toInt(), number("top_p"), number("repetition_penalty"))
}

internal fun replyOptions(value: Any?): ReplyOptions {
    val fields = value as Map<*, *>
    val speech = (fields["speech"] as Map<*, *>?)?.let {
        SpeechOptions(
            it["voice"] as String?, it["preset"] as String?, it["sampling"]?.let(::sampling),
            (it["max_codes"] as Long?)?.toInt(), Chunks.valueOf((it["chunks"] as String).uppercase()),
        )
    }
    return ReplyOptions(speech, sampling(fields["sampling"]), (fields["max_tokens"] as Long).toInt(), fields["seed"] as Long)
}

/** Write a value as one line of JSON. */
internal fun json(value: Any?, out: StringBuilder = StringBuilder()): StringBuilder = out.apply {
    when (value) {
        null, is Boolean, is Number -> append(value)
        is Tensor -> json(value.json(), out)
        is IntArray -> json(value.toList(), out)
        is LongArray -> json(value.toList(), out)
        is FloatArray -> json(Tensor.of(value), out)
        is Positions -> json(value.axes, out)
        is List<*> -> {
            value.forEachIndexed { i, one -> json(one, append(if (i == 0) "[" else ",")) }
            append(if (value.isEmpty()) "[]" else "]")
        }
        is Map<*, *> -> {
            append('{')
            value.entries.forEachIndexed { i, (key, one) ->
                if (i > 0) append(',')
                json(key, out)
                append(':')
                json(one, out)
            }
            append('}')
        }
        else -> {
            append('"')
            for (c in value.toString()) {
                if (c == '"' || c == '\\') append('\\').append(c)
                else if (c < ' ' || c.isSurrogate() || c > '~') append("\\u%04x".format(c.code))
                else append(c)
            }
            append('"')
        }
    }
}
