package org.pocketomni.engine.bundle

import org.pocketomni.engine.BundleError
import org.pocketomni.engine.BundleFile
import java.io.File
import java.io.IOException
import java.nio.ByteBuffer
import java.nio.charset.CharacterCodingException
import java.security.MessageDigest

internal data class GraphEntry(val file: String, val bytes: Long, val int8Cache: String?)

internal data class TableEntry(val file: String, val scales: String?, val encoding: String, val rows: Int, val columns: Int)

/** The manifest of a bundle (docs/bundle.md, section 2), as far as an engine needs it. Unknown fields are refused. */
internal class Manifest(
    val name: String,
    val recipe: String,
    val target: String,
    val model: ModelConfig,
    val graphs: Map<String, GraphEntry>,
    val tables: Map<String, TableEntry>,
    val files: Map<String, BundleFile>,
    /** Peak memory of the first reply on the exporting machine, in bytes. */
    val measuredPeak: Long?,
    val notMeasured: String?,
) {
    companion object {
        const val FORMAT = 6L
        const val FILE = "manifest.json"
        const val DIGEST = "manifest.sha256"

        /** Read the manifest in [folder] and check its digest. Throws [BundleError]. */
        fun read(folder: File): Manifest {
            if (!folder.isDirectory) {
                throw BundleError("there is no bundle at $folder", "check the path, or copy a bundle there", "no_bundle")
            }
            val file = File(folder, FILE)
            if (!file.isFile) throw BundleError("$folder has no $FILE, so it is not a bundle")
            val digest = File(folder, DIGEST)
            try {
                return parse(file.readBytes(), if (digest.isFile) digest.readBytes() else null, folder.path)
            } catch (error: IOException) {
                throw BundleError("$file cannot be read: ${error.message}", "check its permissions", "unreadable_bundle")
            }
        }

        /** Format first, then the digest, then the fields. */
        fun parse(content: ByteArray, digest: ByteArray?, where: String): Manifest {
            try {
                val value = Json.parse(utf8(content))
                val format = Fields(value, "manifest").long("format")
                if (format > FORMAT) {
                    throw BundleError(
                        "$where has format $format, but this app reads up to $FORMAT", "update the app", "newer_bundle",
                    )
                }
                if (format < FORMAT) throw BundleError("$where has the older format $format, but this app reads $FORMAT")
                checkDigest(content, digest ?: throw BundleError("$where lacks $DIGEST"), where)
                return Fields.whole(value, "manifest", ::manifest)
            } catch (error: JsonError) {
                throw BundleError("the manifest of $where is damaged: ${error.message}")
            } catch (error: CharacterCodingException) {
                throw BundleError("the manifest of $where is damaged: it is not UTF-8")
            }
        }

        private fun checkDigest(content: ByteArray, digest: ByteArray, where: String) {
            val line = Regex("([0-9a-f]{64}) [ *]([^\r\n]+)\r?\n?").matchEntire(String(digest, Charsets.ISO_8859_1))
            if (line == null || line.groupValues[2] != FILE || line.groupValues[1] != hex(sha256().digest(content))) {
                throw BundleError("the manifest of $where was changed after the export")
            }
        }

        private fun manifest(f: Fields): Manifest {
            f.long("format")
            f.string("exporter")
            f.strings("capabilities")
            f.record("origin") { origin -> listOf("model", "revision", "licence").forEach { origin.string(it) } }
            f.read("recipe_rules") { it }
            f.optional("quality") { it as? Map<*, *> }
            return Manifest(
                f.string("name"),
                f.string("recipe"),
                f.string("target"),
                f.record("model", ::modelConfig),
                f.records("graphs", ::graph),
                f.records("tables", ::table),
                f.records("files") { BundleFile(it.long("bytes"), it.string("sha256")) }.onEach { checkName(it.key) },
                f.optionalRecord("measured", ::peakMemory),
                f.optional("not_measured") { it as? String },
            )
        }

        private fun checkName(name: String) {
            if (name.startsWith("/") || name.contains('\\') || name.split('/').any { it == ".." || it.isEmpty() }) {
                throw JsonError("manifest.files names $name, which is outside of the bundle")
            }
        }

        private fun graph(f: Fields): GraphEntry {
            f.read("contract") { it as? Map<*, *> }
            f.string("weights")
            f.long("fp32_bytes")
            f.double("seconds")
            f.optionalRecord("error", ::quantizationError)
            return GraphEntry(f.string("file"), f.long("bytes"), f.optional("int8_cache") { it as? String })
        }

        private fun table(f: Fields): TableEntry {
            f.optionalRecord("error", ::quantizationError)
            return TableEntry(
                f.string("file"), f.optional("scales") { it as? String },
                f.read("encoding") { value -> (value as? String)?.takeIf { it in Table.STORED } },
                f.int("rows"), f.int("columns"),
            )
        }

        private fun quantizationError(f: Fields) {
            f.string("of")
            f.double("cosine")
            f.double("relative")
        }

        private fun peakMemory(f: Fields): Long {
            for (name in listOf("machine", "onnxruntime")) f.string(name)
            for (name in listOf("threads", "load")) f.double(name)
            for (name in listOf("first_text", "first_audio", "realtime_factor")) f.optional(name) { it as? Number }
            return f.long("peak_memory")
        }
    }
}

internal fun sha256(): MessageDigest = MessageDigest.getInstance("SHA-256")

internal fun hex(bytes: ByteArray): String = bytes.joinToString("") { "%02x".format(it) }

/** Decode strict UTF-8. Throws CharacterCodingException. */
internal fun utf8(bytes: ByteArray): String = Charsets.UTF_8.newDecoder().decode(ByteBuffer.wrap(bytes)).toString()
