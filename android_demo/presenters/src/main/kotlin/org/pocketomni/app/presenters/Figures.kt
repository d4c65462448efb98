/** The figures under a reply: those of `omni run`. */
package org.pocketomni.app.presenters

import org.pocketomni.engine.ReplyEvent

/** Names of figures. Durations are in seconds, memory is in bytes. */
enum class Figure { TOKENS, TOKENS_PER_SECOND, FIRST_TEXT, FIRST_AUDIO, REALTIME, CONTEXT_USED, CONTEXT_LIMIT, PEAK_MEMORY }

/** Figures of a reply. One that does not apply is missing. */
data class Figures(val values: Map<Figure, Double>) {
    /** Return the values by name, as they are stored. */
    fun toMap(): Map<String, Double> = values.mapKeys { it.key.name }

    companion object {
        /** Read stored values. Names of a newer version are left out. */
        fun of(stored: Map<String, Double>): Figures {
            val known = Figure.values().associateBy { it.name }
            val pairs = stored.mapNotNull { (name, value) -> known[name]?.let { it to value } }
            return Figures(pairs.toMap())
        }

        /** Return the figures of a reply. [peakMemory] is in bytes. */
        fun of(done: ReplyEvent.Done, peakMemory: Long?): Figures {
            val timings = done.timings
            val pairs = listOf(
                Figure.TOKENS to timings.replyTokens.toDouble(),
                Figure.TOKENS_PER_SECOND to timings.tokensPerSecond,
                Figure.FIRST_TEXT to timings.firstText,
                Figure.FIRST_AUDIO to timings.firstAudio,
                Figure.REALTIME to timings.realtime,
                Figure.CONTEXT_USED to done.contextUsed.toDouble(),
                Figure.CONTEXT_LIMIT to done.contextLimit.toDouble(),
                Figure.PEAK_MEMORY to peakMemory?.toDouble(),
            )
            return Figures(pairs.mapNotNull { (name, value) -> value?.let { name to it } }.toMap())
        }
    }
}
