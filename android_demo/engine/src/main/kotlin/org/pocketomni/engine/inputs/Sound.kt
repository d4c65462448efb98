/** Checks of decoded sounds. */
package org.pocketomni.engine.inputs

import org.pocketomni.engine.MediaError
import org.pocketomni.engine.Samples
import org.pocketomni.engine.TrackError
import java.util.logging.Logger

private val log = Logger.getLogger("org.pocketomni.engine")

/** Check and resample a sound. Throws [MediaError] for one that is too long, [TrackError] for an empty one or NaN. */
internal fun loadSound(sound: Samples, sampleRate: Int, maxSeconds: Double): FloatArray {
    requireUsable(sound)
    if (sound.samples.size > maxSeconds * sound.rate) throw soundTooLong("the sound", maxSeconds)
    return resampled(sound.samples, sound.rate, sampleRate)
}

/** Return what [load] returns, or null for a sound that cannot be used; a log line says so. */
internal fun soundIfUsable(load: () -> FloatArray?): FloatArray? = try {
    load()
} catch (error: TrackError) {
    log.warning("${error.message}; the film is used without its sound")
    null
}

internal fun requireUsable(sound: Samples) {
    if (sound.rate <= 0) throw TrackError("a sound at ${sound.rate} Hz is no sound", "convert it to wav")
    if (sound.samples.isEmpty()) throw emptySound("the sound")
    requireFinite(sound.samples, "the sound")
}

internal fun emptySound(name: String) = TrackError("$name holds no sound: its length is zero", "record it again")

internal fun soundTooLong(name: String, maxSeconds: Double) =
    MediaError("$name is longer than ${maxSeconds.toLong()} s", "cut it into shorter clips")

internal fun requireFinite(samples: FloatArray, name: String) {
    if (samples.any { it.isNaN() || it.isInfinite() }) {
        throw TrackError("$name has samples that are NaN or infinite", "export the sound again")
    }
}
