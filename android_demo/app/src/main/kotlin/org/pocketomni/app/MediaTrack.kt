/** One track of a file, decoded from its beginning with MediaExtractor and MediaCodec. */
package org.pocketomni.app

import android.media.MediaCodec
import android.media.MediaExtractor
import android.media.MediaFormat
import org.pocketomni.engine.MediaClock
import org.pocketomni.engine.MediaError
import org.pocketomni.engine.TrackError
import java.io.Closeable
import java.io.File
import java.io.IOException

/** Gets decoded data. Return false to end. */
internal interface TrackSink {
    fun format(format: MediaFormat)

    /** Take output buffer [index] of [codec], which is released after the one behind it was taken. */
    fun output(codec: MediaCodec, index: Int, info: MediaCodec.BufferInfo): Boolean

    /** The track has ended; the last output was not released yet. */
    fun end() = Unit
}

/** Track of [kind], `audio/` or `video/`, of a file. */
internal class MediaTrack private constructor(private val file: File, private val extractor: MediaExtractor, val format: MediaFormat) :
    Closeable {
    /** Seconds from the first sample to the end of the last one; null if the file does not say it. */
    val seconds: Double?
        get() = if (format.containsKey(MediaFormat.KEY_DURATION)) format.getLong(MediaFormat.KEY_DURATION) / MICROSECONDS else null

    /** Type of the file. */
    val container: String get() = extractor.metrics.getString(MediaExtractor.MetricsConstants.MIME_TYPE).orEmpty()

    /** Return a new clock for the time stamps of this track. */
    fun clock() = MediaClock(joined = container == TRANSPORT_STREAM)

    /** Return the time stamps of all samples in seconds, in the order of the file. */
    fun stamps(): DoubleArray {
        val stamps = mutableListOf<Double>()
        val clock = clock()
        while (extractor.sampleTime >= 0) {
            stamps.add(clock.seconds(extractor.sampleTime / MICROSECONDS))
            extractor.advance()
        }
        extractor.seekTo(0, MediaExtractor.SEEK_TO_PREVIOUS_SYNC)
        return stamps.toDoubleArray()
    }

    /** Return the time stamp of the first sample in seconds. */
    fun firstStamp(): Double? = extractor.sampleTime.takeIf { it >= 0 }?.div(MICROSECONDS)

    /** Decode the track. [prepare] may change the format before the decoder gets it. Throws [TrackError]. */
    fun decode(sink: TrackSink, prepare: (MediaFormat) -> Unit = {}) {
        extractor.seekTo(0, MediaExtractor.SEEK_TO_PREVIOUS_SYNC)
        prepare(format)
        var codec: MediaCodec? = null
        try {
            codec = MediaCodec.createDecoderByType(format.getString(MediaFormat.KEY_MIME).orEmpty())
            codec.configure(format, null, null, 0)
            codec.start()
            drive(codec, sink)
        } catch (error: IOException) {
            throw unreadable(error)
        } catch (error: IllegalStateException) { // also MediaCodec.CodecException
            throw unreadable(error)
        } catch (error: IllegalArgumentException) {
            throw unreadable(error)
        } finally {
            codec?.release()
        }
    }

    /** The sink may use an output until it has taken the one behind it. */
    private fun drive(codec: MediaCodec, sink: TrackSink) {
        var info = MediaCodec.BufferInfo()
        var held = NONE
        var fed = false
        while (true) {
            if (!fed) fed = feed(codec)
            val index = codec.dequeueOutputBuffer(info, TIMEOUT_MICROSECONDS)
            if (index == MediaCodec.INFO_OUTPUT_FORMAT_CHANGED) sink.format(codec.outputFormat)
            if (index < 0) continue
            val ends = info.flags and MediaCodec.BUFFER_FLAG_END_OF_STREAM != 0
            if (info.size > 0) {
                if (!sink.output(codec, index, info)) return
                if (held != NONE) codec.releaseOutputBuffer(held, false)
                held = index
            } else {
                codec.releaseOutputBuffer(index, false)
            }
            if (ends) return sink.end()
            info = MediaCodec.BufferInfo()
        }
    }

    /** Hand a sample to the decoder, if it takes one. Return whether that was the last. */
    private fun feed(codec: MediaCodec): Boolean {
        val index = codec.dequeueInputBuffer(0)
        if (index < 0) return false
        val buffer = codec.getInputBuffer(index) ?: return false
        val size = extractor.readSampleData(buffer, 0)
        if (size < 0) {
            codec.queueInputBuffer(index, 0, 0, 0, MediaCodec.BUFFER_FLAG_END_OF_STREAM)
            return true
        }
        codec.queueInputBuffer(index, 0, size, extractor.sampleTime, 0)
        extractor.advance()
        return false
    }

    private fun unreadable(error: Exception) = TrackError("${file.name} cannot be decoded: ${error.message ?: error}")

    override fun close() = extractor.release()

    companion object {
        private const val TIMEOUT_MICROSECONDS = 10_000L
        private const val NONE = -1
        private const val TRANSPORT_STREAM = "video/mp2ts"
        const val MICROSECONDS = 1e6

        /** Return the number of tracks of a kind. Throws [MediaError]. */
        fun count(file: File, kind: String): Int {
            val extractor = extractor(file)
            return extractor.tracks(kind).size.also { extractor.release() }
        }

        /** Open a track by its number among those of its kind; null if there are fewer. Throws [MediaError]. */
        fun open(file: File, kind: String, number: Int = 0): MediaTrack? {
            val extractor = extractor(file)
            val track = extractor.tracks(kind).getOrNull(number)
            if (track == null) {
                extractor.release()
                return null
            }
            extractor.selectTrack(track)
            return MediaTrack(file, extractor, extractor.getTrackFormat(track))
        }

        private fun extractor(file: File): MediaExtractor {
            val extractor = MediaExtractor()
            try {
                extractor.setDataSource(file.path)
            } catch (error: IOException) {
                extractor.release()
                throw MediaError("${file.name} is not a film or a sound: ${error.message ?: error}")
            }
            return extractor
        }

        private fun MediaExtractor.tracks(kind: String): List<Int> =
            (0 until trackCount).filter { getTrackFormat(it).getString(MediaFormat.KEY_MIME).orEmpty().startsWith(kind) }
    }
}
