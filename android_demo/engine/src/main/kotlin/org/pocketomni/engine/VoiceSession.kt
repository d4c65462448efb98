package org.pocketomni.engine

import java.io.Closeable

/** What a voice session is doing. HEARING: the user speaks; THINKING: no speech of the reply was made yet. */
enum class VoiceState { LISTENING, HEARING, THINKING, SPEAKING }

/** Events of a voice session. */
sealed class VoiceEvent {
    /** The session entered [state] after [at] seconds of microphone samples. */
    class StateChanged(val state: VoiceState, val at: Double) : VoiceEvent()

    /** A piece of the reply's text. */
    class Caption(val text: String) : VoiceEvent()

    /** Mono samples of the reply to play, at [rate] Hz, from [firstSample] of the reply on. */
    class Speech(val samples: FloatArray, val rate: Int, val firstSample: Int) : VoiceEvent()

    /** The reply was cut: [heard] is what is left of [text]. Playback must stop. */
    class Interrupted(val heard: String, val text: String) : VoiceEvent()

    /** Figures of a turn, in seconds: of the user's voice, and from the decided end and from the voice's end to the first sound. */
    class TurnFigures(
        val done: ReplyEvent.Done,
        val heardSeconds: Double,
        val decidedToSound: Double?,
        val voiceToSound: Double?,
    ) : VoiceEvent()

    /** The reply could not be made. The conversation is as it was before the turn. */
    class ReplyFailed(val error: Throwable) : VoiceEvent()
}

/** Receives events from the thread that causes them, while the session's lock is held. It must not block. */
fun interface VoiceListener {
    fun onEvent(event: VoiceEvent)
}

/**
 * Turn taking, in seconds. [threshold] is the speech probability at which a voice starts. [start] of voice begins a
 * turn; [endSilence] ends it. After [pause] of silence the turn is prefilled speculatively. [interrupt] of voice cuts
 * a reply that is being played. [preRoll] is the sound before the voice that belongs to the turn.
 */
data class TurnOptions(
    val threshold: Double = 0.5,
    val start: Double = 0.1,
    val pause: Double = 0.2,
    val endSilence: Double = 0.5,
    val interrupt: Double = 0.25,
    val preRoll: Double = 0.5,
)

/**
 * A spoken conversation: microphone samples in; captions, speech and turn events out.
 *
 * It knows no device and no clock: time passes with the samples it hears and the playback that is reported to it.
 * [vadModel] is Silero's ONNX file. [fullDuplex]: the microphone does not hear the reply (headphones or echo
 * cancellation). [handsFree] false is push-to-talk. Thread-safe.
 */
class VoiceSession(
    private val conversation: Conversation,
    vadModel: ByteArray,
    private val listener: VoiceListener,
    private val turns: TurnOptions = TurnOptions(),
    private val reply: ReplyOptions = ReplyOptions(),
    @Volatile var fullDuplex: Boolean = true,
    @Volatile var handsFree: Boolean = true,
) : Closeable {
    @Volatile var muted: Boolean = false

    val state: VoiceState get() = TODO()

    /** Take mono microphone samples in -1 .. 1 at 16,000 Hz, any number of them. */
    fun hear(samples: FloatArray) { TODO() }

    /** Report how many seconds of the present reply the user has heard. */
    fun played(seconds: Double) { TODO() }

    /** Show a camera frame; only the newest one goes into a turn. Null: the camera is off. */
    fun see(image: Part.Picture?) { TODO() }

    /** Send a typed turn. A reply that is being played is interrupted. */
    fun say(text: String) { TODO() }

    /** Push-to-talk: the turn lasts while the key is down. It interrupts a reply. */
    fun key(down: Boolean) { TODO() }

    /** Stop the reply, and cut it to what was heard. */
    fun interrupt() { TODO() }

    /** Stop everything. The conversation stays open. */
    override fun close() { TODO() }
}
