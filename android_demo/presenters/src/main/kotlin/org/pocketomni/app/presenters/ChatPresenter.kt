/** The chat: questions, streaming replies, speech, and what is kept of them. */
package org.pocketomni.app.presenters

import org.pocketomni.engine.Chunks
import org.pocketomni.engine.FinishReason
import org.pocketomni.engine.Message
import org.pocketomni.engine.Part
import org.pocketomni.engine.ReplyEvent
import org.pocketomni.engine.ReplyOptions
import org.pocketomni.engine.Role
import org.pocketomni.engine.SoundSource
import org.pocketomni.engine.SpeechOptions
import java.io.File
import java.io.IOException
import java.io.InputStream
import java.util.concurrent.Future

/** What the chat uses of the phone. */
class ChatServices(
    val ui: UiThread,
    val worker: Worker,
    val store: ChatStore,
    val settings: Settings,
    val media: MediaFiles,
    val microphone: Microphone,
    val speaker: SpeechDevices,
    /** Peak memory of the process in bytes, null if it is unknown. */
    val peakMemory: () -> Long? = { null },
)

/**
 * The presenter of the chat screen. Its methods are called on the thread that draws; blocking work is done by the worker,
 * one after the other.
 */
class ChatPresenter(private val services: ChatServices) : Presenter<ChatState>(ChatState()) {
    private val settings = services.settings
    private var engine: ChatEngine? = null

    // the worker sets these
    private var chat: Chat? = null

    @Volatile private var log: ChatLog? = null

    private var run: Run? = null
    private var talk: Talk? = null

    /** The engine's conversation and its log, for a call. Used by the worker while nothing else runs. */
    internal fun conversation(): Pair<Chat, ChatLog>? = chat?.let { it to openLog() }

    init {
        update {
            it.copy(
                speak = settings[Setting.SPEAK] != "false",
                voice = settings[Setting.VOICE],
                preset = settings[Setting.PRESET],
            )
        }
    }

    /** Show the stored conversation. A question that was not answered goes back into the field. */
    fun restore() = openChat(settings[Setting.CHAT])

    /** Open a stored conversation; null begins one. */
    fun openChat(id: String?) {
        stop()
        work {
            chat?.close()
            chat = null
            log = id?.let { services.store.open(it) }
            val unanswered = log?.turns?.lastOrNull()?.takeIf { it.answer == null }
            if (unanswered != null) log?.removeLast()
            val lines = log?.turns.orEmpty().map { it.line() }
            settings[Setting.CHAT] = id
            services.ui.post {
                update {
                    it.copy(
                        turns = lines,
                        attachments = unanswered?.question?.attachments.orEmpty(),
                        returnedText = unanswered?.question?.text,
                        notice = null,
                    )
                }
            }
            startChat()
        }
    }

    /** Give the stored conversations to [show], the newest first. */
    fun list(show: (List<StoredChat>) -> Unit) = work {
        val chats = services.store.list()
        services.ui.post { show(chats) }
    }

    /** Delete conversations. If the present one is among them, another one begins. */
    fun delete(ids: Set<String>) {
        if (settings[Setting.CHAT] in ids) openChat(null)
        work { ids.forEach { services.store.delete(it) } }
    }

    /**
     * Use a model, or none while another one is loaded. The conversation continues with it. [done] is called when the
     * model that was used before is not needed any more.
     */
    fun use(engine: ChatEngine?, done: () -> Unit = {}) {
        stop()
        this.engine = engine
        update { it.copy(model = engine?.info) }
        work(done) { startChat() }
    }

    /** Send a question. The attachments go with it. */
    fun send(text: String) {
        if (!state.ready || (text.isBlank() && state.attachments.isEmpty())) return
        ask(Question(text.trim(), state.attachments), emptyList())
    }

    /** Make another reply to the last question. */
    fun regenerate() {
        val last = state.turns.lastOrNull() ?: return
        if (!state.ready) return
        val options = options()
        begin(state.turns.dropLast(1), last.question) { run ->
            val current = chat
            if (current == null || current.turnCount == 0) {
                takeBack()
                return@begin answer(run, last.question, emptyList(), options)
            }
            run.messagesBefore = current.messages.size - MESSAGES_PER_TURN
            run.logged = true
            current.regenerate(options, run::onEvent)
        }
    }

