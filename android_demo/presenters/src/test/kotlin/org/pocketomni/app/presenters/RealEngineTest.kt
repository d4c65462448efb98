package org.pocketomni.app.presenters

import org.junit.AfterClass
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertNull
import org.junit.Assert.assertTrue
import org.junit.BeforeClass
import org.junit.Test
import org.pocketomni.engine.BufferAllocator
import org.pocketomni.engine.Engine
import org.pocketomni.engine.EngineOptions
import org.pocketomni.engine.Part
import org.pocketomni.engine.ReplyEvent
import org.pocketomni.engine.ReplyListener
import org.pocketomni.engine.ReplyOptions
import org.pocketomni.engine.VoiceState
import java.io.File
import java.util.concurrent.LinkedBlockingQueue

/** The chat with the engine itself and a bundle; only the loudspeaker and the microphone are not real. */
class RealEngineTest {
    private val steps = Steps()
    private val speaker = FakeSpeaker()
    private val microphone = FakeMicrophone()
    private val folder = temporaryFolder()

    private val settings = Settings(File(folder, "settings"))
    private val store = ChatStore(File(folder, "chats"))
    private val services = ChatServices(steps.ui, steps.worker, store, settings, FakeMedia, microphone, speaker)

    private fun chat() = ChatPresenter(services).apply {
        restore()
        use(engine)
        steps.settle()
    }

    /** A busy machine may speak more slowly than in real time. */
    private fun assertNoProblem(notice: Notice?) =
        assertTrue("$notice", notice == null || (notice as? Notice.Known)?.key == NoticeKey.SPEECH_SLOW)

    private fun ChatPresenter.ask(text: String) {
        send(text)
        steps.until { state.turns.isNotEmpty() && !state.stoppable }
    }

    /** Wait for the end of a reply. */
    private fun last(start: (ReplyListener) -> Unit): ReplyEvent {
        val ends = LinkedBlockingQueue<ReplyEvent>()
        start(ReplyListener { if (it is ReplyEvent.Done || it is ReplyEvent.Failed) ends.add(it) })
        return ends.take()
    }

    @Test
    fun aReplyIsWrittenAndSpoken() {
        val chat = chat()
        chat.ask(QUESTION)
        val turn = chat.state.turns.single()
        assertNoProblem(chat.state.notice)
        assertEquals("Seven plus five is twelve.", turn.answer)
        val played = speaker.devices.single()
        assertEquals(24_000, played.rate)
        assertTrue("${played.written} samples", played.written > 12_000)
        assertTrue(turn.figures!!.values.getValue(Figure.REALTIME) > 0)
    }

    @Test
    fun aStopKeepsWhatWasHeardAndTheNextTurnWorks() {
        speaker.playable = 12_000
        val chat = chat()
        chat.send(QUESTION)
        steps.until { speaker.devices.any { it.written >= 12_000 } }
        chat.stop()
        steps.until { !chat.state.stoppable }
        val cut = chat.state.turns.single()
        assertTrue(cut.cut)
        assertTrue(cut.answer, cut.answer.length < 26 && "Seven plus five is twelve.".startsWith(cut.answer))
        speaker.playable = Long.MAX_VALUE
        chat.ask("How much is two plus two?")
        assertNoProblem(chat.state.notice)
        assertEquals(2, chat.state.turns.size)
        val again = chat()
        assertEquals(chat.state.turns, again.state.turns)
        again.ask(QUESTION)
        assertNoProblem(again.state.notice)
        assertEquals(3, again.state.turns.size)
    }

    @Test
    fun aStoredTurnGetsAnotherReplyAndIsTakenBack() {
        chat().ask(QUESTION)
        val again = chat()
        again.regenerate()
        steps.until { !again.state.stoppable }
        assertNoProblem(again.state.notice)
        assertEquals("Seven plus five is twelve.", again.state.turns.single().answer)
        val third = chat()
        third.undo()
        steps.settle()
        assertNull(third.state.notice)
        assertEquals(QUESTION, third.state.returnedText)
        assertEquals(emptyList<TurnLine>(), chat().state.turns)
    }

    @Test
    fun aReplyThatFailsHalfwayIsKeptAsFarAsItCame() {
        val chat = engine.chat(emptyList())
        var deltas = 0
        val end = last { listener ->
            chat.send(listOf(Part.Text(QUESTION)), WRITTEN) { event ->
                if (event is ReplyEvent.TextDelta) check(++deltas < 3)
                listener.onEvent(event)
            }
        }
        assertTrue(end is ReplyEvent.Failed)
        assertEquals(1, chat.turnCount)
        assertEquals("Seven plus five", chat.messages.last().text)
        chat.undo()
        assertEquals(1, chat.messages.size)
        chat.close()
    }

