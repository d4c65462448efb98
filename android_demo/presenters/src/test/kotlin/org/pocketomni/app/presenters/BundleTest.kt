package org.pocketomni.app.presenters

import org.junit.After
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertNull
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test
import org.pocketomni.engine.BundleError
import org.pocketomni.engine.BundleInfo
import java.io.ByteArrayInputStream
import java.io.File
import java.io.IOException
import java.io.InputStream

/** The bundle that the tests are given. */
val BUNDLE = File(System.getProperty("bundle"))

/** Load what stands in for Android's libraries. */
fun loadShims() {
    val shims = System.getProperty("onnxruntime.native.path")
    for (name in listOf("libc.so", "libm.so", "libdl.so", "libonnxruntime.so")) System.load("$shims/$name")
}

/** A folder as a source. [change] replaces the bytes of a file; null removes it. */
class FolderSource(private val folder: File, private val change: (String, ByteArray) -> ByteArray? = { _, data -> data }) :
    BundleSource {
    override val name = "copied"
    override fun open(path: String): InputStream? {
        val file = File(folder, path)
        return if (file.isFile) change(path, file.readBytes())?.let { ByteArrayInputStream(it) } else null
    }
}

class BundleTest {
    private val own = temporaryFolder()
    private val library = BundleLibrary(own, listOf(BUNDLE.parentFile, File("/does/not/exist")))
    private val target = File(own, "copied")
    private var copy: BundleImport? = null

    @After
    fun nothingIsLeftOver() {
        assertEquals(emptyList<String>(), own.list().orEmpty().filter { it.startsWith(".") })
        own.deleteRecursively()
    }

    private fun copy(source: BundleSource, free: Long = Long.MAX_VALUE, progress: (Long, Long) -> Unit = { _, _ -> }) =
        library.import(source) { free }.also { copy = it }.run(progress)

    private fun refusal(source: BundleSource, free: Long = Long.MAX_VALUE): Notice.Known {
        val error = assertThrows(NoticeException::class.java) { copy(source, free) }
        assertFalse("no half bundle", target.exists())
        return error.notice as Notice.Known
    }

    @Test
    fun aCopyIsEqualAndReportsItsProgress() {
        var last = 0L
        val copied = copy(FolderSource(BUNDLE)) { done, total ->
            assertTrue(done in last..total)
            last = done
        }
        assertEquals(BundleInfo.read(BUNDLE).bytes, last)
        assertEquals(emptyList<String>(), BundleInfo.read(copied).verify())
        val found = library.list().single { it.folder == copied }
        assertNull(found.problem)
        assertEquals("copied-2", copy(FolderSource(BUNDLE)).name)
    }

    @Test
    fun aCutFileIsRefused() {
        val source = FolderSource(BUNDLE) { name, data -> if (name == "tokenizer.json") data.copyOf(data.size - 1) else data }
        assertEquals(Notice.of(NoticeKey.FILE_DAMAGED, "tokenizer.json"), refusal(source))
    }

    @Test
    fun aChangedFileIsRefused() {
        val source = FolderSource(BUNDLE) { name, data -> data.also { if (name == "tokenizer.json") it[9]++ } }
        assertEquals(Notice.of(NoticeKey.FILE_DAMAGED, "tokenizer.json"), refusal(source))
    }

    @Test
    fun aMissingFileIsRefused() {
        val source = FolderSource(BUNDLE) { name, data -> data.takeIf { name != "tokenizer.json" } }
        assertEquals(Notice.of(NoticeKey.FILE_DAMAGED, "tokenizer.json"), refusal(source))
    }

    @Test
    fun aFolderWithoutAManifestIsNoBundle() {
        assertEquals(NoticeKey.NO_BUNDLE, refusal(FolderSource(own)).key)
    }

    @Test
    fun aChangedManifestIsRefused() {
        val source = FolderSource(BUNDLE) { name, data -> data.also { if (name == BundleInfo.MANIFEST) it[9]++ } }
        assertThrows(BundleError::class.java) { copy(source) }
        assertFalse(target.exists())
    }

    @Test
    fun tooLittleSpaceIsFoundBeforeTheCopy() {
        val bytes = BundleInfo.read(BUNDLE).bytes
        val notice = refusal(FolderSource(BUNDLE), free = bytes + 1)
        assertEquals(NoticeKey.NO_SPACE, notice.key)
        assertEquals(bytes + 1, notice.values[1])
    }

    @Test
    fun aDiskThatFillsUpIsOneLine() {
        val source = FolderSource(BUNDLE) { name, data ->
            if (name == "tokenizer.json") throw IOException("No space left on device") else data
        }
        assertEquals(Notice.of(NoticeKey.COPY_FAILED, "No space left on device"), refusal(source))
    }

    @Test
    fun aCopyCanBeCancelled() {
        val error = assertThrows(NoticeException::class.java) {
            copy(FolderSource(BUNDLE)) { done, _ -> if (done > 1000) copy!!.cancelled = true }
        }
        assertEquals(Notice.of(NoticeKey.COPY_CANCELLED), error.notice)
        assertFalse(target.exists())
    }

