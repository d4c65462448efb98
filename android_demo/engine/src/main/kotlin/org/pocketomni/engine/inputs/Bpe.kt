package org.pocketomni.engine.inputs

import java.util.PriorityQueue

/** Byte-pair merges over token ids: the pair of lowest rank is merged first, the leftmost of equals. */
internal class Bpe(merges: List<IntArray>) {
    /** left, right and rank of each merge in one number, ascending. */
    private val pairs = LongArray(merges.size) { rank ->
        (merges[rank][0].toLong() shl 2 * BITS) or (merges[rank][1].toLong() shl BITS) or rank.toLong()
    }
    private val results = IntArray(merges.size) { merges[it][2] }

    init {
        pairs.sort()
    }

    /** Merge [ids] of bytes into ids of tokens. */
    fun merge(ids: IntArray): IntArray {
        val size = ids.size
        val left = IntArray(size) { it - 1 }
        val right = IntArray(size) { if (it + 1 < size) it + 1 else -1 }
        val tokens = ids.copyOf()
        val queue = PriorityQueue<Candidate>()
        fun offer(place: Int) {
            val other = if (place >= 0) right[place] else -1
            if (other < 0) return
            val rank = rank(tokens[place], tokens[other])
            if (rank >= 0) queue.add(Candidate(rank, place, tokens[place], tokens[other]))
        }
        for (place in 0 until size - 1) offer(place)
        while (true) {
            val next = queue.poll() ?: break
            val other = right[next.place]
            if (tokens[next.place] != next.left || other < 0 || tokens[other] != next.right) continue
            tokens[next.place] = results[next.rank]
            tokens[other] = GONE
            right[next.place] = right[other]
            if (right[other] >= 0) left[right[other]] = next.place
            offer(left[next.place])
            offer(next.place)
        }
        return tokens.filter { it != GONE }.toIntArray()
    }

    /** Rank of a pair, -1 if it is never merged. */
    private fun rank(left: Int, right: Int): Int {
        val wanted = (left.toLong() shl 2 * BITS) or (right.toLong() shl BITS)
        val place = pairs.binarySearch(wanted).let { if (it < 0) -it - 1 else it }
        return if (place < pairs.size && pairs[place] shr BITS == wanted shr BITS) (pairs[place] and MASK).toInt() else -1
    }

    private class Candidate(val rank: Int, val place: Int, val left: Int, val right: Int) : Comparable<Candidate> {
        override fun compareTo(other: Candidate): Int =
            if (rank != other.rank) rank.compareTo(other.rank) else place.compareTo(other.place)
    }

    companion object {
        const val BITS = 21
        private const val MASK = (1L shl BITS) - 1
        private const val GONE = -1
    }
}
