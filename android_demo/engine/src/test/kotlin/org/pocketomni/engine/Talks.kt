package org.pocketomni.engine

import java.util.concurrent.LinkedBlockingQueue
import java.util.concurrent.TimeUnit

/** Conversations by number: each request is one operation, and a reply's events come back together. */
internal class Talks(private val engine: Engine) {
    private val talks = HashMap<Long, Conversation>()
    private val streams = HashMap<Long, AudioStream>()
    private val voices = HashMap<Long, Voice>()

    fun answer(name: String, given: Map<*, *>): Any? {
        val number = given["talk"] as Long
        if (name == "open") {
            val history = given["history"]?.let(::messages).orEmpty()
            talks[number] = engine.conversation(given["system"] as String?, (given["context"] as Long?)?.toInt(), history)
            return null
        }
        val talk = talks.getValue(number)
        if (name == "listen") {
            voices[number] = Voice(talk, given)
            return null
        }
        if (name.startsWith("voice.")) return voices.getValue(number).answer(name.removePrefix("voice."), given)
        return when (name) {
            "send" -> reply(talk, given) { listener -> talk.send(message(given), replyOptions(given["options"]), listener) }
            "regenerate" -> reply(talk, given) { listener -> talk.regenerate(replyOptions(given["options"]), listener) }
            "read_ahead" -> {
                talk.readAhead(message(given), given["more"] as Boolean, given["speech"] as Boolean)
                talk.cancel() // waits for it
            }
            "interrupt" -> talk.interrupt((given["heard"] as Number).toDouble())
            "undo" -> talk.undo()
            "make_room" -> talk.makeRoom((given["tokens"] as Long).toInt())
            "retract" -> talk.retract()
            "fork" -> talks[given["copy"] as Long] = talk.fork()
            "messages" -> talk.messages.map { listOf(it.role.name.lowercase(), it.text) }
            "tokens" -> engine.call { talk.lastTokens }
            "close" -> talks.remove(number)!!.close()
            "stream" -> streams[number] = engine.audioStream((given["rate"] as Long).toInt())
            "push" -> streams.getValue(number).push(Tensor.read(given["samples"]).floats)
            "finish" -> streams.getValue(number).finish()
            else -> error("there is no operation $name")
        }.let { result -> if (result is Unit || result is Conversation) null else result }
    }

    /** The parts of a message; with `stream` the conversation's live sound is the last one. */
    private fun message(given: Map<*, *>): List<Part> {
        val live = if (given["live"] == true) listOf(Part.LiveSound(streams.getValue(given["talk"] as Long))) else emptyList()
        return parts(given["parts"]) + live
    }

    /**
     * Collect a reply; `cancel_after` stops it at that event of that kind, `stop_after` after so many milliseconds from
     * another thread.
     */
    private fun reply(talk: Conversation, given: Map<*, *>, start: (ReplyListener) -> Unit): Map<String, Any?> {
        val cancel = given["cancel_after"] as Map<*, *>?
        val kind = cancel?.get("event")
        var left = (cancel?.get("count") as Long?) ?: -1
        val over = LinkedBlockingQueue<Map<String, Any?>>()
        val texts = ArrayList<String>()
        val audio = ArrayList<Map<String, Any?>>()
        start { event ->
            val seen = when (event) {
                is ReplyEvent.TextDelta -> "text".also { texts.add(event.text) }
                is ReplyEvent.AudioDelta -> "audio".also {
                    audio.add(mapOf("samples" to event.samples, "first" to event.firstSample, "position" to event.textPosition))
                }
                else -> ""
            }
            if (seen == kind && --left == 0L) talk.stop()
            if (event is ReplyEvent.Failed) over.add(mapOf("error" to (event.error as? OmniError)?.code, "message" to event.error.toString()))
            if (event is ReplyEvent.Done) over.add(done(talk, event) + mapOf("texts" to texts, "audio" to audio))
        }
        val milliseconds = given["stop_after"] as Number?
        if (milliseconds != null) {
            val early = over.poll((milliseconds.toDouble() * 1e6).toLong(), TimeUnit.NANOSECONDS)
            if (early != null) return early
            talk.stop()
        }
        return over.take()
    }

    private fun done(talk: Conversation, event: ReplyEvent.Done): Map<String, Any?> = mapOf(
        "text" to event.text,
        "finish_reason" to event.finishReason.name.lowercase(),
        "speech_complete" to event.speechComplete,
        "used" to event.contextUsed,
        "limit" to event.contextLimit,
        "cache_bytes" to event.cacheBytes,
        "tokens" to talk.lastTokens,
        "codes" to talk.lastCodes,
        "prompt_tokens" to event.timings.promptTokens,
        "cached_tokens" to event.timings.cachedTokens,
        "messages" to talk.messages.map { listOf(it.role.name.lowercase(), it.text) },
        "seconds" to listOf(event.timings.total, event.timings.prefill, event.timings.lastText ?: 0.0),
    )
}
