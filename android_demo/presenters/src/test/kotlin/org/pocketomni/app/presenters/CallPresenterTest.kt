package org.pocketomni.app.presenters

import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertNull
import org.junit.Assert.assertTrue
import org.junit.Test
import org.pocketomni.engine.ImageSource
import org.pocketomni.engine.Part
import org.pocketomni.engine.ReplyEvent
import org.pocketomni.engine.RgbImage
import org.pocketomni.engine.VoiceEvent
import org.pocketomni.engine.VoiceState

class CallPresenterTest {
    private val phone = Phone().start()
    private val steps get() = phone.steps
    private val microphone = FakeMicrophone()
    private var changed: ((FocusChange) -> Unit)? = null
    private var free = true

    private val focus = object : SoundFocus {
        override fun request(changed: (FocusChange) -> Unit): Boolean {
            this@CallPresenterTest.changed = changed
            return free
        }

        override fun release() {
            changed = null
        }
    }
    private val services = CallServices(phone.services, microphone, phone.speaker, focus) { ByteArray(0) }
    private val presenter = CallPresenter(services, phone.chat)
    private val state get() = presenter.state
    private val call get() = phone.engine.chat.calls.last()

    private fun start() {
        presenter.start(fullDuplex = true)
        steps.settle()
    }

    private fun happen(vararg events: VoiceEvent) {
        events.forEach { call.listener.onEvent(it) }
        steps.settle()
    }

    /** A spoken question of a second, and the beginning of its reply. */
    private fun ask(reply: String) {
        repeat(4) { microphone.hear(FloatArray(8000) { 0.1f }) }
        happen(
            VoiceEvent.StateChanged(VoiceState.HEARING, 0.75),
            VoiceEvent.StateChanged(VoiceState.THINKING, 1.75),
            VoiceEvent.Caption(reply),
            VoiceEvent.Speech(FloatArray(24_000), 24_000, 0),
        )
    }

    private fun figures(text: String) = VoiceEvent.TurnFigures(done(text), 1.0, 0.5, 0.9)

    @Test
    fun aTurnIsShownPlayedAndKept() {
        start()
        assertTrue(microphone.open)
        ask("Hello.")
        happen(VoiceEvent.StateChanged(VoiceState.SPEAKING, 1.8), figures("Hello."))
        assertEquals(VoiceState.SPEAKING, state.voice)
        assertEquals(listOf(CallLine(true, ""), CallLine(false, "Hello.")), state.lines)
        steps.until { call.played == 1.0 }
        presenter.end()
        steps.settle()
        assertTrue(call.closed)
        assertFalse(microphone.open)
        val turn = phone.chat.state.turns.single()
        assertEquals("Hello.", turn.answer)
        val sound = WavFile.read(phone.chat.file(turn.question.attachments.single())!!)
        assertEquals("the voice and 0.6 s before", 25_600, sound.samples.size)
    }

    @Test
    fun aTurnThatGoesOnAfterAPauseIsKeptOnce() {
        start()
        repeat(6) { microphone.hear(FloatArray(8000) { 0.1f }) }
        happen(
            VoiceEvent.StateChanged(VoiceState.HEARING, 1.0),
            VoiceEvent.StateChanged(VoiceState.THINKING, 2.0),
            VoiceEvent.Caption("Too"),
            // the voice goes on before the reply sounds
            VoiceEvent.Interrupted("", "Too"),
            VoiceEvent.StateChanged(VoiceState.LISTENING, 2.2),
            VoiceEvent.StateChanged(VoiceState.HEARING, 2.2),
        )
        assertEquals("the first question is gone", emptyList<CallLine>(), state.lines)
        happen(
            VoiceEvent.StateChanged(VoiceState.THINKING, 3.0),
            VoiceEvent.Caption("Yes."),
            VoiceEvent.Speech(FloatArray(2400), 24_000, 0),
            figures("Yes."),
        )
        presenter.end()
        steps.settle()
        val turn = phone.chat.state.turns.single()
        assertEquals("Yes.", turn.answer)
        val sound = WavFile.read(phone.chat.file(turn.question.attachments.single())!!)
        assertEquals("from the first voice to the end", 41_600, sound.samples.size)
    }

    @Test
    fun anInterruptedReplyShowsAndKeepsWhatWasHeard() {
        start()
        ask("One two three.")
        steps.until { phone.speaker.devices.isNotEmpty() }
        happen(VoiceEvent.Interrupted("One ", "One two three."))
        assertEquals(CallLine(false, "One ", "two three."), state.lines.last())
        steps.until { phone.speaker.devices.last().run { stopped || closed } }
        presenter.end()
        steps.settle()
        assertEquals("One ", phone.chat.state.turns.single().answer)
        assertTrue(phone.chat.state.turns.single().cut)
    }

