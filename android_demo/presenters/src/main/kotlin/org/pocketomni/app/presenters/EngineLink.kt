/** What the presenters need of the engine. [RealEngine] is the engine itself; tests have another one. */
package org.pocketomni.app.presenters

import org.pocketomni.engine.Conversation
import org.pocketomni.engine.Engine
import org.pocketomni.engine.Message
import org.pocketomni.engine.Part
import org.pocketomni.engine.ReplyListener
import org.pocketomni.engine.ReplyOptions
import org.pocketomni.engine.VoiceListener
import org.pocketomni.engine.VoiceSession
import org.pocketomni.engine.bench.EngineBench
import org.pocketomni.engine.bench.PartBench
import java.io.Closeable
import java.util.concurrent.Future

/** What a loaded model is and can do. */
data class ModelInfo(
    val name: String,
    val recipe: String,
    val bytes: Long,
    val hears: Boolean,
    val sees: Boolean,
    val speaks: Boolean,
    val voices: List<String>,
    val presets: List<String>,
    val maxContext: Int,
    /** Processor that the bundle was exported for. */
    val target: String,
    val defaultPreset: String?,

    /** Codes of speech per second. */
    val codesPerSecond: Double?,
)

/** A loaded model. */
interface ChatEngine : Closeable {
    val info: ModelInfo

    /** Start a conversation that continues [history]. */
    fun chat(history: List<Message>): Chat

    /** Return a sound that is being recorded at [rate] Hz. */
    fun recording(rate: Int): Recording

    /** Benchmarks of the parts of the model. */
    val parts: PartBench

    /** Open the graphs, so that the first reply does not wait for them. Blocks. */
    fun warmUp(speech: Boolean)
}

/** A conversation. Its methods are those of the engine's. */
interface Chat : Closeable {
    val messages: List<Message>
    val turnCount: Int
    fun send(parts: List<Part>, options: ReplyOptions, listener: ReplyListener)
    fun regenerate(options: ReplyOptions, listener: ReplyListener)
    fun readAhead(parts: List<Part>, more: Boolean, speech: Boolean): Future<*>
    fun cancel()
    fun interrupt(heardSeconds: Double): String
    fun undo()

    /** Continue this conversation as a spoken one. It must not be used otherwise until the call is closed. */
    fun call(voiceActivity: ByteArray, options: ReplyOptions, listener: VoiceListener): Call
}

/** A spoken conversation. Its methods are those of the engine's voice session. */
interface Call : Closeable {
    var muted: Boolean
    var fullDuplex: Boolean
    fun hear(samples: FloatArray)
    fun played(seconds: Double)
    fun see(picture: Part.Picture?)
    fun interrupt()
}

/** A sound that is being recorded. */
interface Recording {
    val part: Part
    fun push(samples: FloatArray)
    fun finish()
}

/** The engine of this project. */
class RealEngine(private val engine: Engine) : ChatEngine, Closeable by engine {
    override val info: ModelInfo = engine.bundle.run {
        ModelInfo(
            name, recipe, bytes, hears, sees, speaks, voices, presets.map { it.name }, maxContext, target, defaultPreset,
            codesPerSecond,
        )
    }

    override fun chat(history: List<Message>): Chat = RealChat(engine.conversation(history = history))

    override fun recording(rate: Int): Recording = object : Recording {
        private val stream = engine.audioStream(rate)
        override val part = Part.LiveSound(stream)
        override fun push(samples: FloatArray) = stream.push(samples)
        override fun finish() = stream.finish()
    }

    override val parts: PartBench get() = EngineBench(engine)

    override fun warmUp(speech: Boolean) = engine.warmUp(speech)
}

private class RealChat(private val conversation: Conversation) : Chat, Closeable by conversation {
    override val messages: List<Message> get() = conversation.messages
    override val turnCount: Int get() = conversation.turnCount

    override fun send(parts: List<Part>, options: ReplyOptions, listener: ReplyListener) =
        conversation.send(parts, options, listener)

    override fun regenerate(options: ReplyOptions, listener: ReplyListener) = conversation.regenerate(options, listener)
    override fun readAhead(parts: List<Part>, more: Boolean, speech: Boolean) = conversation.readAhead(parts, more, speech)
    override fun cancel() = conversation.cancel()
    override fun interrupt(heardSeconds: Double): String = conversation.interrupt(heardSeconds)
    override fun undo() = conversation.undo()
    override fun call(voiceActivity: ByteArray, options: ReplyOptions, listener: VoiceListener): Call =
        RealCall(VoiceSession(conversation, voiceActivity, listener, reply = options))
}

private class RealCall(private val session: VoiceSession) : Call, Closeable by session {
    override var muted by session::muted
    override var fullDuplex by session::fullDuplex
    override fun hear(samples: FloatArray) = session.hear(samples)
    override fun played(seconds: Double) = session.played(seconds)
    override fun see(picture: Part.Picture?) = session.see(picture)
    override fun interrupt() = session.interrupt()
}
