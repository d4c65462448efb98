/** A hands-free call: the microphone is always open, and speech interrupts speech. */
package org.pocketomni.app.presenters

import org.pocketomni.engine.OmniError
import org.pocketomni.engine.Part
import org.pocketomni.engine.VoiceEvent
import org.pocketomni.engine.VoiceListener
import org.pocketomni.engine.VoiceState
import java.io.IOException

/** Takes the sound of the phone for a call. */
interface SoundFocus {
    /** Ask for the sound. Return false if another app, such as a phone call, keeps it. */
    fun request(changed: (FocusChange) -> Unit): Boolean

    /** Give the sound back. */
    fun release()
}

/** PAUSED: another app has the sound for a while. LOST: for good. */
enum class FocusChange { GAINED, PAUSED, LOST }

/** A line of the call. [unheard] is the end of a reply that was interrupted. */
data class CallLine(val fromUser: Boolean, val text: String, val unheard: String = "")

/** The call screen. */
data class CallState(
    val active: Boolean = false,
    val voice: VoiceState = VoiceState.LISTENING,
    val lines: List<CallLine> = emptyList(),
    val muted: Boolean = false,
    /** Another app has the sound; the call goes on when it is given back. */
    val held: Boolean = false,
    val camera: Boolean = false,
    /** Level of the microphone, 0 .. 1 for -60 .. 0 dB. */
    val level: Float = 0f,
    val figures: Figures? = null,
    val notice: Notice? = null,
)

/** What a call uses of the phone, besides what the chat uses. */
class CallServices(
    val chat: ChatServices,
    /** A microphone without the echo of the loudspeaker. */
    val microphone: Microphone,
    val speaker: SpeechDevices,
    val focus: SoundFocus,
    /** The model that finds speech in the microphone's sound. Blocks. */
    val voiceActivity: () -> ByteArray,
)

