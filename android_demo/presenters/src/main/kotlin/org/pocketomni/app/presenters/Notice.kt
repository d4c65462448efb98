/** Messages to the user. A presenter names the message and its values; the view has the words. */
package org.pocketomni.app.presenters

import org.pocketomni.engine.OmniError

/** A message that the app itself has words for. */
enum class NoticeKey {
    /** Values: bytes that are needed, bytes that are free. */
    NO_SPACE,

    /** The folder has no manifest. */
    NO_BUNDLE,

    /** The copy of a bundle was cancelled. */
    COPY_CANCELLED,

    /** Value: name of a file whose content differs from the manifest, or that is missing. */
    FILE_DAMAGED,

    /** A check found all files intact. */
    VERIFIED,

    /** Value: what the system says. */
    COPY_FAILED,

    /** Values: bytes that the bundle needs, bytes of memory of this phone. */
    MEMORY_TOO_SMALL,

    /** No more fits into the conversation. Value: its length in tokens. */
    CONTEXT_FULL,

    /** A long call goes on without its oldest turns. Value: how many were forgotten. */
    TURNS_FORGOTTEN,

    /** Speech is made more slowly than it is played. Value: seconds of speech per second. */
    SPEECH_SLOW,

    /** The conversation cannot be stored. Value: what the system says. */
    STORE_FAILED,

    /** There is no permission for the microphone. */
    NO_MICROPHONE,

    /** The microphone or the speaker cannot be opened. Value: what the system says. */
    AUDIO_FAILED,

    /** The camera cannot be opened. Value: what the system says. */
    CAMERA_FAILED,

    /** Another app, such as a phone call, took the sound. */
    CALL_INTERRUPTED,

    /** The key was held for too short a time. */
    TOO_SHORT,
}

/** One line for the user. */
sealed class Notice {
    /** A message of the app. [values] are bytes as [Long], or texts. */
    data class Known(val key: NoticeKey, val values: List<Any> = emptyList()) : Notice()

    /** A message of the engine, with what repairs it. */
    data class Text(val line: String) : Notice()

    companion object {
        fun of(key: NoticeKey, vararg values: Any): Notice = Known(key, values.toList())

        /** Return the line of an error. A defect is shown with its class, which its report needs. */
        fun of(error: Throwable): Notice = when (error) {
            is NoticeException -> error.notice
            is OmniError -> Text(error.line)
            else -> Text(error.toString())
        }
    }
}

/** A failure that the user can understand. */
class NoticeException(val notice: Notice) : Exception(notice.toString()) {
    constructor(key: NoticeKey, vararg values: Any) : this(Notice.of(key, *values))
}
