/** Where sound comes from, and a record of it. */
package org.pocketomni.app.presenters

import org.pocketomni.engine.MediaError
import org.pocketomni.engine.Samples
import java.io.ByteArrayOutputStream
import java.io.DataInputStream
import java.io.EOFException
import java.io.File
import java.io.FileInputStream
import java.io.FileOutputStream
import java.io.IOException
import java.nio.ByteBuffer
import java.nio.ByteOrder

/** A microphone: mono samples in -1 .. 1 at [RATE] Hz. */
interface Microphone {
    /** Start recording. [sink] is called on a thread of its own. Throws [NoticeException]. */
    fun start(sink: (FloatArray) -> Unit)

    /** Stop recording. [start]'s sink is not called after this returns. */
    fun stop()

    companion object {
        const val RATE = 16_000
    }
}

/** Collects samples, and keeps at most the last [limit] of them. Thread-safe. */
class SampleBuffer(private val limit: Int) {
    private val chunks = ArrayDeque<FloatArray>()
    private var kept = 0

    /** Samples that were ever added. */
    @get:Synchronized
    var total = 0L
        private set

    @Synchronized
    fun add(samples: FloatArray) {
        chunks.addLast(samples)
        kept += samples.size
        total += samples.size
        while (kept - (chunks.firstOrNull()?.size ?: 0) >= limit) kept -= chunks.removeFirst().size
    }

    /** Return the samples from number [start] to before [end], as far as they are kept. */
    @Synchronized
    fun range(start: Long, end: Long = total): FloatArray {
        var position = total - kept
        val from = maxOf(start, position)
        val out = FloatArray(maxOf(0L, minOf(end, total) - from).toInt())
        for (chunk in chunks) {
            val first = maxOf(from, position)
            val last = minOf(from + out.size, position + chunk.size)
            if (first < last) {
                chunk.copyInto(out, (first - from).toInt(), (first - position).toInt(), (last - position).toInt())
            }
            position += chunk.size
        }
        return out
    }
}

/** WAV files of 16 bits: how spoken questions are kept. */
object WavFile {
    private const val HEADER = 44
    private const val FULL_SCALE = 32768f

    /** Write mono samples in -1 .. 1. The file is on the disk before this returns. Throws [IOException]. */
    fun write(file: File, samples: FloatArray, rate: Int) {
        val bytes = 2 * samples.size
        val out = ByteBuffer.allocate(HEADER + bytes).order(ByteOrder.LITTLE_ENDIAN)
        out.put("RIFF".toByteArray()).putInt(HEADER - 8 + bytes).put("WAVEfmt ".toByteArray())
        out.putInt(16).putShort(1).putShort(1).putInt(rate).putInt(2 * rate).putShort(2).putShort(16)
        out.put("data".toByteArray()).putInt(bytes)
        for (sample in samples) out.putShort(Math.round(sample * FULL_SCALE).coerceIn(-32768, 32767).toShort())
        FileOutputStream(file).use {
            it.write(out.array())
            it.fd.sync()
        }
    }

    /** Read a file of [write]. Throws [MediaError]. */
    fun read(file: File): Samples {
        try {
            val data = FileInputStream(file).use { it.readAll() }
            if (data.size < HEADER) throw EOFException("only ${data.size} bytes")
            val buffer = ByteBuffer.wrap(data).order(ByteOrder.LITTLE_ENDIAN)
            val rate = buffer.getInt(24)
            if (String(data, 0, 4) != "RIFF" || rate <= 0) throw IOException("it is no WAV file")
            return Samples(FloatArray((data.size - HEADER) / 2) { buffer.getShort(HEADER + 2 * it) / FULL_SCALE }, rate)
        } catch (error: IOException) {
            throw MediaError("${file.name} cannot be read: ${error.message}")
        }
    }

    private fun FileInputStream.readAll(): ByteArray {
        val out = ByteArrayOutputStream()
        DataInputStream(this).copyTo(out)
        return out.toByteArray()
    }
}
