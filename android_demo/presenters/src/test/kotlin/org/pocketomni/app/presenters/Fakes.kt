/** Stand-ins for the phone and the engine. Everything runs on the test's thread, when it says so. */
package org.pocketomni.app.presenters

import org.pocketomni.engine.FilmSource
import org.pocketomni.engine.FinishReason
import org.pocketomni.engine.ImageSource
import org.pocketomni.engine.Message
import org.pocketomni.engine.Part
import org.pocketomni.engine.PictureSource
import org.pocketomni.engine.ReplyEvent
import org.pocketomni.engine.ReplyListener
import org.pocketomni.engine.ReplyOptions
import org.pocketomni.engine.RgbImage
import org.pocketomni.engine.Role
import org.pocketomni.engine.SoundSource
import org.pocketomni.engine.Timings
import org.pocketomni.engine.UsageError
import org.pocketomni.engine.VoiceListener
import org.pocketomni.engine.bench.BenchCase
import org.pocketomni.engine.bench.BenchQuantity
import org.pocketomni.engine.bench.PartBench
import java.io.File
import java.nio.file.Files
import java.util.concurrent.CompletableFuture
import java.util.concurrent.ConcurrentLinkedQueue
import java.util.concurrent.Future

/** The threads of the presenters: queues that [settle] empties. */
class Steps {
    private val queue = ConcurrentLinkedQueue<() -> Unit>()
    val ui = UiThread { queue.add(it) }
    val worker = Worker { queue.add(it) }

    /** Run everything that waits, and what that adds. */
    fun settle() {
        while (true) (queue.poll() ?: return).invoke()
    }

    /** Run what waits until [condition] holds, for at most ten seconds. Other threads may add work. */
    fun until(condition: () -> Boolean) {
        val end = System.nanoTime() + 10_000_000_000
        while (!condition()) {
            settle()
            check(System.nanoTime() < end) { "it did not happen" }
            Thread.sleep(1)
        }
    }
}

/** A loudspeaker that plays when the test says so. */
class FakeSpeaker : SpeechDevices {
    val devices = mutableListOf<Device>()
    var failure: NoticeException? = null

    /** Frames of the newest device that are played as soon as they are written. */
    @Volatile var playable = Long.MAX_VALUE

    override fun open(rate: Int): SpeechDevice {
        failure?.let { throw it }
        return Device(rate).also { synchronized(devices) { devices.add(it) } }
    }

    inner class Device(val rate: Int) : SpeechDevice {
        @Volatile var written = 0L
        @Volatile var stopped = false
        @Volatile var closed = false

        override fun write(samples: FloatArray) {
            if (!stopped) written += samples.size
        }

        override val framesPlayed: Long get() = minOf(written, playable)
        override fun drain() = Unit
        override fun stop() {
            stopped = true
        }

        override fun close() {
            closed = true
        }
    }
}

/** A microphone into which the test speaks. */
class FakeMicrophone : Microphone {
    private var sink: ((FloatArray) -> Unit)? = null
    var failure: NoticeException? = null

    override fun start(sink: (FloatArray) -> Unit) {
        failure?.let { throw it }
        this.sink = sink
    }

    override fun stop() {
        sink = null
    }

    val open get() = sink != null

    fun hear(samples: FloatArray) = sink?.invoke(samples)
}

/** Media that need no decoder. */
object FakeMedia : MediaFiles {
    override fun sound(file: File) = SoundSource { WavFile.read(file) }
    override fun picture(file: File): PictureSource = ImageSource(RgbImage(1, 1, ByteArray(3)))
    override fun film(file: File): FilmSource = error("no films here")
}

/** A conversation whose replies the test gives. It keeps messages like the engine's. */
class FakeChat(history: List<Message>) : Chat {
    override val messages = (listOf(Message(Role.SYSTEM, emptyList())) + history).toMutableList()
    override var turnCount = 0
    var listener: ReplyListener? = null
    var parts = emptyList<Part>()
    var options = ReplyOptions()
    var readAheads = 0
    var reading: Future<*> = CompletableFuture.completedFuture(Unit)
    var closed = false
    val calls = mutableListOf<FakeCall>()
    private var text = ""
    private var regenerated = false

    /** Why the last reply is not replaced. */
    var refusal: Throwable? = null

    /** Keeps the first characters, as many as tenths of a second were heard. */
    override fun interrupt(heardSeconds: Double): String {
        val kept = text.take((heardSeconds * 10).toInt())
        if (listener != null) keep(kept) else messages[messages.size - 1] = Message(Role.ASSISTANT, listOf(Part.Text(kept)))
        listener = null
        return kept
    }

    override fun send(parts: List<Part>, options: ReplyOptions, listener: ReplyListener) {
        this.parts = parts
        this.options = options
        this.listener = listener
        text = ""
        regenerated = false
    }

    override fun regenerate(options: ReplyOptions, listener: ReplyListener) {
        val error = refusal ?: UsageError("there is no reply to make anew", "say something first").takeIf { turnCount == 0 }
        if (error != null) return listener.onEvent(ReplyEvent.Failed(error))
        turnCount--
        messages.removeAt(messages.size - 1)
        parts = messages.removeAt(messages.size - 1).parts
        send(parts, options, listener)
        regenerated = true
    }

