package org.pocketomni.engine

import org.pocketomni.engine.voice.TurnDetector
import org.pocketomni.engine.voice.TurnEvent
import org.pocketomni.engine.voice.Vad
import java.io.Closeable
import java.util.concurrent.Future
import java.util.concurrent.TimeUnit
import java.util.concurrent.locks.ReentrantLock
import kotlin.concurrent.withLock
import kotlin.math.max
import kotlin.math.round

/**
 * A spoken conversation: microphone samples in; captions, speech and turn events out.
 *
 * It knows no device and no clock: time passes with the samples it hears and the playback that is reported to it.
 * While the user speaks, finished blocks of the recording are prefilled. After a short pause the turn is prefilled as
 * if it had ended, which is taken back if the voice goes on. A voice during playback cuts the reply, in both KV caches,
 * to what was heard.
 *
 * [vadModel] is Silero's ONNX file. [fullDuplex]: the microphone does not hear the reply (headphones or echo
 * cancellation); without it the microphone is ignored during playback. [handsFree] false is push-to-talk. Thread-safe;
 * methods that interrupt a reply block until it is at rest, so a [ReplyListener] must not call them.
 */
class VoiceSession(
    private val conversation: Conversation,
    vadModel: ByteArray,
    private val listener: VoiceListener,
    private val turns: TurnOptions = TurnOptions(),
    private val reply: ReplyOptions = ReplyOptions(),
    @Volatile var fullDuplex: Boolean = true,
    handsFree: Boolean = true,
    private val readAhead: Boolean = true,
) : Closeable {
    @Volatile
    var muted: Boolean = false

    /** A change ends a turn for which the key is down, and drops one that was begun by a voice. */
    @Volatile
    var handsFree: Boolean = handsFree
        set(value): Unit = lock.withLock {
            if (value == field) return
            key(false)
            field = value
            dropTurn()
            if (state == VoiceState.HEARING) enter(VoiceState.LISTENING)
        }

    /** What the session is doing. */
    @Volatile
    var state = VoiceState.LISTENING
        private set

    /**
     * A reply in progress, or the last one while it is being played. [asked] is its turn without the sound. Until the
     * turn is decided the events are [held].
     */
    private class Answer(val asked: List<Part>) {
        val held = ArrayList<ReplyEvent>()
        var voiceToDecided = 0.0
        var heardSeconds = 0.0
        var decided = 0L
        val text = StringBuilder()
        var samples = 0
        var rate = 1
        var firstSound: Double? = null
        var done = false

        /** The turn has ended; returns what was held. */
        fun decide(silence: Double, voice: Double): List<ReplyEvent> {
            voiceToDecided = silence
            heardSeconds = voice
            decided = System.nanoTime()
            return held.toList().also { held.clear() }
        }
    }

    private val lock = ReentrantLock()
    private val vad = Vad(vadModel)
    private val detector = TurnDetector(turns)
    private var rest = FloatArray(0) // samples short of a frame
    private var history = FloatArray(0)
    private var samples = 0L
    private var stream: AudioStream? = null
    private var streamStart = 0L
    private var prefilled = 0.0
    private var ahead: Future<*>? = null
    private var snapshot: AudioStream? = null
    private var added: List<Part> = emptyList()
    private var image: Part.Picture? = null
    private var deafUntil = 0L
    private var keyDown = false
    private var closed = false
    private var played = 0.0

    @Volatile
    private var answer: Answer? = null

    /** The reply to a turn that has only paused so far. */
    @Volatile
    private var speculative: Answer? = null

    init {
        prefill(emptyList(), more = false)
    }

    /** Take mono microphone samples in -1 .. 1 at 16,000 Hz, any number of them. */
    fun hear(samples: FloatArray): Unit = lock.withLock {
        if (closed) return
        val joined = rest + samples
        val whole = joined.size / Vad.FRAME * Vad.FRAME
        rest = joined.copyOfRange(whole, joined.size)
        for (start in 0 until whole step Vad.FRAME) hearFrame(joined.copyOfRange(start, start + Vad.FRAME))
    }

    /** Report how many seconds of the present reply the user has heard. */
    fun played(seconds: Double) = lock.withLock {
        played = seconds
        val answer = answer
        if (answer != null && answer.done && seconds >= answer.samples.toDouble() / answer.rate - END_TOLERANCE) endReply()
    }

    /** Show a camera frame; only the newest one goes into the next turn. Null: the camera is off. */
    fun see(image: Part.Picture?) = lock.withLock { this.image = image }

    /** Add parts to the next turn: text, pictures, films. */
    fun add(vararg parts: Part) = lock.withLock {
        added = added + parts
        takeBack()
    }

    /** Send a typed turn. A reply that is being played is interrupted. */
    fun say(text: String) = lock.withLock {
        interrupt()
        dropTurn()
        add(Part.Text(text))
        respond(parts(null), 0.0, 0.0)
    }

    /** Push-to-talk: the turn lasts while the key is down. It interrupts a reply. */
    fun key(down: Boolean) = lock.withLock {
        if (down && !keyDown) {
            interrupt()
            detector.reset() // a turn that a voice had begun is over
            beginTurn(samples)
        } else if (!down && keyDown && stream != null) {
            endTurn(0.0)
        }
        keyDown = down
    }

    /** Stop the reply, and cut it to what was heard. */
    fun interrupt(): Unit = lock.withLock {
        retract()
        val cut = answer ?: return
        answer = null
        var heard = ""
        try {
            heard = cut(cut)
        } catch (error: OmniError) {
            emit(VoiceEvent.ReplyFailed(error))
        }
        emit(VoiceEvent.Interrupted(heard, cut.text.toString()))
        enter(VoiceState.LISTENING)
    }

    /** Keep what was heard of a reply: nothing is left of a turn without an answer. */
    private fun cut(cut: Answer): String {
        if (unheard(cut)) {
            conversation.retract()
            return ""
        }
        if (reply.speech != null) return conversation.interrupt(played)
        conversation.cancel()
        return cut.text.toString()
    }

    /** Whether the user has nothing of a reply yet; one without speech is read. */
    private fun unheard(answer: Answer) = if (reply.speech == null) answer.text.isEmpty() else answer.firstSound == null

    /** Stop everything. The conversation stays open; it keeps what was said of a reply. */
    override fun close(): Unit = lock.withLock {
        if (closed) return
        closed = true
        retract()
        answer = null
        stream = null
        conversation.stop()
        vad.close()
    }

    // The microphone

    private fun hearFrame(frame: FloatArray) {
        samples += Vad.FRAME
        val joined = history + frame
        history = joined.copyOfRange(max(0, joined.size - HISTORY), joined.size)
        val deaf = muted || hearsItself()
        stream?.let {
            if (!deaf) {
                it.push(frame)
                prefillBlocks(it)
            }
        }
        val probability = if (deaf) 0f else vad.probability(frame)
        if (keyDown || !handsFree) return
        val needed = if (answer != null) turns.interrupt else null
        detector.push(probability, needed).forEach(::turnEvent)
    }

    /** Half duplex: the reply is being played, or has only just left the room. */
    private fun hearsItself(): Boolean {
        if (fullDuplex) return false
        if (state == VoiceState.SPEAKING) deafUntil = samples + ECHO_TAIL
        return samples < deafUntil
    }

    private fun turnEvent(event: TurnEvent) = when (event) {
        // counted back from now: the detector does not count the frames of push-to-talk
        is TurnEvent.Started -> startOrContinue(samples - (detector.frame - event.frame) * Vad.FRAME)
        is TurnEvent.Paused -> speculate()
        is TurnEvent.Resumed -> takeBack()
        is TurnEvent.Ended -> if (stream != null) endTurn((detector.frame - event.frame) * Vad.FRAME_SECONDS) else Unit
    }

    /** A voice began at sample [start]: a new turn, or the last one goes on. */
    private fun startOrContinue(start: Long) {
        val before = stream
        val present = answer
        if (present != null && unheard(present) && before != null) {
            interrupt() // the user had only paused
            stream = before
            added = present.asked
            takeBack()
            enter(VoiceState.HEARING)
            return
        }
        interrupt()
        beginTurn(start - round(turns.preRoll * Vad.SAMPLE_RATE).toLong())
    }

    /** Begin a turn with the microphone samples from [start] on, as far as they are kept. */
    private fun beginTurn(start: Long) {
        val first = max(start, samples - history.size)
        val begun = conversation.engine.audioStream(Vad.SAMPLE_RATE)
        if (first < samples) begun.push(history.copyOfRange(history.size - (samples - first).toInt(), history.size))
        stream = begun
        streamStart = first
        prefilled = -BLOCK_SECONDS // what comes before the sound is final at once
        snapshot = null
        enter(VoiceState.HEARING)
    }

    /** The turn: what was added, the newest picture, and what the microphone heard. */
    private fun parts(sound: AudioStream?): List<Part> = added + listOfNotNull(image, sound?.let(Part::LiveSound))

    /** Prefill when another block is final, unless the engine is busy or a pause is near. */
    private fun prefillBlocks(stream: AudioStream) {
        val busy = ahead?.isDone == false
        val replying = answer != null || speculative != null
        if (!readAhead || replying || busy || detector.silent || stream.seconds - prefilled < BLOCK_SECONDS) return
        prefilled = (stream.seconds / BLOCK_SECONDS).toInt() * BLOCK_SECONDS
        prefill(parts(stream), more = true)
    }

    /** Answer the turn as if it had ended, unless the engine has other replies to make. */
    private fun speculate() {
        val stream = stream
        if (!readAhead || stream == null || answer != null) return
        val heard = stream.snapshot().also { snapshot = it }
        if (conversation.engine.replying) prefill(parts(heard), more = false)
        else startReply(parts(heard)) { speculative = it }
    }

    /** The voice goes on: the message is the running stream again. */
    private fun takeBack() {
        retract()
        if (answer == null) snapshot = null
    }

    /** Drop the speculative reply; its prompt stays prefilled. */
    private fun retract() {
        if (speculative == null) return
        speculative = null
        ahead = conversation.startRetract()
    }

    /** Forget the turn that is heard. */
    private fun dropTurn() {
        retract()
        stream = null
        snapshot = null
        detector.reset()
    }

    /** Send the turn; its voice ended [silence] seconds ago. */
    private fun endTurn(silence: Double) {
        val stream = stream ?: return
        val sound = snapshot ?: stream.snapshot()
        val voice = max(0.0, (samples - streamStart).toDouble() / Vad.SAMPLE_RATE - silence)
        respond(parts(sound), silence, voice)
    }

    // The reply

    /** Answer a turn; a speculative reply to it becomes the reply. */
    private fun respond(parts: List<Part>, silence: Double, voice: Double) {
        played = 0.0
        val begun = speculative?.also { answer = it } ?: startReply(parts) { answer = it }
        speculative = null
        added = emptyList()
        if (begun.asked.any { it === image }) image = null
        enter(VoiceState.THINKING)
        begun.decide(silence, voice).forEach { replyEvent(begun, it) }
    }

    /** Queue a reply. [note] gets it before its first event can come. */
    private fun startReply(parts: List<Part>, note: (Answer) -> Unit): Answer {
        val begun = Answer(parts(null)).also(note)
        conversation.send(parts, reply) { event ->
            whileCurrent(begun) { if (begun === speculative) begun.held.add(event) else replyEvent(begun, event) }
        }
        return begun
    }

    private fun isCurrent(mine: Answer) = mine === answer || mine === speculative

    /**
     * Hold the lock on the engine's thread, unless the reply was cut. Whoever cuts it holds the lock while the engine
     * carries that out, so the engine's thread must not wait for it then.
     */
    private fun whileCurrent(mine: Answer, work: () -> Unit) {
        while (!lock.tryLock(LOCK_MILLISECONDS, TimeUnit.MILLISECONDS)) {
            if (!isCurrent(mine)) return
        }
        try {
            if (isCurrent(mine)) work()
        } finally {
            lock.unlock()
        }
    }

    private fun replyEvent(mine: Answer, event: ReplyEvent) {
        when (event) {
            is ReplyEvent.TextDelta -> {
                mine.text.append(event.text)
                emit(VoiceEvent.Caption(event.text))
            }
            is ReplyEvent.AudioDelta -> {
                if (mine.firstSound == null) {
                    mine.firstSound = (System.nanoTime() - mine.decided) / 1e9
                    stream = null
                    enter(VoiceState.SPEAKING)
                }
                mine.samples = event.firstSample + event.samples.size
                mine.rate = event.rate
                emit(VoiceEvent.Speech(event.samples, event.rate, event.firstSample))
            }
            is ReplyEvent.Done -> {
                mine.done = true
                val sound = mine.firstSound
                emit(VoiceEvent.TurnFigures(event, mine.heardSeconds, sound, sound?.plus(mine.voiceToDecided)))
                keepRoom(event)
                if (mine.samples == 0) endReply()
            }
            is ReplyEvent.Failed -> {
                answer = null
                stream = null
                ahead = conversation.startRetract() // it may have begun
                emit(VoiceEvent.ReplyFailed(event.error))
                enter(VoiceState.LISTENING)
            }
            is ReplyEvent.PlaybackUnderrun -> emit(VoiceEvent.Underrun(event))
            is ReplyEvent.PresetChosen -> Unit
        }
    }

    /** Forget the oldest turns while the reply is being played, so that the talk can go on. */
    private fun keepRoom(done: ReplyEvent.Done) {
        if (done.contextLimit - done.contextUsed >= done.contextLimit * FULL) return
        conversation.makeRoomLater(round(done.contextLimit * (1 - KEPT)).toInt()) { turns ->
            if (turns > 0) emit(VoiceEvent.Forgotten(turns))
        }
    }

    private fun endReply() {
        answer = null
        if (state != VoiceState.HEARING) {
            stream = null
            enter(VoiceState.LISTENING)
        }
    }

    private fun prefill(parts: List<Part>, more: Boolean) {
        ahead = conversation.readAhead(parts, more, reply.speech != null)
    }

    private fun enter(next: VoiceState) {
        if (next == state) return
        state = next
        emit(VoiceEvent.StateChanged(next, samples.toDouble() / Vad.SAMPLE_RATE))
    }

    private fun emit(event: VoiceEvent) = listener.onEvent(event)

    private companion object {
        /** Microphone samples that are kept for the start of a turn. */
        const val HISTORY = 3 * Vad.SAMPLE_RATE

        /** The audio encoder's block: how often there is something new to prefill. */
        const val BLOCK_SECONDS = 2.0

        /** Seconds before the end of a reply at which it counts as played. */
        const val END_TOLERANCE = 0.02
        const val LOCK_MILLISECONDS = 10L

        /** Samples after a reply in which a room still echoes it: latency of devices, and reverberation. */
        const val ECHO_TAIL = Vad.SAMPLE_RATE / 2

        /** With less room than [FULL] of the context, old turns are forgotten until [KEPT] is in use. */
        const val FULL = 0.25
        const val KEPT = 0.5
    }
}
