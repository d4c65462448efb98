package org.pocketomni.engine

import java.io.File

/** A preset of the speech synthesis; [summary] is for people. */
data class PresetInfo(val name: String, val evaluations: Int, val summary: String)

/** What a bundle is and can do, from its manifest alone. */
class BundleInfo internal constructor() {
    val name: String get() = TODO()
    val recipe: String get() = TODO()
    val hears: Boolean get() = TODO()
    val sees: Boolean get() = TODO()
    val speaks: Boolean get() = TODO()
    val voices: List<String> get() = TODO()
    val defaultVoice: String? get() = TODO()
    val presets: List<PresetInfo> get() = TODO()
    val defaultPreset: String? get() = TODO()
    val systemPrompt: String get() = TODO()
    val maxContext: Int get() = TODO()

    /** Names (with /), bytes and SHA-256 (hexadecimal) of all files but the manifest and its digest. */
    val files: Map<String, BundleFile> get() = TODO()

    /** Bytes of all files. */
    val bytes: Long get() = TODO()

    /** Estimated bytes of memory for a conversation of [tokens] tokens. */
    fun neededMemory(tokens: Int, speech: Boolean, int8Cache: Boolean = false): Long = TODO()

    /**
     * Compute the SHA-256 of every file; call [progress] with the bytes read so far. Returns the names of the files
     * that are missing or changed. Stops early, with the names so far, when [progress] returns false.
     */
    fun verify(progress: (Long) -> Boolean = { true }): List<String> = TODO()

    companion object {
        /** Names of the manifest and its digest: an import copies them last, so a cut copy is no bundle. */
        const val MANIFEST = "manifest.json"
        const val DIGEST = "manifest.sha256"

        /** Read and check the manifest in [folder]; with [checkFiles] also the sizes of all files. Throws [BundleError]. */
        fun read(folder: File, checkFiles: Boolean = true): BundleInfo = TODO()

        /** Read a manifest that was not copied yet. Throws [BundleError]. */
        fun parse(manifest: ByteArray, digest: ByteArray): BundleInfo = TODO()
    }
}

/** Size in bytes and SHA-256 (hexadecimal) of a file of a bundle. */
data class BundleFile(val bytes: Long, val sha256: String)
