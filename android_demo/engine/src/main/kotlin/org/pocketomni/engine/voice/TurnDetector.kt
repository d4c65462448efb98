package org.pocketomni.engine.voice

import org.pocketomni.engine.TurnOptions
import org.pocketomni.engine.voice.Vad.Companion.FRAME_SECONDS

/** What happened in a frame. Frames are counted from 0. */
internal sealed class TurnEvent {
    /** A voice began at [frame]. */
    data class Started(val frame: Int) : TurnEvent()

    /** The voice has been silent for `pause`; its last frame was [frame] - 1. */
    data class Paused(val frame: Int) : TurnEvent()

    /** The voice went on after a pause. */
    object Resumed : TurnEvent()

    /** The voice has been silent for `endSilence`; its last frame was [frame] - 1. */
    data class Ended(val frame: Int) : TurnEvent()
}

/** Finds turns in a stream of speech probabilities, one for each frame. Pure bookkeeping; time is counted in frames. */
internal class TurnDetector(private val options: TurnOptions) {
    /** Frames so far. */
    var frame = 0
        private set
    private var inTurn = false
    private var voiced = false
    private var run = 0 // frames of the present voice, short gaps included
    private var silence = 0
    private var paused = false

    /** Whether the voice of a turn is silent: it may have ended. */
    val silent: Boolean get() = inTurn && !voiced

    /** Leave the turn without an event. */
    fun reset() {
        inTurn = false
        voiced = false
        paused = false
        run = 0
        silence = 0
    }

    /** Take the next frame. [start] replaces the seconds of voice that begin a turn. */
    fun push(probability: Float, start: Double? = null): List<TurnEvent> {
        frame++
        voiced = probability >= options.threshold - (if (voiced) HYSTERESIS else 0.0)
        if (voiced) {
            run += 1 + (if (run > 0) silence else 0)
            silence = 0
        } else {
            silence++
        }
        return if (inTurn) during() else before(start ?: options.start)
    }

    private fun before(needed: Double): List<TurnEvent> {
        if (!voiced && silence * FRAME_SECONDS >= options.pause) run = 0
        if (!voiced || run * FRAME_SECONDS < needed) return emptyList()
        inTurn = true
        paused = false
        return listOf(TurnEvent.Started(frame - run))
    }

    private fun during(): List<TurnEvent> {
        if (voiced) {
            if (!paused) return emptyList()
            paused = false
            return listOf(TurnEvent.Resumed)
        }
        val events = ArrayList<TurnEvent>()
        val silent = silence * FRAME_SECONDS
        val last = frame - silence
        if (!paused && silent >= options.pause) {
            paused = true
            events.add(TurnEvent.Paused(last))
        }
        if (silent >= options.endSilence) {
            reset()
            events.add(TurnEvent.Ended(last))
        }
        return events
    }

    private companion object {
        /** A voice ends this far below the threshold at which it starts. */
        const val HYSTERESIS = 0.15
    }
}