    @Test
    fun anInterruptedReplyWithoutSpeechIsKept() {
        start()
        repeat(4) { microphone.hear(FloatArray(8000) { 0.1f }) }
        happen(
            VoiceEvent.StateChanged(VoiceState.HEARING, 0.75),
            VoiceEvent.StateChanged(VoiceState.THINKING, 1.75),
            VoiceEvent.Caption("One two"),
            VoiceEvent.Interrupted("One two", "One two"),
        )
        assertEquals(CallLine(false, "One two"), state.lines.last())
        presenter.end()
        steps.settle()
        assertEquals("One two", phone.chat.state.turns.single().answer)
    }

    @Test
    fun anEndDuringAReplyKeepsWhatWasHeard() {
        start()
        ask("One two three.")
        call.onInterrupt = { call.listener.onEvent(VoiceEvent.Interrupted("One two ", "One two three.")) }
        presenter.end()
        steps.settle()
        assertEquals("One two ", phone.chat.state.turns.single().answer)
    }

    @Test
    fun aFullDiskKeepsTheTurnsBefore() {
        start()
        ask("Hello.")
        happen(figures("Hello."))
        val log = java.io.File(phone.folder, "chats/1/log")
        log.renameTo(java.io.File(log.path + ".kept"))
        java.nio.file.Files.createSymbolicLink(log.toPath(), java.io.File("/dev/full").toPath())
        ask("Lost.")
        happen(VoiceEvent.Interrupted("Lo", "Lost."))
        assertEquals(NoticeKey.STORE_FAILED, (state.notice as Notice.Known).key)
        assertTrue(state.active)
        presenter.end()
        steps.settle()
        assertEquals(listOf("Hello."), phone.chat.state.turns.map { it.answer })
    }

    @Test
    fun aPhoneCallHoldsTheCall() {
        start()
        changed!!(FocusChange.PAUSED)
        steps.settle()
        assertTrue(state.held && call.muted)
        assertEquals(1, call.interrupts)
        assertEquals(Notice.of(NoticeKey.CALL_INTERRUPTED), state.notice)
        presenter.setMuted(false)
        assertTrue("the other call goes on", call.muted)
        changed!!(FocusChange.GAINED)
        steps.settle()
        assertFalse(state.held || call.muted)
        assertNull(state.notice)
    }

    @Test
    fun losingTheSoundEndsTheCall() {
        start()
        ask("Hello.")
        var ended = false
        presenter.onEnd = { ended = true }
        changed!!(FocusChange.LOST)
        steps.settle()
        assertFalse(state.active)
        assertTrue(ended && call.closed)
        assertEquals(Notice.of(NoticeKey.CALL_INTERRUPTED), state.notice)
    }

    @Test
    fun aBusySoundOrMicrophoneIsOneLine() {
        free = false
        start()
        assertFalse(state.active)
        assertEquals(Notice.of(NoticeKey.CALL_INTERRUPTED), state.notice)
        free = true
        microphone.failure = NoticeException(NoticeKey.NO_MICROPHONE)
        start()
        assertFalse(state.active)
        assertEquals(Notice.of(NoticeKey.NO_MICROPHONE), state.notice)
        assertTrue(call.closed)
    }

    @Test
    fun theModelSeesPicturesOnlyWhileTheCameraIsOn() {
        val picture = Part.Picture(ImageSource(RgbImage(1, 1, ByteArray(3))))
        start()
        presenter.see(picture)
        assertNull(call.picture)
        presenter.setCamera(true)
        presenter.see(picture)
        assertEquals(picture, call.picture)
        presenter.cameraFailed("error 4")
        assertNull(call.picture)
        assertEquals(Notice.of(NoticeKey.CAMERA_FAILED, "error 4"), state.notice)
    }

    @Test
    fun slowSpeechAndForgottenTurnsAreSaid() {
        start()
        happen(VoiceEvent.Underrun(ReplyEvent.PlaybackUnderrun(0.5, 2.0, "fast", emptyList(), 1.0)))
        assertEquals(Notice.of(NoticeKey.SPEECH_SLOW, 0.5), state.notice)
        happen(VoiceEvent.Forgotten(3))
        assertEquals(Notice.of(NoticeKey.TURNS_FORGOTTEN, 3), state.notice)
        assertTrue(state.active)
    }

    @Test
    fun aReplyThatFailsLeavesTheCallOpen() {
        start()
        ask("Hel")
        happen(VoiceEvent.ReplyFailed(IllegalStateException("broken")))
        assertTrue(state.active)
        assertEquals(emptyList<CallLine>(), state.lines)
        assertEquals(Notice.Text("java.lang.IllegalStateException: broken"), state.notice)
        presenter.end()
        steps.settle()
        assertEquals(emptyList<TurnLine>(), phone.chat.state.turns)
    }
}
