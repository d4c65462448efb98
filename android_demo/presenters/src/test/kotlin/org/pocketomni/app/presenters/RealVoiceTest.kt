package org.pocketomni.app.presenters

import org.junit.AfterClass
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertTrue
import org.junit.BeforeClass
import org.junit.Test
import org.pocketomni.app.presenters.SpokenTalk.Companion.RATE
import org.pocketomni.app.presenters.SpokenTalk.Companion.silence
import org.pocketomni.engine.Engine
import org.pocketomni.engine.EngineOptions
import org.pocketomni.engine.Part
import org.pocketomni.engine.ReplyEvent
import org.pocketomni.engine.ReplyOptions
import org.pocketomni.engine.Role
import org.pocketomni.engine.SpeechOptions
import org.pocketomni.engine.TurnOptions
import org.pocketomni.engine.VoiceEvent
import org.pocketomni.engine.VoiceListener
import org.pocketomni.engine.VoiceState
import java.io.File
import java.util.concurrent.CountDownLatch

/** Spoken turns with the engine itself: replies that begin in a pause, pauses in a sentence, interruptions. */
class RealVoiceTest {
    private val voice = WavFile.read(File(System.getProperty("question"))).samples
    private val turn = listOf(VoiceState.HEARING, VoiceState.THINKING, VoiceState.SPEAKING, VoiceState.LISTENING)

    private fun talk(
        turns: TurnOptions = TurnOptions(),
        context: Int? = null,
        readAhead: Boolean = true,
        speech: SpeechOptions? = SpeechOptions(),
        listener: VoiceListener = VoiceListener {},
    ) = SpokenTalk(engine.conversation(context = context), turns, readAhead = readAhead, speech = speech, listener = listener)

    /** Whether a reply was made for a turn that is still being heard: it is in the conversation then. */
    private fun SpokenTalk.speculates(turnsBefore: Int = 0) =
        session.state == VoiceState.HEARING && conversation.messages.size == 1 + 2 * (turnsBefore + 1)

    @Test
    fun threeSpokenTurns() {
        val talk = talk()
        repeat(3) { talk.hear(silence(0.8), voice, silence(4.0)) }
        assertEquals(turn + turn + turn, talk.states)
        assertEquals(List(3) { ANSWER }, talk.replies)
        for (figures in talk.figures) {
            assertTrue(figures.voiceToSound!! > figures.decidedToSound!! && figures.decidedToSound!! > 0)
            assertTrue("prefilled while the voice was heard", figures.done.timings.cachedTokens > 0)
        }
        assertEquals(listOf(Role.SYSTEM) + List(3) { listOf(Role.USER, Role.ASSISTANT) }.flatten(), talk.conversation.messages.map { it.role })
    }

    @Test
    fun aReplyBeginsBeforeItsTurnIsDecided() {
        val talk = talk(TurnOptions(endSilence = 2.0))
        var held = false
        talk.hear(silence(0.8), voice, silence(5.0)) { at ->
            val paused = at > 0.8 + voice.size.toDouble() / RATE + 0.7
            if (paused && talk.session.state == VoiceState.HEARING) {
                talk.waitUntil { talk.speculates() } // simulated time is faster than the engine
                assertEquals(listOf(VoiceState.HEARING), talk.states)
                assertEquals("nothing is seen of it", 1, talk.snapshot().size)
                held = true
            }
        }
        assertTrue(held)
        assertEquals(turn, talk.states)
        assertEquals(listOf(ANSWER), talk.replies)
        assertEquals(ANSWER, talk.of<VoiceEvent.Caption>().joinToString("") { it.text })
        assertTrue("its speech was there when the turn was decided", talk.figures.single().decidedToSound!! < 0.05)
    }

    @Test
    fun aBusyEngineOnlyPrefills() {
        val talk = talk()
        val other = engine.conversation()
        val begun = CountDownLatch(1)
        val free = CountDownLatch(1)
        other.send(listOf(Part.Text("Hello!")), ReplyOptions(speech = null)) { event ->
            if (event is ReplyEvent.TextDelta) {
                begun.countDown()
                free.await()
            }
        }
        begun.await()
        talk.hear(silence(0.8), voice, silence(0.35))
        free.countDown()
        talk.hear(silence(4.0))
        val timings = talk.figures.single().done.timings
        assertEquals("prefilled before the turn ended", timings.promptTokens - 1, timings.cachedTokens)
        assertEquals(listOf(ANSWER), talk.replies)
        other.close()
    }

