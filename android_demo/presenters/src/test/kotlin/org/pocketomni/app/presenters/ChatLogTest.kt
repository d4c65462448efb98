package org.pocketomni.app.presenters

import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test
import java.io.File
import java.io.IOException
import java.nio.file.Files

class ChatLogTest {
    private val folder = temporaryFolder()
    private val log = File(folder, "log")
    private val question = Question("你好 \u0000 🙂", listOf(Attachment(MediaKind.PICTURE, "1.jpg")))
    private val answer = Answer("x".repeat(100_000), cut = true, figures = Figures(mapOf(Figure.TOKENS to 3.0)))

    private fun written(): List<StoredTurn> {
        val open = ChatLog.open(folder)
        open.ask(question)
        open.answer(answer)
        open.ask(Question("second"))
        return open.turns
    }

    @Test
    fun readsWhatWasWritten() {
        val turns = written()
        assertEquals(listOf(StoredTurn(question, answer), StoredTurn(Question("second"), null)), turns)
        assertEquals(turns, ChatLog.open(folder).turns)
    }

    @Test
    fun survivesACutAtEveryByteOfTheLastRecord() {
        val turns = written()
        val whole = log.readBytes()
        val last = 8 + 1 + 4 + 6 + 4 // header, kind, text, number of attachments
        for (size in whole.size - last until whole.size) {
            log.writeBytes(whole.copyOf(size))
            assertEquals(turns.take(1), ChatLog.open(folder).turns)
            assertEquals("the cut record is removed", (whole.size - last).toLong(), log.length())
        }
    }

    @Test
    fun goesOnAfterACut() {
        written()
        log.writeBytes(log.readBytes().copyOf(log.length().toInt() - 1))
        ChatLog.open(folder).ask(Question("third"))
        assertEquals(listOf(question, Question("third")), ChatLog.open(folder).turns.map { it.question })
    }

    @Test
    fun stopsAtDamage() {
        written()
        val data = log.readBytes()
        data[data.size - 10] = (data[data.size - 10] + 1).toByte()
        log.writeBytes(data)
        assertEquals(listOf(question), ChatLog.open(folder).turns.map { it.question })
    }

    @Test
    fun refusesARecordOfANewerVersion() {
        val open = ChatLog.open(folder)
        open.removeLast()
        val data = log.readBytes()
        data[8] = 99
        // the checksum of one byte 99
        val sum = java.util.zip.CRC32().apply { update(99) }.value.toInt()
        java.nio.ByteBuffer.wrap(data).putInt(4, sum)
        log.writeBytes(data)
        assertThrows(IOException::class.java) { ChatLog.open(folder) }
        assertTrue("nothing was removed", log.readBytes().contentEquals(data))
    }

    @Test
    fun keepsOneUnansweredQuestion() {
        val open = ChatLog.open(folder)
        open.ask(Question("first"))
        open.ask(Question("second"))
        open.answer(Answer("long", cut = false))
        open.answer(Answer("lo", cut = true))
        assertEquals(listOf(StoredTurn(Question("second"), Answer("lo", cut = true))), ChatLog.open(folder).turns)
        open.removeLast()
        open.removeLast()
        assertEquals(emptyList<StoredTurn>(), ChatLog.open(folder).turns)
    }

    @Test
    fun aFullDiskChangesNothing() {
        val open = ChatLog.open(folder)
        Files.createSymbolicLink(log.toPath(), File("/dev/full").toPath())
        assertThrows(IOException::class.java) { open.ask(question) }
        assertEquals(emptyList<StoredTurn>(), open.turns)
    }

    @Test
    fun filesGetNewNames() {
        val open = ChatLog.open(folder)
        assertEquals("1.wav", open.newFile(".wav").name)
        open.newFile(".wav").writeText("x")
        assertEquals("2.wav", open.newFile(".wav").name)
    }

    @Test
    fun theStoreListsTheNewestFirst() {
        val store = ChatStore(folder)
        store.create().ask(Question("old"))
        File(folder, "1/log").setLastModified(1000)
        store.create().ask(Question("new"))
        store.create() // without a question
        assertEquals(listOf("new", "old"), store.list().map { it.title })
        store.delete("2")
        assertEquals(listOf("old"), store.list().map { it.title })
    }

    @Test
    fun settingsSurvive() {
        val file = File(folder, "settings")
        Settings(file)[Setting.VOICE] = "Ada"
        assertEquals("Ada", Settings(file)[Setting.VOICE])
        Settings(file)[Setting.VOICE] = null
        assertEquals(null, Settings(file)[Setting.VOICE])
    }
}