/** The presenter of the call screen. It continues the chat's conversation. */
class CallPresenter(private val services: CallServices, private val chat: ChatPresenter) :
    Presenter<CallState>(CallState()) {
    private val ui = services.chat.ui

    @Volatile private var session: Session? = null

    /** Called on the thread that draws when the call has ended. */
    var onEnd: () -> Unit = {}

    /** Begin the call. [fullDuplex] is false where the microphone hears the loudspeaker. */
    fun start(fullDuplex: Boolean) {
        if (state.active) return
        chat.stop()
        if (!services.focus.request { change -> ui.post { focusChanged(change) } }) {
            refuse(Notice.of(NoticeKey.CALL_INTERRUPTED))
            return onEnd()
        }
        update { CallState(active = true) }
        val options = chat.options(spoken = true)
        services.chat.worker.run {
            try {
                val (conversation, log) = chat.conversation() ?: throw NoticeException(NoticeKey.NO_BUNDLE)
                val begun = Session(log)
                begun.call = conversation.call(services.voiceActivity(), options, begun)
                begun.call.fullDuplex = fullDuplex
                session = begun
                services.microphone.start(begun::hear)
            } catch (error: Exception) {
                ui.post { end(Notice.of(error)) }
            }
        }
    }

    /** End the call. The conversation keeps what was said and heard. */
    fun end(notice: Notice? = null) {
        if (!state.active) return
        services.focus.release()
        update { it.copy(active = false, held = false, camera = false, notice = notice) }
        services.chat.worker.run {
            services.microphone.stop()
            session?.close()
            session = null
            chat.refresh()
        }
        onEnd()
    }

    /** The call cannot begin. */
    fun refuse(notice: Notice) = update { it.copy(notice = notice) }

    /** The notice was read. */
    fun dismissNotice() = update { it.copy(notice = null) }

    /** Stop the reply. */
    fun interrupt() = services.chat.worker.run { session?.call?.interrupt() }

    /** Mute the microphone. */
    fun setMuted(muted: Boolean) {
        update { it.copy(muted = muted) }
        session?.call?.muted = muted || state.held
    }

    /** Whether the microphone does not hear the loudspeaker: with headphones, or echo cancellation. */
    fun setFullDuplex(fullDuplex: Boolean) {
        session?.call?.fullDuplex = fullDuplex
    }

    /** The camera was switched on or off. */
    fun setCamera(on: Boolean) {
        update { it.copy(camera = on) }
        if (!on) session?.call?.see(null)
    }

    /** Show a camera frame to the model. */
    fun see(picture: Part.Picture) {
        if (state.camera) session?.call?.see(picture)
    }

    /** The camera failed. */
    fun cameraFailed(reason: String) {
        setCamera(false)
        update { it.copy(notice = Notice.of(NoticeKey.CAMERA_FAILED, reason)) }
    }

    private fun focusChanged(change: FocusChange) {
        if (!state.active) return
        when (change) {
            FocusChange.LOST -> end(Notice.of(NoticeKey.CALL_INTERRUPTED))
            FocusChange.PAUSED -> {
                update { it.copy(held = true, notice = Notice.of(NoticeKey.CALL_INTERRUPTED)) }
                session?.call?.muted = true
                interrupt()
            }

            FocusChange.GAINED -> {
                update { it.copy(held = false, notice = null) }
                session?.call?.muted = state.muted
            }
        }
    }

    /** One call. It hears on the microphone's thread, and gets events on the thread that causes them. */
    private inner class Session(private val log: ChatLog) : VoiceListener {
        lateinit var call: Call
        private val heard = SampleBuffer(KEPT_SECONDS * Microphone.RATE)

        @Volatile private var player: SpeechPlayer = newPlayer()

        /** Whether the speech of the present reply has begun, and was not cut. */
        @Volatile private var playing = false

        // of the present turn, in samples of the microphone
        private var voiceStart = 0L
        private var voiceEnd = 0L

        /** Whether the log has the present turn. Belongs to the worker. */
        private var logged = false

        /** Whether a turn was just taken back, and when that was. If the voice goes on then, so does the turn. */
        private var retracting = false
        private var retracted = NEVER

        fun hear(samples: FloatArray) {
            heard.add(samples)
            try {
                call.hear(samples)
                if (playing) call.played(player.heardSeconds)
            } catch (error: OmniError) {
                ui.post { end(Notice.of(error)) }
            }
            val level = level(samples)
            ui.post { update { it.copy(level = level) } }
        }

        override fun onEvent(event: VoiceEvent) {
            when (event) {
                is VoiceEvent.StateChanged -> entered(event)
                is VoiceEvent.Caption -> ui.post { caption(event.text) }

                is VoiceEvent.Speech -> {
                    if (event.firstSample == 0) player = newPlayer()
                    player.add(event.samples, event.rate)
                    playing = true
                }

                is VoiceEvent.Interrupted -> {
                    val kept = playing || event.heard.isNotEmpty() // a reply without speech is read
                    if (kept) keep(Answer(event.heard, cut = true)) else retract()
                    ui.post { if (kept) interrupted(event) else removeTurn() }
                    silence()
                }

                is VoiceEvent.TurnFigures -> {
                    player.end()
                    val figures = Figures.of(event.done, services.chat.peakMemory())
                    keep(Answer(event.done.text, cut = false, figures = figures))
                    ui.post { update { it.copy(figures = figures) } }
                }

                is VoiceEvent.Underrun -> say(Notice.of(NoticeKey.SPEECH_SLOW, event.event.realtime))
                is VoiceEvent.Forgotten -> say(Notice.of(NoticeKey.TURNS_FORGOTTEN, event.turns))
                is VoiceEvent.ReplyFailed -> {
                    silence()
                    remove()
                    ui.post { removeTurn() }
                    say(Notice.of(event.error))
                }
            }
        }

        fun close() {
            call.interrupt() // the conversation keeps what was heard
            silence()
            call.close()
        }

        private fun silence() {
            playing = false
            player.stop()
        }

        private fun entered(event: VoiceEvent.StateChanged) {
            val sample = (event.at * Microphone.RATE).toLong()
            when (event.state) {
                VoiceState.HEARING -> {
                    if (sample != retracted) voiceStart = maxOf(0L, sample - (PRE_ROLL * Microphone.RATE).toLong())
                    retracted = NEVER
                }

                VoiceState.THINKING -> {
                    playing = false
                    voiceEnd = sample
                    ask()
                }

                VoiceState.LISTENING -> {
                    if (retracting) retracted = sample
                    retracting = false
                }

                VoiceState.SPEAKING -> Unit
            }
            ui.post { update { it.copy(voice = event.state) } }
        }

        /** The turn left no trace in the conversation. */
        private fun retract() {
            retracting = true
            remove()
        }

        private fun remove() = store {
            if (logged) log.removeLast()
            logged = false
        }

        /** Store the question's sound, so that the conversation can be continued after the process ends. */
        private fun ask() {
            val samples = heard.range(voiceStart, voiceEnd)
            ui.post { update { it.copy(lines = it.lines + CallLine(fromUser = true, text = "")) } }
            store {
                logged = false
                val file = log.newFile(".wav")
                WavFile.write(file, samples, Microphone.RATE)
                log.ask(Question("", listOf(Attachment(MediaKind.SPEECH, file.name))))
                logged = true
            }
        }

        private fun keep(answer: Answer) = store { if (logged) log.answer(answer) }

        private fun store(action: () -> Unit) = services.chat.worker.run {
            try {
                action()
            } catch (error: IOException) {
                say(Notice.of(NoticeKey.STORE_FAILED, error.message ?: ""))
            }
        }

        private fun say(notice: Notice) = ui.post { update { it.copy(notice = notice) } }

        private fun newPlayer() = SpeechPlayer(services.speaker) { error ->
            // the last frames are heard after the engine has made them
            if (error != null) ui.post { end(Notice.of(error)) } else if (playing) call.played(player.heardSeconds)
        }
    }

    private fun caption(text: String) = update { state ->
        val last = state.lines.lastOrNull()
        val line = if (last == null || last.fromUser) CallLine(false, text) else last.copy(text = last.text + text)
        state.copy(lines = (if (last == null || last.fromUser) state.lines else state.lines.dropLast(1)) + line)
    }

    /** Remove the last question, and what there is of its reply. */
    private fun removeTurn() = update { state ->
        val question = state.lines.indexOfLast { it.fromUser }
        if (question < 0) state else state.copy(lines = state.lines.take(question))
    }

    private fun interrupted(event: VoiceEvent.Interrupted) = update { state ->
        val unheard = event.text.removePrefix(event.heard)
        val line = CallLine(false, event.heard, unheard)
        state.copy(lines = if (state.lines.lastOrNull()?.fromUser == false) state.lines.dropLast(1) + line else state.lines + line)
    }

    internal companion object {
        /** The longest question of which the sound is kept. */
        private const val KEPT_SECONDS = 60

        /**
         * Seconds of a turn before a voice was recognized: those that belong to a turn, and those that the decision
         * takes, as in the engine's turn options.
         */
        private const val PRE_ROLL = 0.6
        private const val NEVER = -1L
        private const val FLOOR_DB = -60.0

        /** Return the level of samples: 0 for -60 dB or less, 1 for 0 dB. */
        internal fun level(samples: FloatArray): Float {
            if (samples.isEmpty()) return 0f
            val power = samples.sumOf { it.toDouble() * it } / samples.size
            val decibels = 10 * Math.log10(maxOf(power, 1e-12))
            return (1 - decibels / FLOOR_DB).coerceIn(0.0, 1.0).toFloat()
        }
    }
}
