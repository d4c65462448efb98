package org.pocketomni.app.presenters

import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertNull
import org.junit.Assert.assertTrue
import org.junit.Test
import org.pocketomni.engine.FinishReason
import org.pocketomni.engine.Part
import org.pocketomni.engine.ReplyEvent
import org.pocketomni.engine.Role
import org.pocketomni.engine.UsageError
import java.io.ByteArrayInputStream
import java.io.File
import java.io.IOException
import java.nio.file.Files
import java.util.concurrent.CompletableFuture

class ChatPresenterTest {
    private val phone = Phone().start()
    private val state get() = phone.chat.state
    private val steps get() = phone.steps

    /** What another process with the same storage shows. */
    private fun afterTheProcessDied() = Phone(phone.folder).start()

    @Test
    fun textStreamsAndTheTurnIsKept() {
        val chat = phone.ask("  What is this?  ")
        assertTrue(state.replying)
        chat.say("A ")
        chat.say("cat.")
        steps.settle()
        assertEquals("A cat.", state.turns.single().answer)
        assertTrue(state.turns.single().running)
        chat.finish()
        steps.settle()
        assertFalse(state.replying)
        assertEquals("What is this?", state.turns.single().question.text)
        assertEquals(10.0, state.turns.single().figures!!.values[Figure.TOKENS_PER_SECOND]!!, 1e-9)
        assertEquals(state.turns, afterTheProcessDied().chat.state.turns)
    }

    @Test
    fun theModelGetsTheStoredTurnsAfterTheProcessDied() {
        phone.ask("one").run {
            say("two")
            finish()
        }
        steps.settle()
        val history = afterTheProcessDied().engine.chat.messages.drop(1)
        assertEquals(listOf(Role.USER to "one", Role.ASSISTANT to "two"), history.map { it.role to it.text })
    }

    @Test
    fun aQuestionWithoutAnAnswerComesBackAfterTheProcessDied() {
        phone.ask("one").say("half")
        steps.settle()
        val next = afterTheProcessDied()
        assertEquals("one", next.chat.state.returnedText)
        assertEquals(emptyList<TurnLine>(), next.chat.state.turns)
        assertEquals(1, next.engine.chat.messages.size)
    }

    @Test
    fun aStopCutsTheReplyToWhatWasHeard() {
        phone.speaker.playable = 7200 // 0.3 s
        val chat = phone.ask("tell me")
        chat.say("abcdefgh")
        chat.speak(1.0)
        steps.until { phone.speaker.devices.firstOrNull()?.written == 24_000L && state.speaking }
        phone.chat.stop()
        steps.until { !state.stoppable }
        assertEquals("abc", state.turns.single().answer)
        assertTrue(state.turns.single().cut)
        assertEquals("abc", chat.messages.last().text)
        assertEquals("abc", afterTheProcessDied().chat.state.turns.single().answer)
    }

    @Test
    fun aStopAfterTheReplyWasMadeStillCutsWhatIsHeard() {
        phone.speaker.playable = 4800
        val chat = phone.ask("tell me")
        chat.say("abcdefgh")
        chat.speak(1.0)
        chat.finish()
        steps.until { phone.speaker.devices.firstOrNull()?.written == 24_000L && !state.replying }
        phone.chat.stop()
        steps.until { !state.stoppable }
        assertEquals("ab", state.turns.single().answer)
        assertEquals("ab", afterTheProcessDied().chat.state.turns.single().answer)
    }

    @Test
    fun aQuestionDuringSpeechCutsTheLastReply() {
        phone.speaker.playable = 4800
        val chat = phone.ask("one")
        chat.say("abcdefgh")
        chat.speak(1.0)
        chat.finish()
        steps.until { phone.speaker.devices.firstOrNull()?.written == 24_000L && !state.replying }
        phone.ask("two")
        assertEquals(listOf("ab", ""), state.turns.map { it.answer })
        assertEquals(listOf(true, false), state.turns.map { it.cut })
        chat.say("fine")
        chat.finish()
        steps.settle()
        assertEquals(listOf("ab", "fine"), state.turns.map { it.answer })
        assertEquals(listOf("ab", "fine"), afterTheProcessDied().chat.state.turns.map { it.answer })
    }

