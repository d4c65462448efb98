/** All conversations, and the settings, in the app's private folder. */
package org.pocketomni.app.presenters

import java.io.File
import java.io.FileOutputStream
import java.io.IOException
import java.util.Properties

/** A stored conversation: its [title] is its first question. */
data class StoredChat(val id: String, val title: String, val changed: Long)

/** Conversations, one folder each, below [folder]. */
class ChatStore(private val folder: File) {
    /** Return all conversations with a question, the newest first. */
    fun list(): List<StoredChat> = ids()
        .mapNotNull { id ->
            val first = open(id).turns.firstOrNull()?.question ?: return@mapNotNull null
            StoredChat(id, first.text, File(folder, "$id/log").lastModified())
        }
        .sortedByDescending { it.changed }

    /** Open a conversation. Throws [IOException]. */
    fun open(id: String): ChatLog = ChatLog.open(File(folder, id))

    /** Create a conversation. Throws [IOException]. */
    fun create(): ChatLog {
        val number = (ids().mapNotNull { it.toIntOrNull() }.maxOrNull() ?: 0) + 1
        return open(number.toString())
    }

    /** Delete a conversation with its files. */
    fun delete(id: String) {
        File(folder, id).deleteRecursively()
    }

    private fun ids(): List<String> = folder.list().orEmpty().filter { it.toIntOrNull() != null }
}

/** Settings that survive the process. Each change is written at once, which takes a while. Thread-safe. */
class Settings(private val file: File) {
    private val values = Properties()

    init {
        if (file.exists()) file.reader().use { values.load(it) }
    }

    operator fun get(name: Setting): String? = values.getProperty(name.name)

    /** Store a setting; null removes it. Throws [IOException]. */
    @Synchronized
    operator fun set(name: Setting, value: String?) {
        if (value == this[name]) return
        if (value == null) values.remove(name.name) else values.setProperty(name.name, value)
        // a rename replaces the file at once, so a crash leaves the old or the new settings
        val partial = File(file.path + ".partial")
        file.parentFile?.mkdirs()
        FileOutputStream(partial).use {
            val writer = it.writer()
            values.store(writer, null)
            writer.flush()
            it.fd.sync()
        }
        if (!partial.renameTo(file)) throw IOException("$file cannot be written")
    }
}

/** Names of settings. BUNDLE is a folder's path, CHAT an id, SPEAK true or false. */
enum class Setting { BUNDLE, CHAT, VOICE, PRESET, SPEAK }
