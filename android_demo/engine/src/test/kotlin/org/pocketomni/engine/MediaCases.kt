/** What a platform's decoders hand over, and what the engine makes of it. */
package org.pocketomni.engine

import org.pocketomni.engine.bundle.ModelConfig
import org.pocketomni.engine.inputs.loadFilm
import java.nio.ByteBuffer
import java.nio.ByteOrder

internal fun mediaCase(name: String, given: Map<*, *>, config: ModelConfig): Any? = when (name) {
    "media.rgba" -> Tensor.read(given["pixels"]).let { pixels ->
        val (height, width) = pixels.shape
        val values = argb(pixels)
        Tensor.of(rgbImage(width, height) { y, row -> values.copyInto(row, 0, y * width, (y + 1) * width) })
    }
    "media.halves" -> Tensor.read(given["pixels"]).let { pixels ->
        val halves = ByteBuffer.wrap(pixels.bytes).order(ByteOrder.LITTLE_ENDIAN).asShortBuffer()
        Tensor.of(rgbImageOfHalves(pixels.shape[1], pixels.shape[0], halves))
    }
    "media.clock" -> MediaClock(given["joined"] == true).let { clock -> doubles(given["stamps"]).map(clock::seconds) }
    "media.film" -> film(part(mapOf("video" to given["film"])) as Part.Film, config)
    "media.tracks" -> (given["tracks"] as List<*>).map(::samples).let { tracks -> SoundTrack.firstOf(tracks.size) { tracks[it] }?.samples }
    "media.webp" -> webp(Tensor.read(given["file"]).bytes, given["stills"] as List<*>?, config)
    else -> error("there is no case $name")
}

/** Pixels of RGBA bytes. */
private fun argb(tensor: Tensor) = IntArray(tensor.bytes.size / 4) { pixel ->
    fun byte(channel: Int) = tensor.bytes[4 * pixel + channel].toInt() and 0xff
    byte(3) shl 24 or (byte(0) shl 16) or (byte(1) shl 8) or byte(2)
}

private fun film(part: Part.Film, config: ModelConfig): Map<String, Any?> = film(part.source.open(), config)

private fun film(opened: OpenFilm, config: ModelConfig): Map<String, Any?> {
    val rate = config.audio?.sampleRate
    val film = opened.use { loadFilm(it, config.vision!!, rate, config.decoder.maxContext, 3600.0) }
    val grid = film.patches.grid
    return mapOf(
        "patches" to Tensor.of(film.patches.values, grid.patches, config.vision!!.patchLength),
        "grid" to listOf(grid.t, grid.h, grid.w), "seconds" to film.seconds, "sound" to film.sound,
    )
}

/** Without `stills`: the still pictures of an animation; with them, decoded: the film. Null for another file. */
private fun webp(file: ByteArray, stills: List<*>?, config: ModelConfig): Any? {
    if (stills != null) {
        var next = 0
        return film(WebpAnimation.open(file) { argb(Tensor.read(stills[next++])) }!!, config)
    }
    val files = ArrayList<Tensor>()
    val film = WebpAnimation.open(file) { still ->
        files.add(Tensor("uint8", listOf(still.size), still))
        fun side(at: Int) = (0..2).sumOf { (still[at + it].toInt() and 0xff) shl (8 * it) } + 1
        IntArray(side(24) * side(27))
    } ?: return null
    film.decode { true }
    return files
}
