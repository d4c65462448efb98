package org.pocketomni.engine

import org.pocketomni.engine.bundle.Bundle
import org.pocketomni.engine.reply.Dialogue
import org.pocketomni.engine.reply.Model
import java.io.Closeable
import java.io.File
import java.util.concurrent.Callable
import java.util.concurrent.ExecutionException
import java.util.concurrent.Future
import java.util.concurrent.FutureTask
import java.util.concurrent.LinkedBlockingQueue

/**
 * A loaded bundle and the thread that owns it. Usable from any thread; replies run one after another.
 *
 * Graphs are opened on first use; [warmUp] opens them beforehand.
 */
class Engine private constructor(bundle: Bundle, options: EngineOptions) : Closeable {
    /** What the bundle is and can do. */
    val bundle = BundleInfo(bundle.manifest, bundle.folder)
    internal val model = Model(bundle, options)
    private val work = LinkedBlockingQueue<FutureTask<*>>()
    private val conversations = LinkedHashSet<Conversation>()
    private val lock = Any()
    private var closed = false
    private val thread = Thread(::serve, "omni-engine").apply { start() }

    /**
     * Start a conversation. [system] replaces the model's system prompt, [context] lowers its context length (tokens).
     *
     * [history] are turns that took place elsewhere, user and assistant messages in turn; the first reply reads them.
     * Blocks while the graph of the text is opened. Throws [BundleError].
     */
    fun conversation(system: String? = null, context: Int? = null, history: List<Message> = emptyList()): Conversation =
        added(call { Dialogue(model, system, context, history) })

    /** Return a stream for sound that is recorded at [rate] Hz. Throws [UsageError] for a bundle that cannot hear. */
    fun audioStream(rate: Int): AudioStream {
        val audio = model.config.audio ?: throw UsageError("${bundle.name} cannot hear", "use another bundle")
        return AudioStream(audio, rate)
    }

    /** Open the graphs of text and, with [speech], of speech. Blocks; throws [BundleError]. */
    fun warmUp(speech: Boolean = true) = call {
        model.thinker
        model.prompts
        if (speech) {
            model.config.speech?.let {
                model.talker
                model.vocoder
                model.dit(it.defaultPreset)
            }
        }
    }

    /** Cancel all replies, end the thread and release all memory. */
    override fun close() {
        synchronized(lock) {
            if (closed) return
            closed = true
            work.add(FutureTask(Callable<Unit> { })) // wakes the thread up
        }
        synchronized(conversations) { conversations.toList() }.forEach { it.stop() }
        if (Thread.currentThread() !== thread) thread.join()
    }

    /** Whether a reply of any conversation is in progress. */
    internal val replying: Boolean get() = synchronized(conversations) { conversations.any { it.replying } }

    /** Queue work for the engine's thread. Throws [OmniError] when the engine was closed. */
    internal fun <T> submit(task: () -> T): Future<T> {
        val future = FutureTask(Callable { task() })
        synchronized(lock) {
            if (closed) throw OmniError("the engine was closed", "open another one", "closed")
            work.add(future)
        }
        return future
    }

    /** Do work on the engine's thread and return its result, or throw its error. */
    internal fun <T> call(task: () -> T): T {
        if (Thread.currentThread() === thread) return task()
        try {
            return submit(task).get()
        } catch (error: ExecutionException) {
            throw error.cause ?: error
        }
    }

    internal fun added(dialogue: Dialogue): Conversation {
        val conversation = Conversation(this, dialogue)
        synchronized(conversations) { conversations.add(conversation) }
        return conversation
    }

    internal fun removed(conversation: Conversation) {
        synchronized(conversations) { conversations.remove(conversation) }
    }

    private fun serve() {
        while (true) {
            work.take().run()
            if (synchronized(lock) { closed && work.isEmpty() }) break
        }
        synchronized(conversations) { conversations.toList() }.forEach { it.release() }
        model.close()
    }

    companion object {
        /** Open the bundle in [folder]: checks format, digest and file sizes. Blocks; throws [BundleError]. */
        fun open(folder: File, options: EngineOptions = EngineOptions()): Engine = Engine(Bundle(folder), options)
    }
}
