/** The errors that a user can meet. Each is one line: what happened, why, and what to do. */
package org.pocketomni.engine

/**
 * A failure that the user can understand and repair.
 *
 * [code] identifies the kind of failure for programs and is stable, unlike the message; the codes are those of the
 * Python runtime. [fix] is the step that repairs it, [details] are the values that belong to it.
 */
open class OmniError(
    message: String,
    val fix: String? = null,
    val code: String = "failed",
    val details: Map<String, String> = emptyMap(),
) : Exception(message) {
    /** The message and, in parentheses, the fix. */
    val line: String
        get() = if (fix == null) message!! else "$message ($fix)"
}

/** A request with a wrong name, option or value, or one that is not possible now. */
class UsageError(message: String, fix: String? = null, code: String = "invalid_request") :
    OmniError(message, fix, code)

/** A sound, picture or film that cannot be read, or that the model cannot take. */
open class MediaError(message: String, fix: String? = null) : OmniError(message, fix, "invalid_media")

/** A sound track that cannot be used. A file may have another one, and a film needs none. */
class TrackError(message: String, fix: String? = null) : MediaError(message, fix)

/** A bundle that is missing, damaged, or of another format. */
class BundleError(message: String, fix: String? = EXPORT_AGAIN, code: String = "invalid_bundle") :
    OmniError(message, fix, code)

/** The prompt or the reply does not fit into the rest of the context. */
class ContextFullError(message: String, fix: String) : OmniError(message, fix, "context_full")

internal const val EXPORT_AGAIN = "export the bundle again"
