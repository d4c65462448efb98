/** What the chat screen shows. */
package org.pocketomni.app.presenters

import java.io.File

/** A turn on the screen. [answer] grows while [running]. */
data class TurnLine(
    val question: Question,
    val answer: String,
    val running: Boolean = false,
    val cut: Boolean = false,
    val figures: Figures? = null,
)

/** The chat screen. */
data class ChatState(
    /** The loaded model; null until there is one. */
    val model: ModelInfo? = null,
    val turns: List<TurnLine> = emptyList(),
    /** What the next question has besides text. */
    val attachments: List<Attachment> = emptyList(),
    /** Text that goes back into the field, because its turn left no trace. The view takes it. */
    val returnedText: String? = null,
    /** A reply is being made. */
    val replying: Boolean = false,
    /** A reply is being heard. */
    val speaking: Boolean = false,
    /** The key for talking is held. */
    val recording: Boolean = false,
    /** A file is being copied. */
    val copying: Boolean = false,
    val speak: Boolean = true,
    val voice: String? = null,
    val preset: String? = null,
    val notice: Notice? = null,
) {
    /** Whether a question may be sent. */
    val ready: Boolean get() = model != null && !replying && !recording && !copying

    /** Whether there is something to stop. */
    val stoppable: Boolean get() = replying || speaking
}

/** Decoders of the phone for stored files. */
interface MediaFiles {
    fun sound(file: File): org.pocketomni.engine.SoundSource
    fun picture(file: File): org.pocketomni.engine.PictureSource
    fun film(file: File): org.pocketomni.engine.FilmSource
}
