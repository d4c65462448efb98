/** Messages of a conversation: text, sound, pictures and films. Plain records; nothing is decoded here. */
package org.pocketomni.engine

import java.io.Closeable

enum class Role { SYSTEM, USER, ASSISTANT }

/** One turn of a conversation. */
data class Message(val role: Role, val parts: List<Part>) {
    /** The texts of the message, joined. */
    val text: String
        get() = parts.filterIsInstance<Part.Text>().joinToString("") { it.text }
}

/** A part of a message. */
sealed class Part {
    /** Text. Special tokens in it are encoded as ordinary text. */
    data class Text(val text: String) : Part()

    /** A complete sound. */
    class Sound(val source: SoundSource) : Part()

    /** A sound that is still being recorded; it must be finished before its message is sent. */
    class LiveSound(val stream: AudioStream) : Part()

    /** A picture, upright. */
    class Picture(val source: PictureSource) : Part()

    /** A film. [useSound] adds its sound track, if it has one and the model hears. */
    class Film(val source: FilmSource, val useSound: Boolean = true) : Part()
}

/** Mono [samples] in -1 .. 1 at [rate] Hz. */
class Samples(val samples: FloatArray, val rate: Int)

/** An image: [rgb] has [height] rows of [width] pixels of three bytes. */
class RgbImage(val width: Int, val height: Int, val rgb: ByteArray) {
    init {
        require(rgb.size == width * height * 3) { "$width x $height pixels need ${width * height * 3} bytes" }
    }
}

/** Decodes a sound; called on the engine's thread. Throws [MediaError]. */
fun interface SoundSource {
    /** Return all samples, channels averaged. A sound longer than [maxSeconds] is refused with a [MediaError]. */
    fun decode(maxSeconds: Double): Samples
}

/** Decodes a picture; called on the engine's thread. Throws [MediaError]. */
fun interface PictureSource {
    /** Return the picture turned upright. It may have been scaled down, but to no less than [maxPixels] pixels. */
    fun decode(maxPixels: Int): RgbImage
}

/** Decodes a film; called on the engine's thread. Every method throws [MediaError]. */
interface FilmSource {
    /** Open the film for one pass. */
    fun open(): OpenFilm
}

/** A film that is being read. Times are in seconds on one clock for pictures and sound. */
interface OpenFilm : Closeable {
    /** When the frames are shown, as the container says. */
    val times: FilmTimes

    /** Size of an upright frame in pixels. */
    val width: Int
    val height: Int

    /**
     * Decode from the beginning and hand each frame to [visit] in the order in which they are shown, until it returns
     * false. At the end of the film it gets null. A frame must stay valid while the one behind it is visited.
     */
    fun decode(visit: (FilmFrame?) -> Boolean)

    /**
     * Decode the sound from [start] on, see [SoundTrack.firstOf]; null if there is none. After a [TrackError] the film is
     * used without sound.
     */
    fun sound(start: Double, maxSeconds: Double): Samples?
}

/** A decoded frame. */
interface FilmFrame {
    /** Its time stamp in seconds. */
    val seconds: Double

    /** Return the frame, turned upright. */
    fun rgb(): RgbImage
}

/**
 * What a container says of its frames, in seconds: their time stamps [stamps] in any order, the first one of pictures
 * or sound ([start]), until when the last frame is shown ([end]), and the frame rates that are stated ([rates]).
 */
class FilmTimes(val stamps: DoubleArray, val start: Double, val end: Double, val rates: DoubleArray) {
    companion object {
        /**
         * From what Android's MediaExtractor tells, in seconds: the first time stamp of the sound, if there is any, the
         * length of the track of pictures, where the container states it, and a frame rate, which may be rounded.
         */
        fun of(stamps: DoubleArray, sound: Double?, length: Double?, rate: Double?): FilmTimes {
            val first = stamps.minOrNull() ?: 0.0
            val last = stamps.maxOrNull() ?: 0.0
            val stated = rate?.takeIf { it > 0 }
            val end = if (length != null) first + length else last + (stated?.let { 1 / it } ?: 0.0)
            val rates = listOfNotNull(length?.takeIf { it > 0 }?.let { stamps.size / it }, stated)
            return FilmTimes(stamps, minOf(first, sound ?: first), end, rates.toDoubleArray())
        }
    }
}

/** A sound in memory. */
class SamplesSource(private val samples: Samples) : SoundSource {
    override fun decode(maxSeconds: Double): Samples = samples
}

/** A picture in memory. */
class ImageSource(private val image: RgbImage) : PictureSource {
    override fun decode(maxPixels: Int): RgbImage = image
}