    override fun readAhead(parts: List<Part>, more: Boolean, speech: Boolean): Future<*> {
        readAheads++
        return reading
    }

    override fun cancel() {
        if (listener != null) keepBegun()
        listener = null
    }

    override fun undo() {
        if (turnCount == 0) throw UsageError("there is no turn to take back", "say something first")
        turnCount--
        repeat(2) { messages.removeAt(messages.size - 1) }
    }

    override fun call(voiceActivity: ByteArray, options: ReplyOptions, listener: VoiceListener): Call =
        FakeCall(listener).also { calls.add(it) }

    override fun close() {
        closed = true
    }

    fun say(delta: String) {
        text += delta
        listener?.onEvent(ReplyEvent.TextDelta(delta, 0.0))
    }

    fun speak(seconds: Double, rate: Int = 24_000) {
        listener?.onEvent(ReplyEvent.AudioDelta(FloatArray((seconds * rate).toInt()), rate, 0.0, 0, text.length))
    }

    fun finish(reason: FinishReason = FinishReason.STOP) {
        val ended = listener
        keep(text)
        listener = null
        ended?.onEvent(done(text, reason))
    }

    fun fail(error: Throwable) {
        val ended = listener
        keepBegun()
        listener = null
        ended?.onEvent(ReplyEvent.Failed(error))
    }

    /** A reply that has not begun leaves no trace; a regenerated one is empty then. */
    private fun keepBegun() {
        if (text.isNotEmpty() || regenerated) keep(text)
    }

    private fun keep(text: String) {
        turnCount++
        messages.add(Message(Role.USER, parts))
        messages.add(Message(Role.ASSISTANT, listOf(Part.Text(text))))
    }
}

/** A call in which the test is the voice session. */
class FakeCall(val listener: VoiceListener) : Call {
    override var muted = false
    override var fullDuplex = true
    var heard = 0
    var played = 0.0
    var picture: Part.Picture? = null
    var interrupts = 0
    var closed = false

    override fun hear(samples: FloatArray) {
        heard += samples.size
    }

    override fun played(seconds: Double) {
        played = seconds
    }

    override fun see(picture: Part.Picture?) {
        this.picture = picture
    }

    var onInterrupt = {}

    override fun interrupt() {
        interrupts++
        onInterrupt()
    }

    override fun close() {
        closed = true
    }
}

class FakeEngine(
    override val info: ModelInfo = ModelInfo(
        "fake", "int4", 1 shl 20, true, true, true, listOf("Ada", "Joe"), listOf("fast"), 4096, "arm64", "fast", 50.0,
    ),
) : ChatEngine {
    val chats = mutableListOf<FakeChat>()
    val recordings = mutableListOf<FakeRecording>()
    var closed = false
    val chat get() = chats.last()

    override fun chat(history: List<Message>) = FakeChat(history).also { chats.add(it) }
    override fun recording(rate: Int) = FakeRecording().also { recordings.add(it) }
    override fun warmUp(speech: Boolean) = Unit

    /** Every part takes two seconds; there is no encoder of pictures. */
    override val parts = object : PartBench {
        override fun missing(test: String) = "no vision encoder".takeIf { test == "image" }
        override fun cases(test: String, visit: (BenchCase) -> Unit) = visit(BenchCase(BenchQuantity(test, "s", "fake")) { 2.0 })
    }
    override fun close() {
        closed = true
    }
}

class FakeRecording : Recording {
    var samples = 0
    var finished = false
    override val part: Part = Part.Text("(live)")
    override fun push(samples: FloatArray) {
        this.samples += samples.size
    }

    override fun finish() {
        finished = true
    }
}

fun done(text: String, reason: FinishReason = FinishReason.STOP) = ReplyEvent.Done(text, reason, true, timings(), 20, 4096, 1 shl 20)

fun timings() = Timings(2.0, 0.1, 0.2, 0.5, 1.1, 10, 4, 11, 50, 1.0)

fun temporaryFolder(): File = Files.createTempDirectory("presenters").toFile().apply { deleteOnExit() }

/** A chat on a fake phone. [folder] is its storage, which outlives the process. */
class Phone(val folder: File = temporaryFolder()) {
    val steps = Steps()
    val speaker = FakeSpeaker()
    val microphone = FakeMicrophone()
    val settings = Settings(File(folder, "settings"))
    val store = ChatStore(File(folder, "chats"))
    val services = ChatServices(steps.ui, steps.worker, store, settings, FakeMedia, microphone, speaker) { 1 shl 20 }
    val chat = ChatPresenter(services)
    val engine = FakeEngine()

    /** Start the app: the stored conversation, and the model. */
    fun start() = apply {
        chat.restore()
        chat.use(engine)
        steps.settle()
    }

    /** Ask, and return the engine's conversation, which waits for the reply. */
    fun ask(text: String): FakeChat {
        chat.send(text)
        steps.settle()
        return engine.chat
    }
}
