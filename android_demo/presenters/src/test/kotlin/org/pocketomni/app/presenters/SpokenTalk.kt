package org.pocketomni.app.presenters

import org.pocketomni.engine.Conversation
import org.pocketomni.engine.ReplyOptions
import org.pocketomni.engine.SpeechOptions
import org.pocketomni.engine.TurnOptions
import org.pocketomni.engine.VoiceEvent
import org.pocketomni.engine.VoiceListener
import org.pocketomni.engine.VoiceSession
import org.pocketomni.engine.VoiceState
import java.io.File
import java.util.concurrent.TimeUnit
import java.util.concurrent.locks.ReentrantLock
import kotlin.concurrent.withLock

/**
 * A voice session on a simulated clock: time passes with the samples that are heard, and playback keeps step. Time
 * stands still while a reply is being made and nothing of it can be played.
 */
class SpokenTalk(
    val conversation: Conversation,
    turns: TurnOptions = TurnOptions(),
    fullDuplex: Boolean = true,
    handsFree: Boolean = true,
    readAhead: Boolean = true,
    speech: SpeechOptions? = SpeechOptions(),
    private val listener: VoiceListener = VoiceListener {},
) {
    val events = ArrayList<VoiceEvent>()
    private val lock = ReentrantLock()
    private val happened = lock.newCondition()
    private var made = 0
    private var taken = 0
    private var rate = 1
    private var done = true
    val session = VoiceSession(
        conversation, File(System.getProperty("vad")).readBytes(), ::note, turns, ReplyOptions(speech, maxTokens = 60),
        fullDuplex, handsFree, readAhead,
    )

    val states: List<VoiceState> get() = of<VoiceEvent.StateChanged>().map { it.state }
    val figures: List<VoiceEvent.TurnFigures> get() = of()
    val replies: List<String> get() = figures.map { it.done.text }
    val playedSeconds: Double get() = lock.withLock { taken.toDouble() / rate }

    inline fun <reified T : VoiceEvent> of(): List<T> = snapshot().filterIsInstance<T>()

    fun snapshot(): List<VoiceEvent> = lock.withLock { events.toList() }

    /** Hear sounds one after the other; [at] is called behind each frame with the seconds of this call. */
    fun hear(vararg sounds: FloatArray, at: (Double) -> Unit = {}) {
        val samples = sounds.reduce { one, other -> one + other }
        for (start in 0..samples.size - FRAME step FRAME) {
            lock.withLock { taken = minOf(made, taken + FRAME * rate / RATE) }
            session.hear(samples.copyOfRange(start, start + FRAME))
            session.played(playedSeconds)
            lock.withLock { waitUntil { !stalled() } }
            at((start + FRAME).toDouble() / RATE)
        }
    }

    private fun stalled() = session.state == VoiceState.THINKING ||
        (session.state == VoiceState.SPEAKING && made - taken < 2 * FRAME * rate / RATE && !done)

    /** Wait for what the engine does. */
    fun waitUntil(reached: () -> Boolean) = lock.withLock {
        val end = System.nanoTime() + PATIENCE
        while (!reached()) {
            check(System.nanoTime() < end) { "nothing happens" }
            happened.await(20, TimeUnit.MILLISECONDS)
        }
    }

    private fun note(event: VoiceEvent): Unit = lock.withLock {
        events.add(event)
        when (event) {
            is VoiceEvent.StateChanged -> if (event.state == VoiceState.THINKING) restart()
            is VoiceEvent.Interrupted -> restart()
            is VoiceEvent.Speech -> {
                rate = event.rate
                made = event.firstSample + event.samples.size
            }
            is VoiceEvent.TurnFigures, is VoiceEvent.ReplyFailed -> done = true
            else -> Unit
        }
        happened.signalAll()
        listener.onEvent(event)
    }

    private fun restart() {
        made = 0
        taken = 0
        done = false
    }

    companion object {
        const val RATE = 16_000
        private const val FRAME = 512
        private const val PATIENCE = 120_000_000_000L

        fun silence(seconds: Double) = FloatArray((seconds * RATE).toInt())
    }
}
