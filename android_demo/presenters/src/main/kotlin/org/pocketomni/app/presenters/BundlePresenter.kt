/** The screen of bundles: import, choose, check and delete. It owns the loaded engine. */
package org.pocketomni.app.presenters

import org.pocketomni.engine.BundleInfo
import java.io.File

/** A bundle on the screen. */
data class BundleLine(
    val folder: File,
    val recipe: String?,
    val bytes: Long,
    /** Bytes of memory for a short conversation. */
    val needed: Long,
    val fit: Fit,
    val loaded: Boolean,
    val problem: Notice?,
)

/** Work with a known end: [done] of [total] bytes. */
data class Progress(val name: String, val done: Long, val total: Long)

/** The screen of bundles. */
data class BundleState(
    val bundles: List<BundleLine> = emptyList(),
    val memory: PhoneMemory = PhoneMemory(0, 0),
    /** A copy or a check is going on. */
    val progress: Progress? = null,
    /** A bundle is being loaded. */
    val loading: String? = null,
    /** The user must say whether to load a bundle for which memory is low. */
    val confirm: BundleLine? = null,
    val notice: Notice? = null,
)

/** What the screen of bundles uses of the phone. */
class BundleServices(
    val ui: UiThread,
    val worker: Worker,
    val library: BundleLibrary,
    val settings: Settings,
    val memory: () -> PhoneMemory,
    val freeBytes: () -> Long,
    /** Opens a bundle; the flag is whether its encoders stay open. Blocks. */
    val open: (File, Boolean) -> ChatEngine,
    /** The bundle inside the app. */
    val builtIn: BundleSource,
)

/** Uses an engine from now on, or none, and calls `done` when the one before is not used any more. */
fun interface EngineUser {
    fun use(engine: ChatEngine?, done: () -> Unit)
}

/** The presenter of bundles. It closes a model before it opens another one, so only one is in memory. */
class BundlePresenter(private val services: BundleServices, private val user: EngineUser) :
    Presenter<BundleState>(BundleState()) {
    private val ui = services.ui

    // belongs to the worker
    private var engine: ChatEngine? = null

    @Volatile private var current: File? = null
    private var running: BundleImport? = null

    @Volatile private var checkCancelled = false

    /** Load the bundle of the last time, or else the one inside the app, which is copied at the first start. */
    fun start() = work(after = { update { it.copy(progress = null) } }) {
        services.library.removePartial()
        val last = services.settings[Setting.BUNDLE]?.let { File(it) }
        val builtIn = services.library.folder(services.builtIn.name)
        if (last == null || !File(last, BundleInfo.MANIFEST).exists()) {
            if (!File(builtIn, BundleInfo.MANIFEST).exists()) copy(services.builtIn)
            show()
            ui.post { load(builtIn) }
        } else {
            show()
            ui.post { load(last) }
        }
    }

    /** Read the folders again. */
    fun refresh() = work { show() }

    /** Copy a bundle into the app. [open] is called by the worker. */
    fun import(open: () -> BundleSource) {
        if (state.progress != null) return
        update { it.copy(progress = Progress("", 0, 0), notice = null) }
        work(after = { update { it.copy(progress = null) } }) {
            copy(open())
            show()
        }
    }

    /** Compare all files of a bundle with their checksums. */
    fun verify(folder: File) {
        if (state.progress != null) return
        update { it.copy(progress = Progress(folder.name, 0, 0), notice = null) }
        checkCancelled = false
        work(after = { update { it.copy(progress = null) } }) {
            val info = BundleInfo.read(folder)
            val damaged = info.verify { done ->
                report(folder.name, done, info.bytes)
                !checkCancelled
            }
            if (damaged.isNotEmpty()) throw NoticeException(NoticeKey.FILE_DAMAGED, damaged.first())
            if (!checkCancelled) ui.post { update { it.copy(notice = Notice.of(NoticeKey.VERIFIED)) } }
        }
    }

    /** End the copy or the check. */
    fun cancel() {
        running?.cancelled = true
        checkCancelled = true
    }

    /** Delete a bundle that is not loaded. */
    fun delete(folder: File) {
        if (folder == current) return
        work {
            services.library.delete(folder)
            show()
        }
    }

    /** Load a bundle, if memory is enough. [anyway] loads it also where memory is low. */
    fun load(folder: File, anyway: Boolean = false) {
        if (state.loading != null) return
        val line = state.bundles.firstOrNull { it.folder == folder } ?: return
        if (line.problem != null) return update { it.copy(notice = line.problem) }
        if (line.fit == Fit.TOO_SMALL) {
            return update { it.copy(notice = Notice.of(NoticeKey.MEMORY_TOO_SMALL, line.needed, it.memory.total)) }
        }
        if (line.fit == Fit.LOW && !anyway) return update { it.copy(confirm = line) }
        update { it.copy(loading = folder.name, confirm = null, notice = null) }
        current = null
        user.use(null) { replace(line) }
    }

    private fun replace(line: BundleLine) = work(after = { update { it.copy(loading = null) } }) {
        engine?.close()
        engine = null
        val folder = line.folder
        val opened = services.open(folder, roomy(line.needed, services.memory()))
        engine = opened
        current = folder
        ui.post { user.use(opened) {} }
        services.settings[Setting.BUNDLE] = folder.path
        opened.warmUp(opened.info.speaks)
        show()
    }

    /** The user does not want to load the bundle. */
    fun decline() = update { it.copy(confirm = null) }

    /** The notice was read. */
    fun dismissNotice() = update { it.copy(notice = null) }

    private fun copy(source: BundleSource): File {
        val copy = services.library.import(source, services.freeBytes)
        running = copy
        try {
            return copy.run { done, total -> report(source.name, done, total) }
        } finally {
            running = null
        }
    }

    private var reported = 0L

    /** Show progress, at most in steps of a hundredth. */
    private fun report(name: String, done: Long, total: Long) {
        if (done in reported until minOf(reported + total / STEPS, total)) return
        reported = done
        ui.post { update { it.copy(progress = Progress(name, done, total)) } }
    }

    private fun show() {
        val memory = services.memory()
        val lines = services.library.list().map { line(it, memory) }
        ui.post { update { it.copy(bundles = lines, memory = memory) } }
    }

    private fun line(found: FoundBundle, memory: PhoneMemory): BundleLine {
        val info = found.info
        val needed = info?.neededMemory(minOf(SHORT_CONTEXT, info.maxContext), info.speaks) ?: 0
        // the loaded bundle's memory is taken already
        val isLoaded = found.folder == current
        val fit = if (isLoaded) Fit.GOOD else fit(needed, memory)
        return BundleLine(found.folder, info?.recipe, info?.bytes ?: 0, needed, fit, isLoaded, found.problem)
    }

    private fun work(after: () -> Unit = {}, action: () -> Unit) = services.worker.run {
        try {
            action()
        } catch (error: Exception) {
            ui.post { update { it.copy(notice = Notice.of(error)) } }
        }
        ui.post(after)
    }

    private companion object {
        /** Tokens of a short conversation, as in the check of `omni run`. */
        const val SHORT_CONTEXT = 1024
        const val STEPS = 100
    }
}
