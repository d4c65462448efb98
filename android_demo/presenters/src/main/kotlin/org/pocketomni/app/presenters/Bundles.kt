/** Bundles on this phone, and the import of another one. */
package org.pocketomni.app.presenters

import org.pocketomni.engine.BundleError
import org.pocketomni.engine.BundleInfo
import java.io.File
import java.io.FileOutputStream
import java.io.IOException
import java.io.InputStream
import java.security.MessageDigest

/** A folder with a bundle's name. [info] is null if it is not usable; [problem] then says why. */
class FoundBundle(val folder: File, val info: BundleInfo?, val problem: Notice?)

/** A bundle outside of the app: a folder that the user picked, or the one inside the app. */
interface BundleSource {
    /** Name of the folder. */
    val name: String

    /** Open a file; [path] has forward slashes. Null if there is none. Throws [IOException]. */
    fun open(path: String): InputStream?
}

/**
 * The folders with bundles: [own] is private to the app. [shared] can be written by `adb push` and may be missing.
 */
class BundleLibrary(private val own: File, private val shared: List<File>) {
    /** Return all bundles, sorted by name. Reads manifests and the sizes of files. */
    fun list(): List<FoundBundle> = (listOf(own) + shared)
        .flatMap { it.listFiles().orEmpty().toList() }
        .filter { it.isDirectory && !it.name.startsWith(".") }
        .sortedBy { it.name }
        .map { folder ->
            try {
                FoundBundle(folder, BundleInfo.read(folder), null)
            } catch (error: BundleError) {
                FoundBundle(folder, null, Notice.of(error))
            }
        }

    /** Return the folder of an imported bundle, whether it exists or not. */
    fun folder(name: String): File = File(own, name)

    /** Delete a bundle. */
    fun delete(folder: File) {
        // without its manifest it is no bundle, whatever a crash leaves of it
        File(folder, BundleInfo.MANIFEST).delete()
        folder.deleteRecursively()
    }

    /** Remove what interrupted imports have left. */
    fun removePartial() {
        own.listFiles().orEmpty().filter { it.name.startsWith(PARTIAL) }.forEach { it.deleteRecursively() }
    }

    /**
     * Return an import of [source] into the app's own folder, under a name that no bundle has: one that is loaded must
     * not be replaced. [free] are the bytes that may be written there.
     */
    fun import(source: BundleSource, free: () -> Long): BundleImport {
        val name = source.name
        val target = (sequenceOf(name) + generateSequence(2) { it + 1 }.map { "$name-$it" })
            .map { folder(it) }
            .first { !File(it, BundleInfo.MANIFEST).exists() }
        return BundleImport(source, target, File(own, PARTIAL + name), free)
    }

    private companion object {
        const val PARTIAL = ".partial-"
    }
}

/**
 * Copies a bundle to [target], over [partial]. Every file is compared with its checksum in the manifest while it is
 * copied. The manifest comes last, and the folder gets its name at the end, so a cut copy is no bundle.
 */
class BundleImport(
    private val source: BundleSource,
    private val target: File,
    private val partial: File,
    private val free: () -> Long,
) {
    /** Set it from any thread to end the copy. */
    @Volatile var cancelled = false

    /**
     * Copy everything and return the bundle's folder. [progress] gets the bytes so far and the bytes in all.
     *
     * Throws [NoticeException] or [BundleError]. Nothing is left of a failed copy.
     */
    fun run(progress: (Long, Long) -> Unit): File {
        val manifest = bytes(BundleInfo.MANIFEST)
        val digest = bytes(BundleInfo.DIGEST)
        val info = BundleInfo.parse(manifest, digest)
        val needed = info.bytes + RESERVE
        if (free() < needed) throw NoticeException(NoticeKey.NO_SPACE, needed, free())
        try {
            partial.deleteRecursively()
            if (!partial.mkdirs()) throw IOException("$partial cannot be created")
            var copied = 0L
            for ((name, file) in info.files) {
                val before = copied
                copied += copy(name, file.bytes, file.sha256) { progress(before + it, info.bytes) }
            }
            write(BundleInfo.DIGEST, digest)
            write(BundleInfo.MANIFEST, manifest)
            target.deleteRecursively()
            if (!partial.renameTo(target)) throw IOException("$partial cannot be renamed")
        } catch (error: IOException) {
            throw NoticeException(NoticeKey.COPY_FAILED, error.message ?: error.toString())
        } finally {
            partial.deleteRecursively()
        }
        return target
    }

    private fun bytes(name: String): ByteArray = try {
        source.open(name)?.use { it.readBytes() }
    } catch (error: IOException) {
        throw NoticeException(NoticeKey.COPY_FAILED, error.message ?: error.toString())
    } ?: throw NoticeException(NoticeKey.NO_BUNDLE)

    /** Copy a file and return its size. */
    private fun copy(name: String, bytes: Long, sha256: String, progress: (Long) -> Unit): Long {
        val file = File(partial, name)
        // a manifest is data from elsewhere: its names must stay in the folder
        if (!file.canonicalPath.startsWith(partial.canonicalPath + File.separator)) {
            throw NoticeException(NoticeKey.FILE_DAMAGED, name)
        }
        file.parentFile?.mkdirs()
        val input = source.open(name) ?: throw NoticeException(NoticeKey.FILE_DAMAGED, name)
        val digest = MessageDigest.getInstance("SHA-256")
        var copied = 0L
        input.use {
            FileOutputStream(file).use { output ->
                val buffer = ByteArray(BLOCK)
                while (true) {
                    if (cancelled) throw NoticeException(NoticeKey.COPY_CANCELLED)
                    val count = input.read(buffer)
                    if (count < 0) break
                    output.write(buffer, 0, count)
                    digest.update(buffer, 0, count)
                    copied += count
                    progress(copied)
                }
                output.fd.sync()
            }
        }
        val found = digest.digest().joinToString("") { "%02x".format(it) }
        if (copied != bytes || found != sha256) throw NoticeException(NoticeKey.FILE_DAMAGED, name)
        return copied
    }

    private fun write(name: String, data: ByteArray) {
        FileOutputStream(File(partial, name)).use {
            it.write(data)
            it.fd.sync()
        }
    }

    private companion object {
        const val BLOCK = 1 shl 20

        /** Bytes that stay free: a phone with a full disk misbehaves. */
        const val RESERVE = 64L shl 20
    }
}

/** Memory of the phone in bytes: all of it, and what apps can get now. */
data class PhoneMemory(val total: Long, val available: Long)

/** Whether a bundle fits. LOW: only if the system ends other apps. */
enum class Fit { GOOD, LOW, TOO_SMALL }

/** Compare what a bundle needs with the phone's memory. */
fun fit(needed: Long, memory: PhoneMemory): Fit = when {
    needed > memory.total -> Fit.TOO_SMALL
    needed > memory.available -> Fit.LOW
    else -> Fit.GOOD
}

/** Whether there is room to keep the encoders of sound and pictures open, and not only one at a time. */
fun roomy(needed: Long, memory: PhoneMemory): Boolean = 2 * needed <= memory.available
