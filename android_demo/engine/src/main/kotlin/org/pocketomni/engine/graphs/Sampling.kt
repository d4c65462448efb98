/** Sampling: a chain of pure functions over logits, and one random choice at its end (docs/bundle.md, section 12). */
package org.pocketomni.engine.graphs

import org.pocketomni.engine.Sampling
import kotlin.math.exp

private const val REMOVED = Float.NEGATIVE_INFINITY

/** Penalize ids seen before: divide positive logits, multiply negative ones. */
internal fun penalizeRepetition(logits: FloatArray, seen: Collection<Int>, penalty: Double): FloatArray {
    if (penalty == 1.0 || seen.isEmpty()) return logits
    val factor = penalty.toFloat()
    val out = logits.copyOf()
    for (id in seen.toSet()) out[id] = if (logits[id] < 0) logits[id] * factor else logits[id] / factor
    return out
}

internal fun suppress(logits: FloatArray, banned: IntArray): FloatArray {
    val out = logits.copyOf()
    for (id in banned) out[id] = REMOVED
    return out
}

/** Keep the [k] largest logits and ties with the k-th; 0 keeps all. */
internal fun keepTopK(logits: FloatArray, k: Int): FloatArray {
    if (k <= 0 || k >= logits.size) return logits
    val least = logits.sortedArray()[logits.size - k]
    return FloatArray(logits.size) { if (logits[it] < least) REMOVED else logits[it] }
}

/** Keep the smallest set of most likely ids with a total probability of at least [p]. */
internal fun keepTopP(logits: FloatArray, p: Double): FloatArray {
    if (p >= 1.0) return logits
    val order = logits.indices.sortedBy { logits[it] } // stable
    val probabilities = softmax(FloatArray(order.size) { logits[order[it]] })
    val out = logits.copyOf()
    var sum = 0.0
    for (i in 0 until order.size - 1) {
        sum += probabilities[i]
        if (sum <= 1 - p) out[order[i]] = REMOVED
    }
    return out
}

internal fun softmax(logits: FloatArray): DoubleArray {
    val most = logits.max()
    val out = DoubleArray(logits.size) { exp(logits[it].toDouble() - most) }
    val sum = out.sum()
    for (i in out.indices) out[i] /= sum
    return out
}

/** The id of the largest logit, the first of equals. */
internal fun largest(logits: FloatArray): Int {
    var best = 0
    for (i in 1 until logits.size) if (logits[i] > logits[best]) best = i
    return best
}

/** The probabilities of a draw. The temperature is above 0. */
internal fun probabilities(logits: FloatArray, settings: Sampling, seen: Collection<Int>): DoubleArray {
    val temperature = settings.temperature.toFloat()
    val penalized = penalizeRepetition(logits, seen, settings.repetitionPenalty)
    val cooled = FloatArray(penalized.size) { penalized[it] / temperature }
    return softmax(keepTopP(keepTopK(cooled, settings.topK), settings.topP))
}

/** Sample an id. */
internal fun sample(logits: FloatArray, settings: Sampling, seen: Collection<Int>, random: Pcg64): Int {
    if (settings.temperature <= 0) return largest(penalizeRepetition(logits, seen, settings.repetitionPenalty))
    return random.choice(probabilities(logits, settings, seen))
}