    @Test
    fun aReplacementThatCannotBeginIsEmpty() {
        var full = false
        val memory = object : BufferAllocator by BufferAllocator.Direct {
            override fun allocate(bytes: Int) = BufferAllocator.Direct.allocate(bytes).also { check(!full) }
        }
        Engine.open(BUNDLE, EngineOptions(threads = 1, memory = memory)).use { engine ->
            val talk = engine.conversation()
            last { talk.send(listOf(Part.Text(QUESTION)), ReplyOptions(), it) }
            val long = "word ".repeat(600)
            val written = last { talk.send(listOf(Part.Text(long)), WRITTEN, it) } as ReplyEvent.Done
            full = true
            assertTrue("the Talker's cache has to grow", last { talk.regenerate(ReplyOptions(), it) } is ReplyEvent.Failed)
            assertEquals(listOf(long, ""), talk.messages.drop(3).map { it.text })
            assertEquals(2, talk.turnCount)
            full = false
            assertEquals(written.text, (last { talk.regenerate(WRITTEN, it) } as ReplyEvent.Done).text)
        }
    }

    @Test
    fun aSpokenQuestionIsHeardWhileItIsRecorded() {
        val chat = chat()
        chat.startTalking()
        repeat(20) { microphone.hear(FloatArray(1600) { number -> (0.1 * Math.sin(number * 0.2)).toFloat() }) }
        chat.stopTalking()
        steps.until { chat.state.turns.isNotEmpty() && !chat.state.stoppable }
        assertNoProblem(chat.state.notice)
        assertEquals(MediaKind.SPEECH, chat.state.turns.single().question.attachments.single().kind)
        assertFalse(chat.state.turns.single().running)
    }

    @Test
    fun aCallHearsASpokenQuestionAnswersAndKeepsBoth() {
        val chat = chat()
        val focus = object : SoundFocus {
            override fun request(changed: (FocusChange) -> Unit) = true
            override fun release() = Unit
        }
        val vad = File(System.getProperty("vad")).readBytes()
        val call = CallPresenter(CallServices(services, microphone, speaker, focus) { vad }, chat)
        call.start(fullDuplex = true)
        steps.until { microphone.open }
        val question = WavFile.read(File(System.getProperty("question"))).samples
        val sound = FloatArray(8000) + question + FloatArray(16_000)
        for (start in 0 until sound.size step 512) microphone.hear(sound.copyOfRange(start, minOf(start + 512, sound.size)))
        steps.until { call.state.figures != null }
        steps.until {
            microphone.hear(FloatArray(512))
            call.state.voice == VoiceState.LISTENING
        }
        assertNoProblem(call.state.notice)
        call.end()
        steps.settle()
        val turn = chat.state.turns.single()
        assertEquals("Seven plus five is twelve.", turn.answer)
        assertEquals(turn.answer, call.state.lines.last().text)
        assertFalse(turn.cut)
        val kept = WavFile.read(chat.file(turn.question.attachments.single())!!).samples
        assertTrue("${kept.size} samples", kept.size in question.size - 16_000..question.size + 16_000)
        val again = chat()
        again.ask(QUESTION)
        assertEquals("the sound is read again as history", listOf(turn.answer, turn.answer), again.state.turns.map { it.answer })
    }

    @Test
    fun theBenchmarkMeasuresRealReplies() {
        val report = Bench(engine, 1, { false }, listOf("reply"), spokenSeconds = 2) {}.run(emptyMap()) { 1 shl 20 }.markdown()
        for (test in listOf("typed", "spoken 2 s", "spoken 2 s, streamed")) {
            assertTrue(report, report.contains("| first audio, $test"))
        }
    }

    companion object {
        private const val QUESTION = "What is seven plus five?"
        private val WRITTEN = ReplyOptions(speech = null)
        private lateinit var engine: ChatEngine

        @JvmStatic
        @BeforeClass
        fun open() {
            loadShims()
            engine = RealEngine(Engine.open(BUNDLE, EngineOptions(threads = 1)))
        }

        @JvmStatic
        @AfterClass
        fun close() = engine.close()
    }
}
