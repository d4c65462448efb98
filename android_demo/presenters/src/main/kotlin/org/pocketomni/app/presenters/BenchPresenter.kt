/** The benchmark screen: the replies of `omni bench`, with its names, limits and form. */
package org.pocketomni.app.presenters

import org.pocketomni.engine.Chunks
import org.pocketomni.engine.Part
import org.pocketomni.engine.ReplyEvent
import org.pocketomni.engine.ReplyOptions
import org.pocketomni.engine.Samples
import org.pocketomni.engine.SamplesSource
import org.pocketomni.engine.SpeechOptions
import org.pocketomni.engine.Timings
import java.io.File
import java.util.Random
import java.util.concurrent.CancellationException
import java.util.concurrent.LinkedBlockingQueue
import java.util.concurrent.TimeUnit

/** The benchmark screen. [report] is Markdown; [file] is the same in JSON, once it was written. */
data class BenchState(
    val running: Boolean = false,
    val step: String = "",
    val report: String = "",
    val file: File? = null,
    val notice: Notice? = null,
)

/** A quantity of a reply: what it is called, and how it is taken from the timings. */
private class Quantity(val name: String, val unit: String, val note: String, val value: (Timings) -> Double?)

/** Measures replies with a loaded engine. Blocks; [cancelled] is asked between replies. */
class ReplyBench(
    private val engine: ChatEngine,
    private val repetitions: Int,
    private val cancelled: () -> Boolean,
    private val spokenSeconds: Int = 4,
    private val progress: (String) -> Unit,
) {
    private val rows = mutableListOf<BenchRow>()
    private val leftOut = OTHER_TESTS.associateWith { "only measured by omni bench" }.toMutableMap()

    /** Run all replies. After a cancellation, the report has the rows so far. */
    fun run(setting: Map<String, String>, peakMemory: () -> Long?): BenchReport {
        try {
            val prompts = prompts()
            for ((number, prompt) in prompts.withIndex()) {
                progress("${number + 1}/${prompts.size} ${prompt.first}")
                measure(prompt.first, prompt.second)
            }
            val peak = peakMemory()?.let { it / MIB }
            if (peak == null) leftOut["peak memory"] = "unknown"
            else rows.add(BenchRow("peak memory", "MiB", listOf(peak), "this process since it began"))
        } catch (_: CancellationException) {
            leftOut["the rest"] = "cancelled"
        }
        val info = engine.info
        val bundle = "bundle" to "${info.name}, ${info.recipe}, ${info.bytes / MIB.toLong()} MB"
        val counts = mapOf("repetitions" to repetitions.toString(), "warm-up" to "True")
        return BenchReport(mapOf(bundle) + setting + counts, rows, leftOut)
    }

    private fun prompts(): List<Pair<String, (Chat) -> List<Part>>> {
        val typed: (Chat) -> List<Part> = { listOf(Part.Text(QUESTION)) }
        if (!engine.info.hears) return listOf("typed" to typed)
        val noise = noise()
        return listOf(
            "typed" to typed,
            "spoken $spokenSeconds s" to { _ -> listOf(Part.Sound(SamplesSource(Samples(noise, Microphone.RATE)))) },
            "spoken $spokenSeconds s, streamed" to { chat -> listen(chat, noise) },
        )
    }

    private fun measure(name: String, prompt: (Chat) -> List<Part>) {
        val quantities = quantities(name)
        ask(prompt) // warm-up
        val timings = List(repetitions) { ask(prompt) }
        for (quantity in quantities) {
            val samples = timings.mapNotNull(quantity.value)
            if (samples.isEmpty()) leftOut[quantity.name] = "not part of the reply"
            else rows.add(BenchRow(quantity.name, quantity.unit, samples, quantity.note))
        }
    }

    private fun quantities(name: String): List<Quantity> {
        val limits = "at most $MAX_TOKENS tokens"
        val text = Quantity("first text, $name", "s", limits) { it.firstText }
        if (!engine.info.speaks) return listOf(text)
        val speech = "$limits and $MAX_SPEECH s of speech"
        return listOf(
            text,
            Quantity("first audio, $name", "s", speech) { it.firstAudio },
            Quantity("real-time factor, $name", "x", "seconds of speech per second of work") {
                if (it.speech > 0) it.speech / it.total else null
            },
        )
    }

    /** Return the timings of one reply in a new conversation, from the end of the prompt. */
    private fun ask(prompt: (Chat) -> List<Part>): Timings {
        if (cancelled()) throw CancellationException()
        val speech = SpeechOptions(maxCodes = MAX_SPEECH * CODES_PER_SECOND, chunks = Chunks.ADAPTIVE)
        val options = ReplyOptions(speech.takeIf { engine.info.speaks }, maxTokens = MAX_TOKENS)
        val ended = LinkedBlockingQueue<ReplyEvent>()
        engine.chat(emptyList()).use { chat ->
            chat.send(prompt(chat), options) { if (it is ReplyEvent.Done || it is ReplyEvent.Failed) ended.add(it) }
            while (true) {
                if (cancelled()) throw CancellationException().also { chat.cancel() }
                when (val event = ended.poll(POLL_MILLISECONDS, TimeUnit.MILLISECONDS)) {
                    is ReplyEvent.Done -> return event.timings
                    is ReplyEvent.Failed -> throw event.error
                    else -> Unit
                }
            }
        }
    }

    /** Stream the prompt in real time, and prefill it meanwhile. */
    private fun listen(chat: Chat, samples: FloatArray): List<Part> {
        val recording = engine.recording(Microphone.RATE)
        val parts = listOf(recording.part)
        chat.readAhead(emptyList(), more = false, speech = engine.info.speaks)
        for (second in 1..spokenSeconds) {
            TimeUnit.SECONDS.sleep(1)
            recording.push(samples.copyOfRange((second - 1) * Microphone.RATE, second * Microphone.RATE))
            if (second < spokenSeconds) chat.readAhead(parts, more = true, speech = engine.info.speaks)
        }
        recording.finish()
        return parts
    }

    /** Return noise: the time does not depend on its content. */
    private fun noise(): FloatArray {
        val random = Random(0)
        return FloatArray(spokenSeconds * Microphone.RATE) { (random.nextGaussian() * 0.1).toFloat() }
    }

    private companion object {
        const val QUESTION = "Hello! Who are you, and what can you do?"
        const val MAX_TOKENS = 48

        /** Seconds. */
        const val MAX_SPEECH = 10
        const val CODES_PER_SECOND = 50
        const val MIB = 1048576.0
        const val POLL_MILLISECONDS = 200L
        val OTHER_TESTS = listOf("pp", "tg", "audio", "image", "talker", "dit", "vocoder", "code2wav", "load")
    }
}