    @Test
    fun whatAKilledCopyLeftIsRemoved() {
        File(own, ".partial-copied/graphs").mkdirs()
        assertEquals(0, library.list().count { it.folder.parentFile == own })
        library.removePartial()
        assertEquals(0, own.list()!!.size)
    }

    @Test
    fun memoryIsComparedBeforeLoading() {
        val memory = PhoneMemory(total = 100, available = 50)
        assertEquals(listOf(Fit.GOOD, Fit.LOW, Fit.TOO_SMALL), listOf(50L, 51L, 101L).map { fit(it, memory) })
    }
}

class BundlePresenterTest {
    private val steps = Steps()
    private val folder = temporaryFolder()
    private val settings = Settings(File(folder, "settings"))
    private val opened = mutableListOf<Pair<File, FakeEngine>>()
    private val used = mutableListOf<ChatEngine?>()
    private var memory = PhoneMemory(8L shl 30, 4L shl 30)
    private var free = Long.MAX_VALUE
    private val own = File(folder, "bundles")

    private val kept = mutableListOf<Boolean>()

    private fun presenter(open: (File) -> ChatEngine = { file -> FakeEngine().also { opened.add(file to it) } }) = BundlePresenter(
        BundleServices(
            steps.ui, steps.worker, BundleLibrary(own, listOf(File(folder, "shared"))), settings,
            { memory }, { free }, { file, keep -> open(file).also { kept.add(keep) } }, FolderSource(BUNDLE),
        ),
    ) { engine, done ->
        used.add(engine)
        done()
    }

    private fun started() = presenter().also {
        it.start()
        steps.settle()
    }

    @Test
    fun theFirstStartCopiesAndLoadsTheBundleInsideTheApp() {
        val state = started().state
        assertEquals(File(own, "copied"), opened.single().first)
        assertEquals(listOf(null, opened.single().second), used)
        assertEquals("there is room for all encoders", listOf(true), kept)
        assertTrue(state.bundles.single().loaded)
        assertNull(state.progress)
        assertNull(state.loading)
        started()
        assertEquals("the second start copies nothing", 1, own.list()!!.size)
    }

    @Test
    fun anotherBundleIsLoadedAfterTheFirstIsClosed() {
        val presenter = started()
        File(own, "copied").copyRecursively(File(folder, "shared/pushed"))
        presenter.refresh()
        steps.settle()
        presenter.load(File(folder, "shared/pushed"))
        steps.settle()
        assertTrue(opened[0].second.closed)
        assertFalse(opened[1].second.closed)
        assertEquals(listOf(false, true), presenter.state.bundles.map { it.loaded })
        presenter.delete(File(own, "copied"))
        presenter.delete(File(folder, "shared/pushed"))
        steps.settle()
        assertEquals("a loaded bundle is not deleted", listOf("pushed"), presenter.state.bundles.map { it.folder.name })
        started()
        assertEquals("the last one is loaded at the next start", "pushed", opened.last().first.name)
    }

    @Test
    fun lowMemoryIsAskedAboutAndTooLittleIsRefused() {
        memory = PhoneMemory(8L shl 30, 1)
        val presenter = started()
        assertEquals(0, opened.size)
        assertEquals("copied", presenter.state.confirm!!.folder.name)
        presenter.load(presenter.state.confirm!!.folder, anyway = true)
        steps.settle()
        assertEquals(1, opened.size)
        assertEquals("one encoder at a time", listOf(false), kept)
        assertNull(presenter.state.confirm)
        memory = PhoneMemory(2, 1)
        assertEquals(NoticeKey.MEMORY_TOO_SMALL, (started().state.notice as Notice.Known).key)
        assertEquals(1, opened.size)
    }

    @Test
    fun aFullDiskAtTheFirstStartIsOneLine() {
        free = 1
        val state = started().state
        assertEquals(NoticeKey.NO_SPACE, (state.notice as Notice.Known).key)
        assertNull(state.progress)
        assertEquals(0, opened.size)
    }

    @Test
    fun aBundleThatCannotBeOpenedIsOneLine() {
        val presenter = presenter { throw BundleError("the graph is damaged") }
        presenter.start()
        steps.settle()
        assertEquals(Notice.Text("the graph is damaged (export the bundle again)"), presenter.state.notice)
        assertNull(presenter.state.loading)
        assertNull(used.last())
    }

    @Test
    fun damageIsFoundAndShown() {
        val presenter = started()
        presenter.verify(File(own, "copied"))
        steps.settle()
        assertEquals(Notice.of(NoticeKey.VERIFIED), presenter.state.notice)
        val voice = File(own, "copied/voices").listFiles()!!.first()
        voice.writeBytes(voice.readBytes().also { it[it.size - 1]++ })
        presenter.verify(File(own, "copied"))
        steps.settle()
        assertEquals(Notice.of(NoticeKey.FILE_DAMAGED, "voices/${voice.name}"), presenter.state.notice)
        File(own, "copied/tokenizer.json").delete()
        presenter.refresh()
        steps.settle()
        assertTrue(presenter.state.bundles.single().problem is Notice.Text)
    }
}
