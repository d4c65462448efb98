package org.pocketomni.engine

import org.pocketomni.engine.bundle.Bundle
import org.pocketomni.engine.bundle.DECODERS
import org.pocketomni.engine.bundle.FLOAT
import org.pocketomni.engine.bundle.INT8
import org.pocketomni.engine.bundle.Manifest
import org.pocketomni.engine.bundle.hex
import org.pocketomni.engine.bundle.sha256
import org.pocketomni.engine.graphs.KvCache
import org.pocketomni.engine.graphs.functionEvaluations
import java.io.File

/** A preset of the speech synthesis; [summary] is for people, [evaluations] is its cost. */
data class PresetInfo(val name: String, val evaluations: Int, val summary: String)

/** Size in bytes and SHA-256 (hexadecimal) of a file of a bundle. */
data class BundleFile(val bytes: Long, val sha256: String)

/** What a bundle is and can do, from its manifest alone. [folder] is null for one that was not copied yet. */
class BundleInfo internal constructor(private val manifest: Manifest, val folder: File?) {
    private val speech = manifest.model.speech
    val name: String get() = manifest.name
    val recipe: String get() = manifest.recipe

    /** Processor that the bundle was exported for. */
    val target: String get() = manifest.target
    val hears: Boolean get() = manifest.model.audio != null
    val sees: Boolean get() = manifest.model.vision != null
    val speaks: Boolean get() = speech != null

    /** Rate of the sounds that the model hears, and of its speech, in Hz. */
    val hearingRate: Int? get() = manifest.model.audio?.sampleRate
    val speakingRate: Int? get() = speech?.vocoder?.sampleRate
    val voices: List<String> get() = speech?.voices?.keys?.toList().orEmpty()
    val defaultVoice: String? get() = speech?.defaultVoice
    val presets: List<PresetInfo>
        get() = speech?.presets?.map { (name, preset) -> PresetInfo(name, functionEvaluations(preset), preset.summary) }.orEmpty()
    val defaultPreset: String? get() = speech?.defaultPreset

    /** Codes of the Talker per second of speech. */
    val codesPerSecond: Double? get() = speech?.codesPerSecond
    val systemPrompt: String get() = manifest.model.systemPrompt

    /** Tokens of the longest context. */
    val maxContext: Int get() = manifest.model.decoder.maxContext

    /** Whether the KV cache can be stored in 8 bits. */
    val hasInt8Cache: Boolean get() = manifest.graphs.filterKeys { it in DECODERS }.values.all { it.int8Cache != null }

    /** All files but the manifest and its digest, by name (with /). */
    val files: Map<String, BundleFile> get() = manifest.files

    /** Bytes of all files. */
    val bytes: Long get() = manifest.files.values.sumOf { it.bytes }

    /** Estimated bytes of memory for a conversation of [tokens] tokens with one encoder open at a time. */
    fun neededMemory(tokens: Int, speech: Boolean, int8Cache: Boolean = false): Long {
        val cache = if (int8Cache) INT8 else FLOAT
        val known = graphsMemory(true) + contextMemory(KvCache.FIRST_CAPACITY, true, FLOAT)
        val overhead = manifest.measuredPeak?.let { maxOf(it - known, MIN_OVERHEAD) } ?: OVERHEAD
        val encoder = ENCODERS.maxOf { (ENCODED * (manifest.graphs[it]?.bytes ?: 0)).toLong() }
        return overhead + encoder + graphsMemory(speech) + contextMemory(tokens, speech, cache)
    }

    /** Bytes of the open graphs of text and speech. */
    private fun graphsMemory(speech: Boolean): Long {
        val wanted = if (speech) VOICE + "thinker" else listOf("thinker")
        return wanted.sumOf { name ->
            ((if (name in DECODERS) MAPPED_AND_PACKED else ENCODED) * (manifest.graphs[name]?.bytes ?: 0)).toLong()
        }
    }

    private fun contextMemory(tokens: Int, speech: Boolean, cache: String): Long {
        val decoders = listOfNotNull(manifest.model.decoder, manifest.model.speech?.talker?.decoder?.takeIf { speech })
        return decoders.sumOf { KvCache.bytesFor(it, minOf(tokens, it.maxContext), cache) }
    }

    /**
     * Compute the SHA-256 of every file; [progress] gets the bytes read so far. Returns the names of the files that
     * are missing or changed. Stops early, with the names so far, when [progress] returns false.
     */
    fun verify(progress: (Long) -> Boolean = { true }): List<String> {
        val root = folder ?: throw UsageError("the bundle was not copied yet", "copy it first")
        val wrong = ArrayList<String>()
        val buffer = ByteArray(1 shl 20)
        var read = 0L
        for ((name, entry) in files) {
            val file = File(root, name)
            val digest = sha256()
            if (file.isFile) {
                file.inputStream().use { input ->
                    while (true) {
                        val count = input.read(buffer)
                        if (count < 0) break
                        digest.update(buffer, 0, count)
                        read += count
                        if (!progress(read)) return wrong
                    }
                }
            }
            if (!file.isFile || hex(digest.digest()) != entry.sha256) wrong.add(name)
        }
        return wrong
    }

    companion object {
        /** Names of the manifest and its digest: an import copies them last, so a cut copy is no bundle. */
        const val MANIFEST = Manifest.FILE
        const val DIGEST = Manifest.DIGEST

        /** Resident memory over file size of mapped and prepacked decoders and of other graphs; measured on x86. */
        private const val MAPPED_AND_PACKED = 1.6
        private const val ENCODED = 1.25
        private val ENCODERS = listOf("audio_encoder", "vision_encoder")
        private val VOICE = listOf("talker", "dit", "vocoder")

        /** Bytes of the runtime and of activations where the export measured no reply, and at least where it did. */
        private const val OVERHEAD = 1L shl 29
        private const val MIN_OVERHEAD = 1L shl 27

        /** Read and check the manifest in [folder]; with [checkFiles] also the sizes of all files. Throws [BundleError]. */
        fun read(folder: File, checkFiles: Boolean = true): BundleInfo =
            BundleInfo(if (checkFiles) Bundle(folder).manifest else Manifest.read(folder), folder)

        /** Read a manifest that was not copied yet. Throws [BundleError]. */
        fun parse(manifest: ByteArray, digest: ByteArray): BundleInfo =
            BundleInfo(Manifest.parse(manifest, digest, "the bundle"), null)
    }
}