/** The presenter of the benchmark screen. [setting] describes the phone, [folder] gets the report. */
class BenchPresenter(
    private val services: ChatServices,
    private val setting: Map<String, String>,
    private val folder: File,
) : Presenter<BenchState>(BenchState()) {
    @Volatile private var cancelled = false

    /** Measure replies with [engine]. */
    fun start(engine: ChatEngine, repetitions: Int = 3) {
        if (state.running) return
        cancelled = false
        update { BenchState(running = true) }
        services.worker.run {
            try {
                val bench = ReplyBench(engine, repetitions, { cancelled }) { step ->
                    services.ui.post { update { it.copy(step = step) } }
                }
                val report = bench.run(setting, services.peakMemory)
                folder.mkdirs()
                val file = File(folder, "bench.json")
                file.writeText(report.json())
                File(folder, "bench.md").writeText(report.markdown())
                services.ui.post { update { it.copy(running = false, report = report.markdown(), file = file) } }
            } catch (error: Exception) {
                services.ui.post { update { it.copy(running = false, notice = Notice.of(error)) } }
            }
        }
    }

    /** The notice was read. */
    fun dismissNotice() = update { it.copy(notice = null) }

    /** End soon, with the rows so far. */
    fun cancel() {
        cancelled = true
    }
}
