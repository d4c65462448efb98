package org.pocketomni.engine

import org.pocketomni.engine.bundle.DecoderConfig
import org.pocketomni.engine.graphs.Code2Wav
import org.pocketomni.engine.graphs.FixedScheduler
import org.pocketomni.engine.graphs.KvCache
import org.pocketomni.engine.graphs.seededNoise
import org.pocketomni.engine.inputs.Positions
import org.pocketomni.engine.reply.Model

/** Times single parts: steps of the decoders behind [TOKENS] tokens, and the synthesis of codes. */
internal class Bench(private val model: Model) {
    private val thinker by lazy { model.thinker.newCache() }
    private val talker by lazy { model.talker.newCache() }

    /** Seconds of [count] steps of the Thinker or Talker, or of the synthesis of [count] codes. */
    fun seconds(what: String, count: Int): Double = when (what) {
        "decode" -> {
            if (thinker.length == 0) repeat(TOKENS) { model.thinker.step(thinker, 5, it) }
            thinker.truncate(TOKENS)
            timed { repeat(count) { model.thinker.step(thinker, 5, TOKENS + it) } }
        }
        "talker" -> {
            val row = model.talker.text(model.speech.talker.textPad)
            if (talker.length == 0) repeat(TOKENS) { model.talker.append(talker, row, Positions.shared(it, 1)) }
            talker.truncate(TOKENS)
            timed { repeat(count) { model.talker.logits(talker, row, TOKENS + it) } }
        }
        "code2wav" -> {
            val dit = model.speech.dit
            val noise = seededNoise(0, dit.blockFrames * dit.melDim)
            val voice = model.bundle.voice(model.speech.defaultVoice)
            timed {
                Code2Wav(model.dit(model.speech.defaultPreset), model.vocoder, voice, noise, FixedScheduler(listOf(1, 2, 4, 8))).use { sound ->
                    repeat(count) { sound.push(1 + it % 7) }
                    sound.finish()
                }
            }
        }
        else -> error("there is no bench $what")
    }

    private fun timed(work: () -> Unit): Double {
        val start = System.nanoTime()
        work()
        return (System.nanoTime() - start) / 1e9
    }

    private companion object {
        const val TOKENS = 64
    }
}

/** Milliseconds to double and to copy a KV cache of this shape, half full, and its bytes. */
internal fun cacheCost(given: Map<*, *>): Map<String, Any?> {
    fun number(name: String) = (given[name] as Long).toInt()
    val sections = ints(given["mrope_section"]).toList()
    val config = DecoderConfig(number("layers"), 0, 0, number("kv_heads"), number("head_dim"), 0, 1e6, sections, number("tokens"))
    val type = given["type"] as String
    val cache = KvCache(config, type, BufferAllocator.Direct)
    val half = number("tokens") / 2
    fun milliseconds(work: () -> Unit): Double {
        val start = System.nanoTime()
        work()
        return (System.nanoTime() - start) / 1e6
    }
    cache.append(Positions.line(0, half))
    cache.commit(half)
    val grown = milliseconds { cache.append(Positions.line(half, 1)) }
    cache.commit(1)
    lateinit var copy: KvCache
    val copied = milliseconds { copy = cache.fork() }
    val result = mapOf("grow" to grown, "fork" to copied, "bytes" to cache.bytes)
    copy.close()
    cache.close()
    return result
}