    /** Remove the last turn; its question goes back into the field. */
    fun undo() {
        val last = state.turns.lastOrNull() ?: return
        if (!state.ready) return
        stop()
        work {
            takeBack()
            services.ui.post {
                update {
                    it.copy(
                        turns = it.turns.dropLast(1),
                        returnedText = last.question.text,
                        attachments = last.question.attachments.filter { found -> found.kind != MediaKind.SPEECH },
                    )
                }
            }
        }
    }

    /** Stop the reply. It is cut to what was heard. */
    fun stop() {
        run?.stop()
    }

    /** Copy a file into the conversation, to go with the next question. [ending] begins with a dot. */
    fun attach(kind: MediaKind, ending: String, open: () -> InputStream) {
        if (state.copying) return
        update { it.copy(copying = true, notice = null) }
        work(after = { update { it.copy(copying = false) } }) {
            val file = openLog().newFile(ending)
            try {
                open().use { input -> file.outputStream().use { input.copyTo(it) } }
            } catch (error: IOException) {
                file.delete()
                throw NoticeException(NoticeKey.COPY_FAILED, error.message ?: error.toString())
            }
            services.ui.post { update { it.copy(attachments = it.attachments + Attachment(kind, file.name)) } }
        }
    }

    /** Remove an attachment of the next question. */
    fun detach(attachment: Attachment) {
        update { it.copy(attachments = it.attachments - attachment) }
        work { log?.file(attachment)?.delete() }
    }

    /** The key for talking is held: record, and let the model listen meanwhile. */
    fun startTalking() {
        val hearing = engine ?: return
        if (!state.ready || !hearing.info.hears) return
        if (state.speaking) stop()
        val begun = Talk(hearing.recording(Microphone.RATE), question(state.attachments))
        try {
            services.microphone.start(begun::hear)
        } catch (error: NoticeException) {
            return update { it.copy(notice = error.notice) }
        }
        talk = begun
        update { it.copy(recording = true, notice = null) }
    }

    /** The key was released: send what was said. With [cancelled] it is dropped. */
    fun stopTalking(cancelled: Boolean = false) {
        val ended = talk ?: return
        talk = null
        services.microphone.stop()
        ended.recording.finish()
        update { it.copy(recording = false) }
        val samples = ended.samples.range(0)
        if (cancelled) return
        if (samples.size < SHORTEST * Microphone.RATE) {
            return update { it.copy(notice = Notice.of(NoticeKey.TOO_SHORT)) }
        }
        val attachments = state.attachments
        work {
            val file = openLog().newFile(".wav")
            WavFile.write(file, samples, Microphone.RATE)
            val question = Question("", attachments + Attachment(MediaKind.SPEECH, file.name))
            services.ui.post { ask(question, listOf(ended.recording.part)) }
        }
    }

    /** Whether replies are spoken. */
    fun setSpeak(speak: Boolean) {
        work { settings[Setting.SPEAK] = speak.toString() }
        update { it.copy(speak = speak) }
    }

    /** Choose a voice; null is the bundle's default. */
    fun setVoice(voice: String?) {
        work { settings[Setting.VOICE] = voice }
        update { it.copy(voice = voice) }
    }

    /** Choose a preset of the speech; null is the bundle's default. */
    fun setPreset(preset: String?) {
        work { settings[Setting.PRESET] = preset }
        update { it.copy(preset = preset) }
    }

    /** The view has put the returned text into the field. */
    fun takeReturnedText() = update { it.copy(returnedText = null) }

    /** The notice was read. */
    fun dismissNotice() = update { it.copy(notice = null) }

    /** Return the stored file of an attachment of this conversation. */
    fun file(attachment: Attachment): File? = log?.file(attachment)

    /** Show what a call added to the log. */
    internal fun refresh() = work {
        val lines = log?.turns.orEmpty().map { it.line() }
        services.ui.post { update { it.copy(turns = lines) } }
    }

    /** The options of a reply in this chat. */
    internal fun options(spoken: Boolean = state.speak): ReplyOptions {
        val model = engine?.info
        if (model == null || !model.speaks || !spoken) return ReplyOptions(speech = null)
        // a bundle without the chosen voice speaks with its default
        val voice = state.voice?.takeIf { it in model.voices }
        val preset = state.preset?.takeIf { it in model.presets || it == AUTO }
        return ReplyOptions(SpeechOptions(voice, preset, chunks = Chunks.ADAPTIVE))
    }

