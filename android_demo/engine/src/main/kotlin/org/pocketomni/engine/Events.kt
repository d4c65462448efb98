/** Events of a reply: text, sound, and a final record with timings. */
package org.pocketomni.engine

/** Why the text of a reply ended. INTERRUPTED: it was cancelled. */
enum class FinishReason { STOP, LENGTH, CONTEXT, INTERRUPTED }

/** One event of a reply. The last one is [Done] or [Failed]. `seconds` is the work since the turn began. */
sealed class ReplyEvent {
    /** A piece of the reply's text. */
    class TextDelta(val text: String, val seconds: Double) : ReplyEvent()

    /**
     * A chunk of speech: mono [samples] in -1 .. 1 at [rate] Hz.
     *
     * [firstSample] is the number of samples of the reply before this chunk. [textPosition] is how many characters
     * (UTF-16) of the text the Talker had read; it reads ahead of its voice.
     */
    class AudioDelta(
        val samples: FloatArray,
        val rate: Int,
        val seconds: Double,
        val firstSample: Int,
        val textPosition: Int,
    ) : ReplyEvent()

    /** The preset that "auto" selected; [realtime] is the estimated real-time factor of each preset. */
    class PresetChosen(val preset: String, val realtime: Map<String, Double>, val seconds: Double) : ReplyEvent()

    /**
     * Playback underran and will underrun again; at most once a reply. [realtime] is in seconds of speech per second
     * of work, [codes] that of decoding alone. [faster] are presets with less work, best quality first.
     */
    class PlaybackUnderrun(
        val realtime: Double,
        val codes: Double,
        val preset: String,
        val faster: List<String>,
        val seconds: Double,
    ) : ReplyEvent()

    /**
     * The end of a reply. [speechComplete] is whether the Talker ended by itself, null when nothing was spoken.
     * [contextUsed] and [contextLimit] are in tokens, [cacheBytes] is the size of both KV caches.
     */
    class Done(
        val text: String,
        val finishReason: FinishReason,
        val speechComplete: Boolean?,
        val timings: Timings,
        val contextUsed: Int,
        val contextLimit: Int,
        val cacheBytes: Long,
    ) : ReplyEvent()

    /** The reply ended with an error. It is kept as far as it came; if it had not begun, the turn leaves no trace. */
    class Failed(val error: Throwable) : ReplyEvent()
}

/** Seconds of work since the turn began, and counts. Null where something did not happen. */
data class Timings(
    val total: Double,
    val prefill: Double,
    val firstText: Double?,
    val firstAudio: Double?,
    val lastText: Double?,
    val promptTokens: Int,
    /** Prompt tokens that were in the KV cache before the turn. */
    val cachedTokens: Int,
    val replyTokens: Int,
    val codes: Int,
    /** Seconds of speech. */
    val speech: Double,
) {
    /** Decode speed; the prefill gives the first token, so it is not counted. */
    val tokensPerSecond: Double?
        get() {
            val last = lastText
            return if (last == null || replyTokens < 2 || last <= prefill) null else (replyTokens - 1) / (last - prefill)
        }

    /** Seconds of speech per second of work after the prefill. */
    val realtime: Double?
        get() = if (speech > 0) speech / (total - prefill) else null
}

/** Receives the events of one reply, in order, on the engine's thread. It must not block for long. */
fun interface ReplyListener {
    fun onEvent(event: ReplyEvent)
}
