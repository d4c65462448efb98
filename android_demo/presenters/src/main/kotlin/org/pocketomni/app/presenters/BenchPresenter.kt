/** The benchmark screen: the tests of `omni bench`, with its names, limits and form. */
package org.pocketomni.app.presenters

import org.pocketomni.engine.Chunks
import org.pocketomni.engine.Part
import org.pocketomni.engine.ReplyEvent
import org.pocketomni.engine.ReplyOptions
import org.pocketomni.engine.Samples
import org.pocketomni.engine.SamplesSource
import org.pocketomni.engine.SpeechOptions
import org.pocketomni.engine.Timings
import org.pocketomni.engine.bench.BenchQuantity
import org.pocketomni.engine.bench.PartBench
import java.io.File
import java.util.Locale
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

/** A quantity of a reply, and how it is taken from the timings. */
private class Quantity(val of: BenchQuantity, val value: (Timings) -> Double?) {
    constructor(name: String, unit: String, note: String, value: (Timings) -> Double?) : this(BenchQuantity(name, unit, note), value)
}

/**
 * Runs the tests of `omni bench` with a loaded engine, in its order: each part of the model, then whole replies. Blocks;
 * [cancelled] is asked between measurements.
 */
class Bench(
    private val engine: ChatEngine,
    private val repetitions: Int,
    private val cancelled: () -> Boolean,
    private val tests: List<String> = PartBench.TESTS + REPLY,
    private val spokenSeconds: Int = 4,
    private val progress: (String) -> Unit,
) {
    private val rows = mutableListOf<BenchRow>()
    private val leftOut = linkedMapOf<String, String>()

    /** Run all tests. After a cancellation, the report has the rows so far. */
    fun run(setting: Map<String, Any>, peakMemory: () -> Long?): BenchReport {
        try {
            for (test in tests.filter { it != REPLY }) parts(test)
            if (REPLY in tests) replies()
            leftOut["load"] = "needs another process"
            val peak = peakMemory()?.let { it / MIB }
            if (peak == null) leftOut["peak memory"] = "unknown"
            else rows.add(BenchRow("peak memory", "MiB", listOf(peak), "this process since it began"))
        } catch (_: CancellationException) {
            leftOut["the rest"] = "cancelled"
        }
        val info = engine.info
        val bundle = "bundle" to "${info.name}, ${info.recipe} for ${info.target}, ${size(info.bytes)}"
        return BenchReport(mapOf(bundle) + setting + mapOf("repetitions" to repetitions, "warm-up" to true), rows, leftOut)
    }

    private fun parts(test: String) {
        engine.parts.missing(test)?.let {
            leftOut[test] = it
            return
        }
        engine.parts.cases(test) { case ->
            report(test, case.quantity.name)
            case.run() // warm-up
            val samples = mutableListOf<Double>()
            try {
                repeat(repetitions) {
                    if (cancelled()) throw CancellationException()
                    samples.add(case.run())
                }
            } finally {
                if (samples.isNotEmpty()) case.quantity.run { rows.add(BenchRow(name, unit, samples, note)) }
            }
        }
    }

    private fun replies() {
        for ((name, prompt) in prompts()) {
            val quantities = quantities(name)
            report(REPLY, quantities.joinToString { it.of.name })
            ask(prompt) // warm-up
            val timings = List(repetitions) { ask(prompt) }
            for (quantity in quantities) {
                val samples = timings.mapNotNull(quantity.value)
                if (samples.isEmpty()) leftOut[quantity.of.name] = "not part of the reply"
                else quantity.of.run { rows.add(BenchRow(this.name, unit, samples, note)) }
            }
        }
    }

    private fun report(test: String, what: String) {
        if (cancelled()) throw CancellationException()
        progress("[${tests.indexOf(test) + 1}/${tests.size}] $what")
    }

    /** Prompts that the bundle accepts, with a name. */
    private fun prompts(): List<Pair<String, (Chat) -> List<Part>>> {
        val typed = "typed" to { _: Chat -> listOf(Part.Text(QUESTION)) }
        if (!engine.info.hears) return listOf(typed)
        val noise = noise()
        return listOf(
            typed,
            "spoken $spokenSeconds s" to { _ -> listOf(Part.Sound(SamplesSource(Samples(noise, Microphone.RATE)))) },
            "spoken $spokenSeconds s, streamed" to { chat -> listen(chat, noise) },
        )
    }

    private fun quantities(name: String): List<Quantity> {
        val limits = "at most $MAX_TOKENS tokens"
        val text = Quantity("first text, $name", "s", limits) { it.firstText }
        if (!engine.info.speaks) return listOf(text)
        val speech = "$limits and $MAX_SPEECH s of speech, ${engine.info.defaultPreset}"
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
        val speech = SpeechOptions(maxCodes = engine.info.codesPerSecond?.let { (MAX_SPEECH * it).toInt() }, chunks = Chunks.ADAPTIVE)
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
        const val MIB = 1048576.0
        const val GIB = 1024 * MIB
        const val POLL_MILLISECONDS = 200L
        const val REPLY = "reply"

        /** Format a number of bytes as `omni bench` does. */
        fun size(bytes: Long): String = when {
            bytes >= GIB -> String.format(Locale.ROOT, "%.1f GB", bytes / GIB)
            bytes >= MIB -> String.format(Locale.ROOT, "%.1f MB", bytes / MIB)
            else -> String.format(Locale.ROOT, "%.0f KB", bytes / 1024.0)
        }
    }
}

/** The presenter of the benchmark screen. [setting] describes the phone, [folder] gets the report. */
class BenchPresenter(
    private val services: ChatServices,
    private val setting: Map<String, Any>,
    private val folder: File,
) : Presenter<BenchState>(BenchState()) {
    @Volatile private var cancelled = false

    /** Measure [engine]. */
    fun start(engine: ChatEngine, repetitions: Int = 3) {
        if (state.running) return
        cancelled = false
        update { BenchState(running = true) }
        services.worker.run {
            try {
                val bench = Bench(engine, repetitions, { cancelled }) { step ->
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