    @Test
    fun aFailureBeforeTheQuestionIsStoredKeepsTheLastTurn() {
        phone.ask("one").run {
            say("two")
            finish()
        }
        steps.settle()
        phone.chat.attach(MediaKind.FILM, ".mp4") { ByteArrayInputStream(ByteArray(1)) }
        steps.settle()
        phone.ask("and this film?") // the fake phone has no decoder
        assertEquals("and this film?", state.returnedText)
        assertTrue(state.notice is Notice.Text)
        assertEquals(listOf("two"), state.turns.map { it.answer })
        assertEquals(listOf("two"), afterTheProcessDied().chat.state.turns.map { it.answer })
    }

    @Test
    fun aStopBeforeTheFirstTextGivesTheQuestionBack() {
        phone.ask("one")
        phone.chat.stop()
        steps.settle()
        assertEquals("one", state.returnedText)
        assertEquals(emptyList<TurnLine>(), state.turns)
        assertTrue(state.ready)
        assertNull(afterTheProcessDied().chat.state.returnedText)
    }

    @Test
    fun aFailureGivesTheQuestionBackWithOneLine() {
        phone.ask("one").fail(UsageError("the context is full", "start a new conversation"))
        steps.settle()
        assertEquals(Notice.Text("the context is full (start a new conversation)"), state.notice)
        assertEquals("one", state.returnedText)
        assertTrue(state.ready)
    }

    @Test
    fun aReplyThatFailsHalfwayIsKeptAsFarAsItCame() {
        val chat = phone.ask("one")
        chat.say("tw")
        chat.fail(IllegalStateException("broken"))
        steps.settle()
        assertTrue(state.notice is Notice.Text && state.ready)
        assertEquals(listOf("tw" to true), state.turns.map { it.answer to it.cut })
        assertEquals(state.turns, afterTheProcessDied().chat.state.turns)
        phone.chat.undo()
        steps.settle()
        assertEquals(1, chat.messages.size)
        assertEquals(emptyList<TurnLine>(), afterTheProcessDied().chat.state.turns)
    }

    @Test
    fun slowSpeechAndAFullContextAreSaid() {
        val chat = phone.ask("one")
        chat.listener!!.onEvent(ReplyEvent.PlaybackUnderrun(0.55, 2.0, "fast", emptyList(), 1.0))
        steps.settle()
        assertEquals(Notice.of(NoticeKey.SPEECH_SLOW, 0.55), state.notice)
        chat.say("two")
        chat.finish(FinishReason.CONTEXT)
        steps.settle()
        assertEquals(Notice.of(NoticeKey.CONTEXT_FULL, 4096), state.notice)
        assertEquals("two", state.turns.single().answer)
    }

    @Test
    fun aFullDiskIsOneLineAndLosesNothing() {
        val folder = File(phone.folder, "chats/1").apply { mkdirs() }
        phone.settings[Setting.CHAT] = "1"
        val next = afterTheProcessDied()
        Files.createSymbolicLink(File(folder, "log").toPath(), File("/dev/full").toPath())
        next.ask("one")
        assertEquals(NoticeKey.STORE_FAILED, (next.chat.state.notice as Notice.Known).key)
        assertEquals("one", next.chat.state.returnedText)
        assertFalse(next.chat.state.replying)
    }

    @Test
    fun aLoudspeakerThatFailsLeavesTheText() {
        phone.speaker.failure = NoticeException(NoticeKey.AUDIO_FAILED, "busy")
        val chat = phone.ask("one")
        chat.say("two")
        chat.speak(0.1)
        steps.until { state.notice != null }
        chat.finish()
        steps.settle()
        assertEquals("two", state.turns.single().answer)
        assertFalse(state.speaking)
    }

    @Test
    fun heldTalkIsRecordedReadAheadAndSent() {
        phone.chat.startTalking()
        repeat(5) { phone.microphone.hear(FloatArray(8000) { 0.5f }) }
        assertTrue(state.recording)
        phone.chat.stopTalking()
        steps.settle()
        assertFalse(phone.microphone.open)
        val recording = phone.engine.recordings.single()
        assertTrue(recording.finished)
        assertEquals(40_000, recording.samples)
        assertEquals(2, phone.engine.chat.readAheads)
        assertEquals(listOf(recording.part), phone.engine.chat.parts)
        phone.engine.chat.say("yes")
        phone.engine.chat.finish()
        steps.settle()
        val kept = state.turns.single().question.attachments.single()
        assertEquals(MediaKind.SPEECH, kept.kind)
        assertEquals(40_000, WavFile.read(phone.chat.file(kept)!!).samples.size)
        val again = afterTheProcessDied().engine.chat.messages[1].parts.single()
        assertTrue("the sound is in the history", again is Part.Sound)
    }

