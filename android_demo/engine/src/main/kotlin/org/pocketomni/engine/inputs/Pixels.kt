/** Inputs of the vision encoder: normalized patches, and the geometry of windows (docs/bundle.md, section 9). */
package org.pocketomni.engine.inputs

import org.pocketomni.engine.MediaError
import org.pocketomni.engine.RgbImage
import org.pocketomni.engine.bundle.VisionConfig
import kotlin.math.cos
import kotlin.math.floor
import kotlin.math.max
import kotlin.math.min
import kotlin.math.pow
import kotlin.math.sin

/** Tokens of all frames of a film, of which many become small. */
private const val FILM_TOKENS = 0.9 * 128_000

/** The limit of a frame is at least this much above the least size. */
private const val LEAST_ROOM = 1.05

/** Number of patches in time, height and width, before the encoder merges them in space. */
internal data class Grid(val t: Int, val h: Int, val w: Int) {
    val patches: Int get() = t * h * w
}

/** Normalized patches (t * h * w, patch length); patches that are merged into one token are adjacent. */
internal class Patches(val values: FloatArray, val grid: Grid)

/** The size to which a picture, or a frame of a film, is resized. */
internal fun pictureSize(height: Int, width: Int, config: VisionConfig): Size =
    smartResize(height, width, config.factor, config.imagePixels.first, config.imagePixels.last.toDouble())

/** The size of the [frames] sampled frames of a film, which share a budget. */
internal fun filmSize(height: Int, width: Int, frames: Int, config: VisionConfig): Size {
    val least = config.videoPixels.first
    val most = config.videoPixels.last.toDouble()
    val share = FILM_TOKENS * (config.factor * config.factor) / frames * config.temporalPatchSize
    val limit = max(min(most, share), min(floor(least * LEAST_ROOM), most))
    return smartResize(height, width, config.factor, least, limit)
}

/** Resize one picture and cut it into patches. Throws [MediaError] when the aspect ratio exceeds 200 : 1. */
internal fun picturePatches(image: RgbImage, config: VisionConfig): Patches =
    patches(listOf(resize(image, pictureSize(image.height, image.width, config))), config)

/** Cut frames of the final size into patches. The last frame is repeated until the depth of a patch divides them. */
internal fun patches(frames: List<RgbImage>, config: VisionConfig): Patches {
    val depth = config.temporalPatchSize
    val size = config.patchSize
    val merge = config.mergeSize
    val grid = Grid((frames.size + depth - 1) / depth, frames[0].height / size, frames[0].width / size)
    val tables = normalization(config)
    val values = FloatArray(grid.patches * config.patchLength)
    var at = 0
    for (t in 0 until grid.t) for (top in 0 until grid.h step merge) for (left in 0 until grid.w step merge) {
        for (y in top until top + merge) for (x in left until left + merge) {
            for (channel in 0 until VisionConfig.CHANNELS) for (d in 0 until depth) {
                val frame = frames[minOf(t * depth + d, frames.size - 1)]
                for (row in y * size until (y + 1) * size) {
                    var from = (row * frame.width + x * size) * VisionConfig.CHANNELS + channel
                    for (column in 0 until size) {
                        values[at++] = tables[channel][frame.rgb[from].toInt() and 0xff]
                        from += VisionConfig.CHANNELS
                    }
                }
            }
        }
    }
    return Patches(values, grid)
}

/** The normalized value of each byte, for each channel: rescaled in double, normalized in single precision. */
private fun normalization(config: VisionConfig): List<FloatArray> = (0 until VisionConfig.CHANNELS).map { channel ->
    val mean = config.imageMean[channel].toFloat()
    val deviation = config.imageStd[channel].toFloat()
    FloatArray(256) { ((it * (1.0 / 255)).toFloat() - mean) / deviation }
}

/**
 * Geometry of one picture or film for the encoder.
 *
 * [windowIndex] lists merged tokens in window order, [reverseIndex] is its inverse, [patchIndex] the same order for
 * patches. All else is in window order: patches of each window ([windowLengths]), the patches of each window padded
 * to [widest] ([windowSlots]), the place of each patch there ([unpad]), and [cos] and [sin] of the rotary angles.
 */
internal class VisionGeometry(grid: Grid, config: VisionConfig) {
    val windowIndex: IntArray
    val reverseIndex: IntArray
    val patchIndex: IntArray
    val windowLengths: IntArray
    val widest: Int
    val windowSlots: LongArray
    val unpad: LongArray
    val cos: FloatArray
    val sin: FloatArray

    init {
        val unit = config.mergeSize * config.mergeSize
        val lengths = IntList()
        windowIndex = windows(grid.t, grid.h / config.mergeSize, grid.w / config.mergeSize, config, lengths)
        reverseIndex = IntArray(windowIndex.size).also { reverse -> windowIndex.forEachIndexed { i, token -> reverse[token] = i } }
        patchIndex = IntArray(grid.patches) { windowIndex[it / unit] * unit + it % unit }
        windowLengths = lengths.toArray().map { it * unit }.toIntArray()
        widest = windowLengths.maxOrNull()!!
        windowSlots = LongArray(windowLengths.size * widest)
        unpad = LongArray(grid.patches)
        var patch = 0
        windowLengths.forEachIndexed { window, length ->
            for (i in 0 until length) {
                windowSlots[window * widest + i] = patch.toLong()
                unpad[patch++] = (window * widest + i).toLong()
            }
        }
        val half = config.headDim / 2
        val angles = angles(grid, config)
        val values = FloatArray(grid.patches * half) { angles[patchIndex[it / half] % (grid.h * grid.w) * half + it % half] }
        cos = FloatArray(values.size) { cos(values[it].toDouble()).toFloat() }
        sin = FloatArray(values.size) { sin(values[it].toDouble()).toFloat() }
    }

    /** Merged tokens in window order; windows at the right and lower edges are smaller. */
    private fun windows(t: Int, rows: Int, columns: Int, config: VisionConfig, lengths: IntList): IntArray {
        val side = config.windowSize / config.mergeSize / config.patchSize
        val order = IntList()
        for (frame in 0 until t) for (top in 0 until rows step side) for (left in 0 until columns step side) {
            val before = order.size
            for (row in top until minOf(top + side, rows)) for (column in left until minOf(left + side, columns)) {
                order.add((frame * rows + row) * columns + column)
            }
            lengths.add(order.size - before)
        }
        return order.toArray()
    }

    /** Rotary angles of one frame (h * w, head_dim / 2) in patch order: height first, then width. */
    private fun angles(grid: Grid, config: VisionConfig): FloatArray {
        val half = config.headDim / 2
        val quarter = half / 2
        val frequencies = FloatArray(quarter) { inverseFrequency(2 * it, half, config.ropeTheta) }
        val merge = config.mergeSize
        val angles = FloatArray(grid.h * grid.w * half)
        var at = 0
        for (top in 0 until grid.h step merge) for (left in 0 until grid.w step merge) {
            for (y in top until top + merge) for (x in left until left + merge) {
                for (i in 0 until quarter) angles[at + i] = (y * frequencies[i].toDouble()).toFloat()
                for (i in 0 until quarter) angles[at + quarter + i] = (x * frequencies[i].toDouble()).toFloat()
                at += half
            }
        }
        return angles
    }
}

/** 1 / theta^(exponent / dimension), rounded to single precision where numpy does. */
internal fun inverseFrequency(exponent: Int, dimension: Int, theta: Double): Float {
    val power = theta.toFloat().toDouble().pow((exponent.toFloat() / dimension.toFloat()).toDouble()).toFloat()
    return 1f / power
}