    private fun ask(question: Question, live: List<Part>) {
        val options = options()
        begin(state.turns, question) { run -> answer(run, question, live, options) }
        update { it.copy(attachments = emptyList()) }
    }

    /** Store a question, and start its reply. Blocks. */
    private fun answer(run: Run, question: Question, live: List<Part>, options: ReplyOptions) {
        val parts = parts(question, live)
        openLog().ask(question)
        run.logged = true
        val current = chat ?: startChat() ?: return
        run.messagesBefore = current.messages.size
        current.send(parts, options, run::onEvent)
    }

    /** Take back the last turn. If it is of the history, which the engine cannot undo, another conversation begins. */
    private fun takeBack() {
        log?.removeLast()
        val current = chat
        if (current != null && current.turnCount > 0) current.undo() else startChat()
    }

    /** Show the question, and start its reply on the worker. */
    private fun begin(before: List<TurnLine>, question: Question, start: (Run) -> Unit) {
        if (state.speaking) stop()
        val begun = Run(question, before.size)
        run = begun
        update {
            it.copy(turns = before + TurnLine(question, "", running = true), replying = true, notice = null)
        }
        services.worker.run {
            try {
                start(begun)
            } catch (error: Exception) {
                begun.fail(error)
            }
        }
    }

    private fun parts(question: Question, live: List<Part>): List<Part> {
        val files = openLog()
        val media = question.attachments.mapNotNull { found ->
            val file = files.file(found)
            when (found.kind) {
                MediaKind.PICTURE -> Part.Picture(services.media.picture(file))
                MediaKind.FILM -> Part.Film(services.media.film(file))
                MediaKind.SOUND -> Part.Sound(services.media.sound(file))
                MediaKind.SPEECH -> if (live.isEmpty()) Part.Sound(SoundSource { WavFile.read(file) }) else null
            }
        }
        val text = if (question.text.isEmpty()) emptyList() else listOf(Part.Text(question.text))
        return media + live + text
    }

    private fun question(attachments: List<Attachment>): () -> List<Part> = { parts(Question("", attachments), emptyList()) }

    /** Open the engine's conversation. Its history are the last stored turns, which the next reply reads again. */
    private fun startChat(): Chat? {
        chat?.close()
        chat = null
        val history = log?.turns.orEmpty().filter { it.answer != null }.takeLast(HISTORY_TURNS).flatMap {
            val answer = Part.Text(it.answer?.text.orEmpty())
            listOf(Message(Role.USER, parts(it.question, emptyList())), Message(Role.ASSISTANT, listOf(answer)))
        }
        chat = engine?.chat(history)
        return chat
    }

    private fun openLog(): ChatLog = log ?: services.store.create().also {
        log = it
        settings[Setting.CHAT] = it.folder.name
    }

    /** Do blocking work; an error becomes the notice. */
    private fun work(after: () -> Unit = {}, action: () -> Unit) = services.worker.run {
        try {
            action()
        } catch (error: Exception) {
            services.ui.post { update { it.copy(notice = notice(error)) } }
        }
        services.ui.post(after)
    }

    private fun notice(error: Throwable): Notice =
        if (error is IOException) Notice.of(NoticeKey.STORE_FAILED, error.message ?: "") else Notice.of(error)

    /** A spoken question while it is recorded. */
    private inner class Talk(val recording: Recording, private val before: () -> List<Part>) {
        val samples = SampleBuffer(Int.MAX_VALUE)
        private var announced = 0L

        /** Belongs to the worker. */
        private var ahead: Future<*>? = null

        fun hear(heard: FloatArray) {
            samples.add(heard)
            recording.push(heard)
            if (samples.total - announced < Microphone.RATE) return
            announced = samples.total
            work {
                // the question waits for what is queued before it
                if (ahead?.isDone != false) ahead = chat?.readAhead(before() + recording.part, more = true, speech = state.speak)
            }
        }
    }

