/** Frames of a film: which ones are taken, and their patches (docs/bundle.md, section 10). */
package org.pocketomni.engine.inputs

import org.pocketomni.engine.MediaError
import org.pocketomni.engine.OpenFilm
import org.pocketomni.engine.bundle.VisionConfig
import kotlin.math.floor
import kotlin.math.max
import kotlin.math.min
import kotlin.math.round

/** Numbers of the sampled frames, and their rate in frames per second. */
internal class SampledFrames(val numbers: IntArray, val rate: Double)

/** Sample the frames of a film of [total] frames at [rate] frames per second. */
internal fun sampleFrames(total: Int, rate: Double, config: VisionConfig): SampledFrames {
    val depth = config.temporalPatchSize
    val limit = min(config.videoMaxFrames, total) / depth * depth
    val wanted = total / rate * config.videoFps
    var count = min(max(wanted, config.videoMinFrames.toDouble()), limit.toDouble()).toInt() / depth * depth
    count = max(count, min(depth, total))
    val thinned = floor(wanted / depth) * depth > count
    return SampledFrames(evenlySpaced(total, count), if (thinned) count / (total / rate) else config.videoFps)
}

/** [count] numbers from the first to the last frame, computed in 32 bits from both ends to the middle. */
private fun evenlySpaced(total: Int, count: Int): IntArray {
    if (count == 1) return intArrayOf(0)
    val last = (total - 1).toFloat()
    val step = last / (count - 1).toFloat()
    return IntArray(count) { round(if (it < count / 2) it * step else last - (count - 1 - it) * step).toInt() }
}

/** The patches of a film, the seconds from one step of its grid to the next, and its sound, if it has one. */
internal class LoadedFilm(val patches: Patches, val seconds: Double, val sound: FloatArray?)

/**
 * Read a film. A sound that cannot be used is left out. Throws [MediaError] when the film is cut, needs more than
 * [maxTokens], or its sound is too long.
 */
internal fun loadFilm(
    film: OpenFilm,
    config: VisionConfig,
    sampleRate: Int?,
    maxTokens: Int,
    maxSeconds: Double,
): LoadedFilm {
    val times = FrameTimes.of(film.times, config.videoFps)
    val sampled = sampleFrames(times.frames, times.rate, config)
    val size = filmSize(film.height, film.width, sampled.numbers.size, config)
    val steps = (sampled.numbers.size + config.temporalPatchSize - 1) / config.temporalPatchSize
    val tokens = steps.toLong() * (size.height / config.factor) * (size.width / config.factor)
    if (tokens > maxTokens) {
        throw MediaError("the film needs $tokens tokens; the model's context holds $maxTokens", "use a shorter clip")
    }
    val picker = FramePicker(times.shown(sampled.numbers), times.times.size) { resize(it, size) }
    film.decode(picker::visit)
    val sound = sampleRate?.let { rate ->
        soundIfUsable { film.sound(times.start, maxSeconds)?.let { loadSound(it, rate, maxSeconds) } }
    }
    return LoadedFilm(patches(picker.images, config), config.temporalPatchSize / sampled.rate, sound)
}