    @Test
    fun aPauseWithinASentence() {
        val half = (1.15 * RATE).toInt()
        val pieces = listOf(silence(0.6), voice.copyOf(half), silence(0.7), voice.copyOfRange(half, voice.size), silence(4.0))
        val talk = talk(TurnOptions(endSilence = 1.0))
        var begun = 0
        var before = false
        talk.hear(*pieces.toTypedArray()) { at ->
            if (at > 0.6 + 1.15 + 0.55 && at < 0.6 + 1.15 + 0.6) talk.waitUntil { talk.speculates() }
            if (talk.speculates() && !before) begun++
            before = talk.speculates()
        }
        assertTrue("a reply to the first half was made", begun >= 1)
        assertEquals(turn, talk.states)
        assertTrue(talk.figures.single().heardSeconds > 2.5)
        val plain = talk(TurnOptions(endSilence = 1.0), readAhead = false)
        plain.hear(*pieces.toTypedArray())
        assertEquals("it left no trace", plain.replies, talk.replies)
        // without it, the turn has the whole silence of a second, and not just the pause of 0.2 s: 25 tokens a second
        val silent = plain.conversation.contextUsed - talk.conversation.contextUsed
        assertTrue("$silent", silent in 19..21)
        assertEquals(3, talk.conversation.messages.size)
    }

    @Test
    fun whatIsAddedInAPauseIsAnswered() {
        val talk = talk(TurnOptions(endSilence = 2.0))
        talk.hear(silence(0.8), voice, silence(0.9))
        talk.waitUntil { talk.speculates() }
        talk.session.add(Part.Text("What is two plus two?"))
        talk.waitUntil { !talk.speculates() }
        talk.hear(silence(4.0))
        assertEquals("What is two plus two?", talk.conversation.messages[1].text)
        assertEquals(1, talk.replies.size)
    }

    @Test
    fun aCallThatEndsInAPauseKeepsNoReply() {
        val talk = talk(TurnOptions(endSilence = 2.0))
        talk.hear(silence(0.8), voice, silence(0.9))
        talk.waitUntil { talk.speculates() }
        talk.session.close()
        talk.conversation.cancel()
        assertEquals(1, talk.conversation.messages.size)
    }

    @Test
    fun aVoiceCutsTheReplyToWhatWasHeard() {
        for (delay in listOf(0.4, 0.9, 1.4)) {
            val talk = talk()
            talk.session.say(COUNT)
            talk.hear(silence(delay), voice, silence(6.0))
            val cut = talk.of<VoiceEvent.Interrupted>().single()
            assertTrue(cut.heard, cut.text.startsWith(cut.heard) && cut.heard != cut.text)
            assertEquals(VoiceState.LISTENING, talk.states.last())
            if (cut.heard.isNotEmpty()) assertEquals("only what was heard is kept", cut.heard, talk.conversation.messages[2].text)
        }
    }

    @Test
    fun aBackchannelDoesNotInterrupt() {
        val talk = talk()
        talk.session.say(COUNT)
        val loud = (0..voice.size - 2400).maxByOrNull { start -> voice.slice(start until start + 2400).sumOf { (it * it).toDouble() } }!!
        talk.hear(silence(0.6), voice.copyOfRange(loud, loud + 2400), silence(3.0))
        assertTrue(talk.of<VoiceEvent.Interrupted>().isEmpty())
        assertEquals(listOf("One, two, three, four, five, six, seven, eight, nine, ten."), talk.replies)
    }

    @Test
    fun halfDuplexIsDeafWhileItSpeaks() {
        val talk = SpokenTalk(engine.conversation(), fullDuplex = false)
        talk.session.say(COUNT)
        talk.hear(silence(0.4), voice.copyOf(2 * RATE), silence(2.0))
        assertTrue(talk.of<VoiceEvent.Interrupted>().isEmpty())
        assertEquals(1, talk.replies.size)
        talk.session.say(COUNT)
        talk.hear(silence(3.0)) { if (talk.playedSeconds > 1) talk.session.interrupt() }
        val cut = talk.of<VoiceEvent.Interrupted>().single()
        assertTrue(cut.heard.isNotEmpty() && cut.heard != cut.text)
    }

    @Test
    fun pushToTalkAndMute() {
        val talk = SpokenTalk(engine.conversation(), handsFree = false)
        talk.hear(voice, silence(1.0))
        assertTrue("nothing without the key", talk.states.isEmpty())
        talk.hear(silence(0.2), voice, silence(3.0)) { talk.session.key(it < 2.6) }
        assertEquals(listOf(ANSWER), talk.replies)
        val muted = talk()
        muted.session.muted = true
        muted.hear(silence(0.5), voice, silence(1.0))
        assertTrue(muted.states.isEmpty())
    }

    @Test
    fun aVoiceAfterPushToTalkBeginsATurnOfItsOwn() {
        val talk = SpokenTalk(engine.conversation(), handsFree = false)
        talk.hear(silence(5.0))
        talk.session.handsFree = true
        talk.hear(silence(3.0), voice, silence(4.0))
        assertEquals(listOf(ANSWER), talk.replies)
        val heard = talk.figures.single().heardSeconds
        assertTrue("$heard", heard < voice.size.toDouble() / RATE + 1)
    }

