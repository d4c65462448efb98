/** The app's words for what presenters say. */
package org.pocketomni.app

import android.content.Context
import android.text.format.Formatter
import org.pocketomni.app.presenters.Figure
import org.pocketomni.app.presenters.Figures
import org.pocketomni.app.presenters.Fit
import org.pocketomni.app.presenters.MediaKind
import org.pocketomni.app.presenters.Notice
import org.pocketomni.app.presenters.NoticeKey
import org.pocketomni.engine.VoiceState

/** Format a number of bytes. */
fun Context.size(bytes: Number): String = Formatter.formatShortFileSize(this, bytes.toLong())

/** Return the line of a notice. */
fun Context.text(notice: Notice): String = when (notice) {
    is Notice.Text -> notice.line
    is Notice.Known -> {
        val values = notice.values.map { if (it is Long) size(it) else it }
        getString(resource(notice.key), *values.toTypedArray())
    }
}

private fun resource(key: NoticeKey): Int = when (key) {
    NoticeKey.NO_SPACE -> R.string.notice_no_space
    NoticeKey.NO_BUNDLE -> R.string.notice_no_bundle
    NoticeKey.COPY_CANCELLED -> R.string.notice_copy_cancelled
    NoticeKey.FILE_DAMAGED -> R.string.notice_file_damaged
    NoticeKey.VERIFIED -> R.string.notice_verified
    NoticeKey.COPY_FAILED -> R.string.notice_copy_failed
    NoticeKey.MEMORY_TOO_SMALL -> R.string.notice_memory_too_small
    NoticeKey.CONTEXT_FULL -> R.string.notice_context_full
    NoticeKey.TURNS_FORGOTTEN -> R.string.notice_turns_forgotten
    NoticeKey.SPEECH_SLOW -> R.string.notice_speech_slow
    NoticeKey.STORE_FAILED -> R.string.notice_store_failed
    NoticeKey.NO_MICROPHONE -> R.string.notice_no_microphone
    NoticeKey.AUDIO_FAILED -> R.string.notice_audio_failed
    NoticeKey.CAMERA_FAILED -> R.string.notice_camera_failed
    NoticeKey.CALL_INTERRUPTED -> R.string.notice_call_interrupted
    NoticeKey.TOO_SHORT -> R.string.notice_too_short
}

/** Return the line of figures under a reply. */
fun Context.text(figures: Figures): String {
    val values = figures.values
    val limit = values[Figure.CONTEXT_LIMIT]?.toInt()
    return Figure.values().mapNotNull { figure -> values[figure]?.let { text(figure, it, limit) } }.joinToString(" · ")
}

private fun Context.text(figure: Figure, value: Double, contextLimit: Int?): String? = when (figure) {
    Figure.TOKENS -> getString(R.string.figure_tokens, value.toInt())
    Figure.TOKENS_PER_SECOND -> getString(R.string.figure_rate, value)
    Figure.FIRST_TEXT -> getString(R.string.figure_first_text, value)
    Figure.FIRST_AUDIO -> getString(R.string.figure_first_audio, value)
    Figure.REALTIME -> getString(R.string.figure_realtime, value)
    Figure.CONTEXT_USED -> contextLimit?.let { getString(R.string.figure_context, value.toInt(), it) }
    Figure.CONTEXT_LIMIT -> null // part of the line above
    Figure.PEAK_MEMORY -> getString(R.string.figure_peak, size(value))
}

/** Return the word for an attachment. */
fun Context.text(kind: MediaKind): String = getString(
    when (kind) {
        MediaKind.PICTURE -> R.string.picture
        MediaKind.SOUND -> R.string.sound
        MediaKind.SPEECH -> R.string.spoken
        MediaKind.FILM -> R.string.film
    },
)

/** Return the word for what a call is doing. */
fun Context.text(state: VoiceState): String = getString(
    when (state) {
        VoiceState.LISTENING -> R.string.state_listening
        VoiceState.HEARING -> R.string.state_hearing
        VoiceState.THINKING -> R.string.state_thinking
        VoiceState.SPEAKING -> R.string.state_speaking
    },
)

/** Return the word for whether a bundle fits. */
fun Context.text(fit: Fit): String = getString(
    when (fit) {
        Fit.GOOD -> R.string.bundle_fits
        Fit.LOW -> R.string.bundle_low
        Fit.TOO_SMALL -> R.string.bundle_too_small
    },
)