    /** One reply, from its question to the end of its speech. It is turn number [index] of the chat. */
    private inner class Run(private val question: Question, private val index: Int) {
        private val player = SpeechPlayer(services.speaker) { error -> services.ui.post { playbackEnded(error) } }
        private var stopped = false
        private var done = false

        /** Playback has ended, maybe with an error. */
        private var silent = false

        /** Messages of the conversation without this turn, and whether the log has it. The worker sets both before it asks. */
        @Volatile var messagesBefore = Int.MAX_VALUE

        @Volatile var logged = false

        /** Called on the engine's thread. */
        fun onEvent(event: ReplyEvent) {
            when (event) {
                is ReplyEvent.TextDelta -> services.ui.post { line { it.copy(answer = it.answer + event.text) } }
                is ReplyEvent.AudioDelta -> {
                    // before the samples: playback may end at once
                    services.ui.post { if (current && !stopped && !silent) update { it.copy(speaking = true) } }
                    player.add(event.samples, event.rate)
                }

                is ReplyEvent.Done -> {
                    player.end()
                    services.ui.post { if (!stopped) end(event) }
                }

                is ReplyEvent.Failed -> fail(event.error)
                is ReplyEvent.PlaybackUnderrun -> warn(Notice.of(NoticeKey.SPEECH_SLOW, event.realtime))
                is ReplyEvent.PresetChosen -> Unit
            }
        }

        private fun warn(notice: Notice) = services.ui.post { if (current && !stopped) update { it.copy(notice = notice) } }

        fun fail(error: Throwable) = services.ui.post { if (!stopped) failed(error) }

        /** Stop, and cut the reply to what was heard. */
        fun stop() {
            if (stopped || (done && !state.speaking)) return
            stopped = true
            val heard = player.stop()
            work(after = ::rest) {
                if (player.started) chat?.interrupt(heard) else chat?.cancel()
                keep(null)
            }
        }

        private val current get() = run === this

        private fun line(change: (TurnLine) -> TurnLine) {
            update { it.copy(turns = it.turns.mapIndexed { at, turn -> if (at == index) change(turn) else turn }) }
        }

        private fun end(event: ReplyEvent.Done) {
            done = true
            val figures = Figures.of(event, services.peakMemory())
            line { it.copy(answer = event.text, running = false, figures = figures) }
            if (current) update { it.copy(replying = false) }
            if (event.finishReason == FinishReason.CONTEXT) warn(Notice.of(NoticeKey.CONTEXT_FULL, event.contextLimit))
            work { log?.answer(Answer(event.text, cut = false, figures = figures)) }
        }

        private fun failed(error: Throwable) {
            stopped = true
            player.stop()
            work(after = ::rest) {
                keep(notice(error))
            }
        }

        /** Store and show what the engine has of the reply: it knows whether the reply had begun. */
        private fun keep(notice: Notice?) {
            val text = chat?.messages.orEmpty().drop(messagesBefore).lastOrNull()?.text
            val stored = log?.turns?.lastOrNull()?.answer // an attempt to replace it may have left it as it is
            val kept = text?.let { stored?.takeIf { it.text == text } ?: Answer(text, cut = true) }
            if (kept == null && logged) log?.removeLast()
            if (kept != null && kept != stored) log?.answer(kept)
            services.ui.post { show(kept, notice) }
        }

        /** Show what is left of the reply. Without any, the question goes back into the field. */
        private fun show(kept: Answer?, notice: Notice?) {
            if (kept != null) {
                line { it.copy(answer = kept.text, running = false, cut = kept.cut, figures = kept.figures) }
                update { it.copy(notice = notice ?: it.notice) }
            } else if (current) {
                update {
                    it.copy(
                        turns = it.turns.take(index),
                        attachments = question.attachments,
                        returnedText = question.text,
                        notice = notice ?: it.notice,
                    )
                }
            }
        }

        private fun rest() {
            if (current) update { it.copy(replying = false, speaking = false) }
        }

        private fun playbackEnded(error: Throwable?) {
            silent = true
            if (!current) return
            update { it.copy(speaking = false, notice = error?.let { found -> Notice.of(found) } ?: it.notice) }
        }
    }

    private fun StoredTurn.line() = TurnLine(question, answer?.text.orEmpty(), false, answer?.cut == true, answer?.figures)

    private companion object {
        const val AUTO = "auto"
        const val MESSAGES_PER_TURN = 2

        /** To read more turns again would take long on a phone. */
        const val HISTORY_TURNS = 10

        /** Seconds. A shorter press is a mistake. */
        const val SHORTEST = 0.3
    }
}