    @Test
    fun heldTalkIsNotReadAheadTwiceAtATime() {
        val reading = CompletableFuture<Unit>()
        phone.engine.chat.reading = reading
        phone.chat.startTalking()
        repeat(3) { phone.microphone.hear(FloatArray(16_000)) }
        steps.settle()
        assertEquals(1, phone.engine.chat.readAheads)
        reading.complete(Unit)
        phone.microphone.hear(FloatArray(16_000))
        steps.settle()
        assertEquals(2, phone.engine.chat.readAheads)
    }

    @Test
    fun aShortPressSaysWhatToDo() {
        phone.chat.startTalking()
        phone.microphone.hear(FloatArray(1000))
        phone.chat.stopTalking()
        steps.settle()
        assertEquals(Notice.of(NoticeKey.TOO_SHORT), state.notice)
        assertTrue(state.ready)
    }

    @Test
    fun withoutTheMicrophoneThereIsOneLine() {
        phone.microphone.failure = NoticeException(NoticeKey.NO_MICROPHONE)
        phone.chat.startTalking()
        assertEquals(Notice.of(NoticeKey.NO_MICROPHONE), state.notice)
        assertFalse(state.recording)
    }

    @Test
    fun attachmentsAreCopiedAndSent() {
        phone.chat.attach(MediaKind.PICTURE, ".jpg") { ByteArrayInputStream(byteArrayOf(1, 2, 3)) }
        assertFalse(state.ready)
        steps.settle()
        val attached = state.attachments.single()
        assertEquals(3, phone.chat.file(attached)!!.length())
        val chat = phone.ask("")
        assertTrue(chat.parts.single() is Part.Picture)
        assertEquals(emptyList<Attachment>(), state.attachments)
    }

    @Test
    fun aFileThatCannotBeReadIsReported() {
        phone.chat.attach(MediaKind.FILM, ".mp4") { throw IOException("gone") }
        steps.settle()
        assertEquals(Notice.of(NoticeKey.COPY_FAILED, "gone"), state.notice)
        assertTrue(state.ready)
        phone.chat.attach(MediaKind.FILM, ".mp4") { throw SecurityException("not allowed") }
        steps.settle()
        assertTrue(state.ready)
    }

    @Test
    fun anotherReplyReplacesTheLast() {
        phone.ask("one").run {
            say("two")
            finish()
        }
        steps.settle()
        phone.chat.regenerate()
        steps.settle()
        phone.engine.chat.run {
            say("three")
            finish()
        }
        steps.settle()
        assertEquals(listOf("three"), state.turns.map { it.answer })
        assertEquals(1, phone.store.open("1").turns.size)
        assertEquals(listOf("three"), afterTheProcessDied().chat.state.turns.map { it.answer })
    }

    @Test
    fun aStoppedReplacementLeavesTheQuestion() {
        phone.ask("one").run {
            say("two")
            finish()
        }
        steps.settle()
        phone.chat.regenerate()
        steps.settle()
        phone.chat.stop()
        steps.settle()
        assertEquals(listOf("one" to ""), state.turns.map { it.question.text to it.answer })
        assertEquals(state.turns, afterTheProcessDied().chat.state.turns)
    }

    @Test
    fun aReplyThatIsNotReplacedStaysAsItWas() {
        val chat = phone.ask("one")
        chat.say("two")
        chat.finish()
        steps.settle()
        val before = state.turns
        chat.refusal = UsageError("the context is full", "start a new conversation")
        phone.chat.regenerate()
        steps.settle()
        assertTrue(state.notice is Notice.Text)
        assertEquals(before, state.turns)
        assertEquals(before, afterTheProcessDied().chat.state.turns)
    }

    @Test
    fun undoGivesTheQuestionBack() {
        phone.ask("one").run {
            say("two")
            finish()
        }
        steps.settle()
        phone.chat.undo()
        steps.settle()
        assertEquals("one", state.returnedText)
        assertEquals(1, phone.engine.chat.messages.size)
        assertEquals(emptyList<TurnLine>(), afterTheProcessDied().chat.state.turns)
    }

