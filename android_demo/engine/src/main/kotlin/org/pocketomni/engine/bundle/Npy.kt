package org.pocketomni.engine.bundle

import org.pocketomni.engine.BundleError
import java.io.File
import java.io.IOException
import java.io.RandomAccessFile
import java.nio.Buffer
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.MappedByteBuffer
import java.nio.channels.FileChannel

/** A memory-mapped .npy file of rows: [shape] and [type] as numpy writes them; only what is read takes memory. */
internal class Npy private constructor(
    val shape: List<Int>,
    val type: String,
    private val parts: List<MappedByteBuffer>,
    private val rowsPerPart: Int,
) {
    /** Bytes of one row: of all axes but the first. */
    val rowBytes: Int = shape.drop(1).fold(SIZES.getValue(type)) { bytes, size -> bytes * size }

    /** Return a little-endian view of row [row]. */
    fun row(row: Int): ByteBuffer {
        if (row < 0 || row >= shape[0]) throw IndexOutOfBoundsException("row $row of ${shape[0]}")
        val view = parts[row / rowsPerPart].duplicate()
        val start = row % rowsPerPart * rowBytes
        (view as Buffer).position(start).limit(start + rowBytes)
        return view.slice().order(ByteOrder.LITTLE_ENDIAN)
    }

    /** Copy row [row] of float32 into [out] from [at] on. */
    fun floats(row: Int, out: FloatArray, at: Int = 0) {
        row(row).asFloatBuffer().get(out, at, rowBytes / Float.SIZE_BYTES)
    }

    companion object {
        private val SIZES = mapOf("<f4" to 4, "<u2" to 2, "|i1" to 1)
        private val HEADER = Regex("""\{'descr': '([^']+)', 'fortran_order': False, 'shape': \(([\d, ]*)\), *\}\s*""")

        /** Buffers are at most 2 GiB. */
        private const val MAX_PART = Int.MAX_VALUE.toLong()

        /** Map [file] and check its shape and type. Throws [BundleError]. */
        fun map(file: File, shape: List<Int>, type: String): Npy {
            try {
                val found = map(file)
                if (found.shape == shape && found.type == type) return found
                throw BundleError("$file holds ${found.type} ${found.shape}, but the manifest states $type $shape")
            } catch (error: IOException) {
                throw BundleError("$file cannot be read: ${error.message}")
            }
        }

        private fun map(file: File): Npy = RandomAccessFile(file, "r").use { source ->
            val start = ByteArray(12)
            source.readFully(start)
            if (String(start, 0, 6, Charsets.ISO_8859_1) != "\u0093NUMPY") throw IOException("it is no .npy file")
            val wide = start[6] >= 2
            val prefix = ByteBuffer.wrap(start).order(ByteOrder.LITTLE_ENDIAN)
            val length = if (wide) prefix.getInt(8) else prefix.getShort(8).toInt() and 0xffff
            val offset = (if (wide) 12 else 10) + length.toLong()
            if (length < 0 || offset > source.length()) throw IOException("its header is cut")
            val header = ByteArray(length)
            source.seek(offset - length)
            source.readFully(header)
            val match = HEADER.matchEntire(String(header, Charsets.ISO_8859_1)) ?: throw IOException("its header is unknown")
            val (type, sizes) = match.destructured
            val shape = sizes.split(',').map { it.trim() }.filter { it.isNotEmpty() }.map { it.toInt() }
            val row = shape.drop(1).fold((SIZES[type] ?: throw IOException("its type is $type")).toLong()) { a, b -> a * b }
            if (shape.isEmpty() || row > MAX_PART || offset + row * shape[0] != source.length()) {
                throw IOException("its size is wrong")
            }
            val perPart = minOf(MAX_PART / maxOf(row, 1), maxOf(shape[0], 1).toLong()).toInt()
            val parts = (0 until shape[0] step perPart).map { first ->
                val rows = minOf(perPart, shape[0] - first)
                source.channel.map(FileChannel.MapMode.READ_ONLY, offset + first * row, rows * row)
            }
            Npy(shape, type, parts, perPart)
        }
    }
}

/** An embedding table whose rows are decoded to float32 when they are read. */
internal class Table(folder: File, entry: TableEntry) {
    val columns: Int = entry.columns
    private val encoding = entry.encoding
    private val data = Npy.map(File(folder, entry.file), listOf(entry.rows, entry.columns), STORED.getValue(encoding))
    private val scales: FloatArray? = entry.scales?.let { name ->
        val stored = Npy.map(File(folder, name), listOf(entry.rows), "<f4")
        FloatArray(entry.rows) { stored.row(it).getFloat(0) }
    }

    /** Write row [id] into [out] from [at] on, [columns] floats. */
    fun read(id: Int, out: FloatArray, at: Int = 0) {
        when (encoding) {
            "float32" -> data.floats(id, out, at)
            "bfloat16" -> {
                val row = data.row(id).asShortBuffer()
                for (i in 0 until columns) out[at + i] = Float.fromBits(row.get(i).toInt() shl 16)
            }
            else -> {
                val row = data.row(id)
                val scale = scales!![id]
                for (i in 0 until columns) out[at + i] = row.get(i) * scale
            }
        }
    }

    /** Return row [id]. */
    fun row(id: Int): FloatArray = FloatArray(columns).also { read(id, it) }

    companion object {
        /** Type in the file, by encoding. */
        val STORED = mapOf("float32" to "<f4", "bfloat16" to "<u2", "int8" to "|i1")
    }
}
