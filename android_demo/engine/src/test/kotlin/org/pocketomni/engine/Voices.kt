package org.pocketomni.engine

import org.pocketomni.engine.voice.TurnDetector
import org.pocketomni.engine.voice.Vad
import java.io.File
import java.util.concurrent.TimeUnit
import java.util.concurrent.locks.ReentrantLock
import kotlin.concurrent.withLock

/**
 * Voice sessions on a simulated clock: time passes with the samples that are heard. Playback keeps step; time stands
 * still while a reply is being made and nothing of it can be played.
 */
internal class Voice(conversation: Conversation, given: Map<*, *>) {
    private val lock = ReentrantLock()
    private val happened = lock.newCondition()
    private val events = ArrayList<Map<String, Any?>>()
    private val waiting = ArrayDeque<Float>()
    private var taken = 0
    private var rate = 1
    private var done = true
    private val session = VoiceSession(
        conversation, File(given["vad"] as String).readBytes(), ::event, TurnOptions(),
        replyOptions(given["options"]), given["full_duplex"] != false, given["hands_free"] != false,
    )

    fun answer(name: String, given: Map<*, *>): Any? {
        when (name) {
            "hear" -> return hear(Tensor.read(given["samples"]).floats)
            "say" -> session.say(given["text"] as String)
            "key" -> session.key(given["down"] as Boolean)
            "see" -> session.see(given["picture"]?.let { Part.Picture(ImageSource(image(it))) })
            "interrupt" -> session.interrupt()
            "events" -> return lock.withLock { events.toList() }
            "close" -> session.close()
            else -> error("there is no operation $name")
        }
        return null
    }

    /** Hear samples frame by frame; returns what was played meanwhile. */
    private fun hear(samples: FloatArray): FloatArray {
        val played = ArrayList<Float>()
        for (start in 0..samples.size - Vad.FRAME step Vad.FRAME) {
            val count = (Vad.FRAME_SECONDS * rate).toInt()
            lock.withLock {
                repeat(minOf(count, waiting.size)) {
                    played.add(waiting.removeFirst())
                    taken++
                }
            }
            session.hear(samples.copyOfRange(start, start + Vad.FRAME))
            session.played(taken.toDouble() / rate)
            waitForReply()
        }
        return played.toFloatArray()
    }

    private fun waitForReply() = lock.withLock {
        val end = System.nanoTime() + PATIENCE
        while (stalled() && System.nanoTime() < end) happened.await(20, TimeUnit.MILLISECONDS)
    }

    private fun stalled(): Boolean {
        if (session.state == VoiceState.THINKING) return true
        return session.state == VoiceState.SPEAKING && waiting.size < 2 * Vad.FRAME_SECONDS * rate && !done
    }

    private fun event(event: VoiceEvent) = lock.withLock {
        events.add(
            when (event) {
                is VoiceEvent.StateChanged -> mapOf("state" to event.state.name.lowercase(), "at" to event.at)
                is VoiceEvent.Caption -> mapOf("caption" to event.text).also { done = false }
                is VoiceEvent.Speech -> {
                    if (event.firstSample == 0) restart()
                    rate = event.rate
                    event.samples.forEach(waiting::addLast)
                    mapOf("speech" to event.samples.size, "first" to event.firstSample)
                }
                is VoiceEvent.Interrupted -> mapOf("heard" to event.heard, "text" to event.text).also { restart() }
                is VoiceEvent.TurnFigures -> {
                    done = true
                    val timings = event.done.timings
                    mapOf(
                        "reply" to event.done.text, "heard_seconds" to event.heardSeconds, "voice_to_sound" to event.voiceToSound,
                        "decided_to_sound" to event.decidedToSound, "prompt_tokens" to timings.promptTokens,
                        "cached_tokens" to timings.cachedTokens,
                    )
                }
                is VoiceEvent.Underrun -> mapOf("underrun" to event.event.realtime)
                is VoiceEvent.Forgotten -> mapOf("forgotten" to event.turns)
                is VoiceEvent.ReplyFailed -> mapOf("failed" to event.error.toString()).also { done = true }
            },
        )
        happened.signalAll()
    }

    private fun restart() {
        waiting.clear()
        taken = 0
        done = false
    }

    private companion object {
        const val PATIENCE = 60_000_000_000L
    }
}

/** Speech probabilities of a sound, and the turns that are found in it. */
internal fun voiceActivity(given: Map<*, *>): Map<String, Any?> = Vad(File(given["vad"] as String).readBytes()).use { vad ->
    val samples = Tensor.read(given["samples"]).floats
    val detector = TurnDetector(TurnOptions())
    val turns = ArrayList<String>()
    val probabilities = FloatArray(samples.size / Vad.FRAME) { frame ->
        val probability = vad.probability(samples.copyOfRange(frame * Vad.FRAME, (frame + 1) * Vad.FRAME))
        detector.push(probability).forEach { turns.add(it.toString()) }
        probability
    }
    mapOf("probabilities" to probabilities, "turns" to turns)
}