    @Test
    fun aStoredTurnIsTakenBack() {
        for (question in listOf("one", "two")) {
            phone.ask(question).say("$question!")
            phone.engine.chat.finish()
            steps.settle()
        }
        val next = afterTheProcessDied()
        next.chat.undo()
        next.steps.settle()
        assertNull(next.chat.state.notice)
        assertEquals("two", next.chat.state.returnedText)
        assertEquals(listOf("one!"), next.chat.state.turns.map { it.answer })
        assertEquals(listOf("one", "one!"), next.engine.chat.messages.drop(1).map { it.text })
        assertTrue(next.engine.chats.dropLast(1).all { it.closed })
        assertEquals(listOf("one!"), afterTheProcessDied().chat.state.turns.map { it.answer })
    }

    @Test
    fun aStoredTurnGetsAnotherReply() {
        for (question in listOf("one", "two")) {
            phone.ask(question).say("$question!")
            phone.engine.chat.finish()
            steps.settle()
        }
        val next = afterTheProcessDied()
        next.chat.regenerate()
        next.steps.settle()
        next.engine.chat.run {
            say("three")
            finish()
        }
        next.steps.settle()
        assertNull(next.chat.state.notice)
        assertEquals(listOf("one!", "three"), next.chat.state.turns.map { it.answer })
        assertEquals(listOf("one", "one!", "two", "three"), next.engine.chat.messages.drop(1).map { it.text })
        assertEquals(next.chat.state.turns, afterTheProcessDied().chat.state.turns)
    }

    @Test
    fun aVoiceThatTheBundleLacksIsNotAskedFor() {
        phone.chat.setVoice("Chelsie")
        assertNull(phone.ask("one").options.speech!!.voice)
        phone.engine.chat.finish()
        phone.chat.setVoice("Ada")
        steps.settle()
        assertEquals("Ada", phone.ask("two").options.speech!!.voice)
        phone.engine.chat.finish()
        phone.chat.setSpeak(false)
        steps.settle()
        assertNull(phone.ask("three").options.speech)
        assertEquals(false, afterTheProcessDied().chat.state.speak)
    }

    @Test
    fun anotherScreenShowsThePresentStateAfterARotation() {
        phone.ask("one").say("tw")
        val first = mutableListOf<ChatState>()
        val second = mutableListOf<ChatState>()
        val old = Screen<ChatState> { first.add(it) }
        phone.chat.attach(old)
        phone.chat.attach { second.add(it) }
        phone.chat.detach(old) // Android may stop the old screen after the new one has started
        steps.settle()
        phone.engine.chat.finish()
        steps.settle()
        assertEquals(1, first.size)
        assertEquals("tw", second.last().turns.single().answer)
        assertFalse(second.last().replying)
    }

    @Test
    fun anotherModelContinuesTheConversation() {
        phone.ask("one").run {
            say("two")
            finish()
        }
        steps.settle()
        val other = FakeEngine()
        var released = false
        phone.chat.use(null) { released = true }
        steps.settle()
        assertTrue(released && phone.engine.chat.closed)
        assertFalse(state.ready)
        phone.chat.use(other)
        steps.settle()
        assertEquals(listOf("one", "two"), other.chat.messages.drop(1).map { it.text })
    }

    @Test
    fun conversationsAreListedAndDeleted() {
        phone.ask("one").run {
            say("two")
            finish()
        }
        steps.settle()
        phone.chat.openChat(null)
        steps.settle()
        assertEquals(emptyList<TurnLine>(), state.turns)
        assertEquals("the model starts anew", 1, phone.engine.chat.messages.size)
        var listed = emptyList<StoredChat>()
        phone.chat.list { listed = it }
        steps.settle()
        assertEquals(listOf("one"), listed.map { it.title })
        phone.chat.openChat(listed.single().id)
        steps.settle()
        assertEquals("two", state.turns.single().answer)
        phone.chat.delete(setOf(listed.single().id))
        steps.settle()
        assertEquals(emptyList<TurnLine>(), state.turns)
        assertEquals(emptyList<StoredChat>(), phone.store.list())
    }
}
