/** Checks of decoded sounds. */
package org.pocketomni.engine.inputs

import org.pocketomni.engine.MediaError
import org.pocketomni.engine.Samples

/** Check and resample a sound. Throws [MediaError] for an empty one, one that is too long, or NaN. */
internal fun loadSound(sound: Samples, sampleRate: Int, maxSeconds: Double): FloatArray {
    if (sound.rate <= 0) throw MediaError("a sound at ${sound.rate} Hz is no sound", "convert it to wav")
    if (sound.samples.isEmpty()) throw emptySound("the sound")
    if (sound.samples.size > maxSeconds * sound.rate) throw soundTooLong("the sound", maxSeconds)
    requireFinite(sound.samples, "the sound")
    return resampled(sound.samples, sound.rate, sampleRate)
}

internal fun emptySound(name: String) = MediaError("$name holds no sound: its length is zero", "record it again")

internal fun soundTooLong(name: String, maxSeconds: Double) =
    MediaError("$name is longer than ${maxSeconds.toLong()} s", "cut it into shorter clips")

internal fun requireFinite(samples: FloatArray, name: String) {
    if (samples.any { it.isNaN() || it.isInfinite() }) {
        throw MediaError("$name has samples that are NaN or infinite", "export the sound again")
    }
}
