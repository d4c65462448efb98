/** Events and options of voice sessions. */
package org.pocketomni.engine

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

    /**
     * Figures of a turn, in seconds: of the user's voice, and to the first sound of the reply from the moment when the
     * end of the turn was decided, and from the end of the voice. Null where nothing sounded.
     */
    class TurnFigures(
        val done: ReplyEvent.Done,
        val heardSeconds: Double,
        val decidedToSound: Double?,
        val voiceToSound: Double?,
    ) : VoiceEvent()

    /** Playback underran and will underrun again: this device is too slow for the preset. */
    class Underrun(val event: ReplyEvent.PlaybackUnderrun) : VoiceEvent()

    /** The context was nearly full: the oldest [turns] turns were forgotten. */
    class Forgotten(val turns: Int) : VoiceEvent()

    /** The reply could not be made. The conversation is as it was before the turn. */
    class ReplyFailed(val error: Throwable) : VoiceEvent()
}

/** Receives events from the thread that causes them, while the session's lock is held. It must not block. */
fun interface VoiceListener {
    fun onEvent(event: VoiceEvent)
}

/**
 * Turn taking, in seconds. [threshold] is the speech probability at which a voice starts. [start] of voice begins a
 * turn; [endSilence] ends it. After [pause] of silence the turn is answered speculatively. [interrupt] of voice cuts
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