    @Test
    fun aChangeOfModeEndsAPressedKeyAndDropsABegunTurn() {
        val talk = SpokenTalk(engine.conversation(), handsFree = false)
        talk.session.key(true)
        talk.hear(voice)
        talk.session.handsFree = true
        talk.hear(silence(3.0))
        assertEquals(listOf(ANSWER), talk.replies)
        talk.hear(voice)
        assertEquals(VoiceState.HEARING, talk.session.state)
        talk.session.handsFree = false
        assertEquals(VoiceState.LISTENING, talk.session.state)
        talk.session.handsFree = true
        talk.hear(silence(3.0))
        assertEquals(1, talk.replies.size)
    }

    @Test
    fun aKeyTakesOverATurnThatAVoiceBegan() {
        val talk = talk()
        talk.hear(silence(0.5), voice.copyOf(RATE))
        talk.session.key(true)
        talk.hear(voice)
        talk.session.key(false)
        talk.session.hear(silence(1.0)) // at once: no event of the reply comes in between
        talk.hear(silence(3.0))
        assertEquals(listOf(ANSWER), talk.replies)
        assertTrue(talk.of<VoiceEvent.ReplyFailed>().isEmpty())
    }

    @Test
    fun aVoiceDuringAWrittenReplyBeginsAnotherTurn() {
        val written = CountDownLatch(1)
        val talk = talk(speech = null) { event ->
            if (event is VoiceEvent.Caption) {
                written.countDown()
                Thread.sleep(100) // so that the voice gets the session before the reply is over
            }
        }
        talk.session.hear(silence(0.8) + voice + silence(0.8))
        written.await()
        talk.session.hear(voice + silence(0.8))
        talk.hear(silence(1.0))
        val cut = talk.of<VoiceEvent.Interrupted>().single()
        assertTrue(cut.heard, cut.heard.isNotEmpty() && cut.heard != ANSWER && ANSWER.startsWith(cut.heard))
        val heard = talk.figures.single().heardSeconds
        assertTrue("the second turn alone: $heard", heard < voice.size.toDouble() / RATE + 1)
        assertEquals("the first turn is kept", 5, talk.conversation.messages.size)
    }

    @Test
    fun aReplyThatFailsHalfwayLeavesNoTrace() {
        var captions = 0
        val talk = talk { event -> if (event is VoiceEvent.Caption) check(++captions != 3) }
        talk.session.say("Hello!")
        talk.hear(silence(0.5))
        assertEquals(1, talk.of<VoiceEvent.ReplyFailed>().size)
        talk.waitUntil { talk.conversation.messages.size == 1 }
        talk.session.say("Hello!")
        talk.hear(silence(2.0))
        assertEquals(1, talk.replies.size)
        assertEquals(3, talk.conversation.messages.size)
    }

    @Test
    fun anErrorEndsTheTurnAndNotTheSession() {
        val talk = talk()
        talk.session.say("word ".repeat(9000))
        talk.hear(silence(0.5))
        assertEquals(1, talk.of<VoiceEvent.ReplyFailed>().size)
        assertEquals(VoiceState.LISTENING, talk.states.last())
        talk.session.say("Hello!")
        talk.hear(silence(2.0))
        assertEquals(1, talk.replies.size)
        assertFalse(talk.of<VoiceEvent.Caption>().isEmpty())
    }

    @Test
    fun aTalkOutlivesItsContext() {
        val talk = talk(context = 200)
        repeat(9) { talk.hear(silence(0.5), voice, silence(3.0)) }
        assertEquals(9, talk.replies.size)
        fun forgotten() = talk.of<VoiceEvent.Forgotten>().sumOf { it.turns }
        talk.waitUntil { talk.conversation.messages.size == 1 + 2 * (9 - forgotten()) } // some come late
        assertTrue("${forgotten()}", forgotten() > 2)
        assertTrue(talk.conversation.contextUsed < 200)
    }

    @Test
    fun withoutReadAhead() {
        val talk = talk(readAhead = false)
        talk.hear(silence(0.5), voice, silence(3.0))
        assertEquals(listOf(ANSWER), talk.replies)
        val timings = talk.figures.single().done.timings
        assertTrue("only the system prompt was read", timings.cachedTokens < timings.promptTokens / 2)
    }

    companion object {
        private const val ANSWER = "Seven plus five is twelve."
        private const val COUNT = "Count from one to ten."
        private lateinit var engine: Engine

        @JvmStatic
        @BeforeClass
        fun open() {
            loadShims()
            engine = Engine.open(BUNDLE, EngineOptions(threads = 1))
        }

        @JvmStatic
        @AfterClass
        fun close() = engine.close()
    }
}
