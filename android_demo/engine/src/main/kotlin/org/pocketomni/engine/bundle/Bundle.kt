package org.pocketomni.engine.bundle

import org.pocketomni.engine.BundleError
import org.pocketomni.engine.UsageError
import java.io.File
import java.io.IOException
import java.nio.charset.CharacterCodingException

/** The files of one bundle. Throws [BundleError] for a missing file or one of the wrong size. */
internal class Bundle(val folder: File) {
    val manifest: Manifest = Manifest.read(folder)
    val config: ModelConfig get() = manifest.model

    init {
        for ((name, entry) in manifest.files) {
            val file = File(folder, name)
            if (!file.isFile) throw BundleError("$folder lacks $name")
            if (file.length() != entry.bytes) {
                throw BundleError("$file has ${file.length()} bytes instead of ${entry.bytes}")
            }
        }
    }

    /** The ONNX file of a graph; for a decoder the one with this type of KV cache. */
    fun graph(name: String, cache: String): File {
        val entry = manifest.graphs[name] ?: throw BundleError("$folder has no graph $name")
        if (cache == FLOAT || name !in DECODERS) return File(folder, entry.file)
        val file = entry.int8Cache ?: throw UsageError(
            "$folder has no $name with an int8 KV cache: ${manifest.notMeasured ?: "it was not calibrated"}",
            "use a float32 KV cache", "no_int8_cache",
        )
        return File(folder, file)
    }

    fun table(name: String): Table =
        Table(folder, manifest.tables[name] ?: throw BundleError("$folder has no table $name"))

    /** A voice (2, hidden): the guided branch, then the null branch. */
    fun voice(name: String): FloatArray {
        val hidden = config.speech!!.dit.hiddenSize
        val stored = Npy.map(File(folder, "voices/$name.npy"), listOf(2, hidden), "<f4")
        return FloatArray(2 * hidden).also { for (row in 0..1) stored.floats(row, it, row * hidden) }
    }

    /** The modulation of a preset (times, layers * 6 + 2, hidden). */
    fun modulation(preset: String, times: Int): Npy {
        val dit = config.speech!!.dit
        val rows = dit.layers * MODULATION_ROWS + FINAL_MODULATION_ROWS
        return Npy.map(File(folder, "tables/modulation_$preset.npy"), listOf(times, rows, dit.hiddenSize), "<f4")
    }

    /** Read a text file of the bundle. */
    fun text(name: String): String {
        val file = File(folder, name)
        try {
            return utf8(file.readBytes())
        } catch (error: CharacterCodingException) {
            throw BundleError("$file cannot be read: it is not UTF-8")
        } catch (error: IOException) {
            throw BundleError("$file cannot be read: ${error.message}")
        }
    }

    companion object {
        const val TOKENIZER = "tokenizer.json"
        const val CHAT_TEMPLATE = "chat_template.jinja"
    }
}
