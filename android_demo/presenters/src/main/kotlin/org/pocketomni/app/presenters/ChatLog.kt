/** A conversation on disk: a log of records that survives a crash at any moment. */
package org.pocketomni.app.presenters

import java.io.ByteArrayInputStream
import java.io.ByteArrayOutputStream
import java.io.DataInputStream
import java.io.DataOutputStream
import java.io.File
import java.io.FileOutputStream
import java.io.IOException
import java.io.RandomAccessFile
import java.util.zip.CRC32

/** What an attachment is. SPEECH is a spoken question. */
enum class MediaKind { PICTURE, SOUND, SPEECH, FILM }

/** A file in the conversation's folder. */
data class Attachment(val kind: MediaKind, val name: String)

/** A question: [text], and what was attached. */
data class Question(val text: String, val attachments: List<Attachment> = emptyList())

/** A reply. [text] is what was said, or heard if the reply was [cut]. */
data class Answer(val text: String, val cut: Boolean, val figures: Figures? = null)

/** A question with its answer, which is null until the reply has ended. */
data class StoredTurn(val question: Question, val answer: Answer?)

/**
 * The turns of one conversation, in [folder]. Not thread-safe.
 *
 * The log only grows. Each record has its length and its checksum, and is on the disk before the method returns. A
 * record that was cut by a crash is removed when the log is opened.
 */
class ChatLog private constructor(val folder: File, turns: List<StoredTurn>) {
    private val all = turns.toMutableList()

    /** The turns so far. Only the last one may lack an answer. */
    val turns: List<StoredTurn> get() = all.toList()

    /** Return the file of an attachment. */
    fun file(attachment: Attachment): File = File(folder, attachment.name)

    /** Return a file in the folder that does not exist yet. [ending] begins with a dot. */
    fun newFile(ending: String): File = generateSequence(1) { it + 1 }
        .map { File(folder, "$it$ending") }
        .first { !it.exists() }

    /** Append a question. It replaces an unanswered one. Throws [IOException]. */
    fun ask(question: Question) = append(Record.Asked(question))

    /** Answer the last question. Throws [IOException]. */
    fun answer(answer: Answer) = append(Record.Answered(answer))

    /** Remove the last turn. Its files stay until the conversation is deleted. Throws [IOException]. */
    fun removeLast() = append(Record.Removed)

    private fun append(record: Record) {
        write(File(folder, LOG), record)
        apply(all, record)
    }

    companion object {
        private const val LOG = "log"

        /** The largest record that is read: more is damage. */
        private const val LIMIT = 16 shl 20
        private const val HEADER = 8

        /** Open the log in [folder], and create the folder. Throws [IOException]. */
        fun open(folder: File): ChatLog {
            if (!folder.isDirectory && !folder.mkdirs()) throw IOException("$folder cannot be created")
            val turns = mutableListOf<StoredTurn>()
            for (record in read(File(folder, LOG))) apply(turns, record)
            return ChatLog(folder, turns)
        }

        private fun apply(turns: MutableList<StoredTurn>, record: Record) {
            when (record) {
                is Record.Asked -> {
                    if (turns.lastOrNull()?.answer == null) turns.removeLastOrNull()
                    turns.add(StoredTurn(record.question, null))
                }

                is Record.Answered -> turns.removeLastOrNull()?.let { turns.add(it.copy(answer = record.answer)) }
                Record.Removed -> turns.removeLastOrNull()
            }
        }

        private fun write(file: File, record: Record) {
            val bytes = ByteArrayOutputStream()
            record.write(DataOutputStream(bytes))
            val payload = bytes.toByteArray()
            val framed = ByteArrayOutputStream()
            DataOutputStream(framed).run {
                writeInt(payload.size)
                writeInt(checksum(payload))
                write(payload)
            }
            val before = file.length()
            try {
                FileOutputStream(file, true).use {
                    it.write(framed.toByteArray())
                    it.fd.sync()
                }
            } catch (error: IOException) {
                // half a record would hide the ones after it
                RandomAccessFile(file, "rw").use { it.setLength(before) }
                throw error
            }
        }

        private fun read(file: File): List<Record> {
            if (!file.exists()) return emptyList()
            val data = file.readBytes()
            val records = mutableListOf<Record>()
            var offset = 0
            while (offset < data.size) {
                val payload = payload(data, offset) ?: break
                records.add(Record.read(DataInputStream(ByteArrayInputStream(payload))))
                offset += HEADER + payload.size
            }
            if (offset < data.size) RandomAccessFile(file, "rw").use { it.setLength(offset.toLong()) }
            return records
        }

        /** Return the record at [offset], or null if it is cut or damaged. */
        private fun payload(data: ByteArray, offset: Int): ByteArray? {
            if (data.size - offset < HEADER) return null
            val input = DataInputStream(ByteArrayInputStream(data, offset, HEADER))
            val size = input.readInt()
            val sum = input.readInt()
            if (size < 0 || size > LIMIT || size > data.size - offset - HEADER) return null
            val payload = data.copyOfRange(offset + HEADER, offset + HEADER + size)
            return payload.takeIf { checksum(it) == sum }
        }

        private fun checksum(data: ByteArray): Int = CRC32().run {
            update(data)
            value.toInt()
        }
    }
}

/** A line of the log. Each begins with a byte that says which it is. */
private sealed class Record {
    abstract fun write(out: DataOutputStream)

    class Asked(val question: Question) : Record() {
        override fun write(out: DataOutputStream) {
            out.writeByte(ASKED)
            out.writeText(question.text)
            out.writeInt(question.attachments.size)
            for (attachment in question.attachments) {
                out.writeUTF(attachment.kind.name)
                out.writeUTF(attachment.name)
            }
        }
    }

    class Answered(val answer: Answer) : Record() {
        override fun write(out: DataOutputStream) {
            out.writeByte(ANSWERED)
            out.writeText(answer.text)
            out.writeBoolean(answer.cut)
            val values = answer.figures?.toMap().orEmpty()
            out.writeInt(values.size)
            for ((name, value) in values) {
                out.writeUTF(name)
                out.writeDouble(value)
            }
        }
    }

    object Removed : Record() {
        override fun write(out: DataOutputStream) = out.writeByte(REMOVED)
    }

    companion object {
        private const val ASKED = 1
        private const val ANSWERED = 2
        private const val REMOVED = 3

        fun read(input: DataInputStream): Record = when (val kind = input.readByte().toInt()) {
            ASKED -> {
                val text = input.readText()
                Asked(Question(text, List(input.readInt()) { readAttachment(input) }))
            }

            ANSWERED -> {
                val text = input.readText()
                val cut = input.readBoolean()
                val values = (0 until input.readInt()).associate { input.readUTF() to input.readDouble() }
                Answered(Answer(text, cut, if (values.isEmpty()) null else Figures.of(values)))
            }

            REMOVED -> Removed
            else -> throw IOException("the conversation was written by a newer version (record $kind)")
        }

        private fun readAttachment(input: DataInputStream): Attachment {
            val kind = MediaKind.valueOf(input.readUTF())
            return Attachment(kind, input.readUTF())
        }

        /** `writeUTF` takes at most 65,535 bytes. */
        private fun DataOutputStream.writeText(text: String) {
            val bytes = text.toByteArray()
            writeInt(bytes.size)
            write(bytes)
        }

        private fun DataInputStream.readText(): String = ByteArray(readInt()).also { readFully(it) }.toString(Charsets.UTF_8)
    }
}
