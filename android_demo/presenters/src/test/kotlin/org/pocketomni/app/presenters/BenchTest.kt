package org.pocketomni.app.presenters

import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertTrue
import org.junit.Test
import org.pocketomni.engine.Message
import org.pocketomni.engine.Part
import org.pocketomni.engine.ReplyListener
import org.pocketomni.engine.ReplyOptions
import org.pocketomni.engine.UsageError
import java.io.File

/** Answers at once. */
private class QuickEngine(private val fake: FakeEngine, private val failure: Exception? = null) : ChatEngine by fake {
    val asked = mutableListOf<Pair<List<Part>, ReplyOptions>>()

    override fun chat(history: List<Message>): Chat {
        val chat = FakeChat(history)
        return object : Chat by chat {
            override fun send(parts: List<Part>, options: ReplyOptions, listener: ReplyListener) {
                asked.add(parts to options)
                chat.send(parts, options, listener)
                if (failure == null) chat.finish() else chat.fail(failure)
            }
        }
    }
}

class BenchTest {
    private val phone = Phone()
    private val folder = temporaryFolder()
    private val presenter = BenchPresenter(phone.services, mapOf("machine" to "test"), folder)
    private val deaf = FakeEngine(FakeEngine().info.copy(hears = false))

    @Test
    fun repliesAreMeasuredAndWritten() {
        val engine = QuickEngine(deaf)
        presenter.start(engine)
        phone.steps.settle()
        val state = presenter.state
        assertFalse(state.running)
        for (test in listOf("pp", "tg", "audio", "talker", "dit", "vocoder", "code2wav")) {
            assertTrue(test, state.report.contains(Regex("[|] $test +[|] s +[|] +2[.]00 ± 0[.]00 [|] fake")))
        }
        assertTrue(state.report.contains("left out: image (no vision encoder); load (needs another process)"))
        assertTrue(state.report.contains("48 tokens and 10 s of speech, fast"))
        assertTrue(state.report.startsWith("bundle: fake, int4 for arm64, 1.0 MB  \nmachine: test  \nrepetitions: 3  \nwarm-up: True  \n"))
        assertEquals("one warm-up and three repetitions", 4, engine.asked.size)
        assertEquals(500, engine.asked[0].second.speech!!.maxCodes)
        assertTrue(state.report.contains("| first audio, typed"))
        assertTrue(state.report.contains("| real-time factor, typed | x    | 0.500 ± 0.000 | seconds of speech per second of work"))
        assertEquals(state.report, File(folder, "bench.md").readText())
        assertTrue(File(folder, "bench.json").readText().contains("\"test\": \"first text, typed\""))
    }

    @Test
    fun aFailureIsOneLine() {
        presenter.start(QuickEngine(deaf, UsageError("the context is full")))
        phone.steps.settle()
        assertEquals(Notice.Text("the context is full"), presenter.state.notice)
        assertFalse(presenter.state.running)
    }

    @Test
    fun aCancellationKeepsTheRows() {
        val engine = QuickEngine(deaf)
        val report = Bench(engine, 2, { engine.asked.size >= 2 }) {}.run(emptyMap()) { null }.markdown()
        assertTrue(report, report.contains("the rest (cancelled)") && report.contains("| tg "))
    }
}
