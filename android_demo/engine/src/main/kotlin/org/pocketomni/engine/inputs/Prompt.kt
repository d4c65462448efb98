package org.pocketomni.engine.inputs

/** What an encoder gets: the log-mel of a sound, or the patches of a picture or film. */
internal sealed class Features {
    class Heard(val mel: MelFeatures) : Features()

    class Seen(val patches: Patches) : Features()
}

/** Tokens of a prompt whose embeddings come from an encoder; [rows] are in the order of its output. */
internal class MediaSlot(val kind: String, val rows: IntArray, val features: Features) {
    /** How many rows are among the first [count] tokens. */
    fun inside(count: Int): Int = rows.count { it < count }

    /** Tokens of a full block of sound; null for what cannot be cut. */
    val blockTokens: Int? get() = (features as? Features.Heard)?.mel?.blockTokens
}

/** Input of the Thinker. [nextPosition] is that of the reply's first token. */
internal class Prompt(val ids: IntArray, val positions: Positions, val media: List<MediaSlot>, val nextPosition: Int) {
    /**
     * The length of the longest common prefix with a [cached] prompt at which [split] may cut this one. Media are
     * compared by their features.
     */
    fun commonPrefix(cached: Prompt): Int {
        val length = minOf(ids.size, cached.ids.size)
        var count = (0 until length).firstOrNull { ids[it] != cached.ids[it] || !positions.sameAt(cached.positions, it) } ?: length
        media.forEachIndexed { index, slot ->
            if (slot.rows[0] < count) count = minOf(count, firstDifference(slot, cached.media.getOrNull(index), count))
        }
        return splitPoint(count)
    }

    /** Tokens that cannot change while the recording at the end goes on: those of its last block and later ones may. */
    fun stableLength(): Int {
        val slot = media.lastOrNull() ?: return ids.size
        val mel = (slot.features as? Features.Heard)?.mel ?: return ids.size
        val stable = mel.stableBlocks * mel.blockTokens
        return splitPoint(if (stable < slot.rows.size) slot.rows[stable] else slot.rows.last() + 1)
    }

    /** The first [count] tokens, at least one, and the others. [count] is from [commonPrefix] or [stableLength]. */
    fun split(count: Int): Pair<Prompt, Prompt> {
        val head = ArrayList<MediaSlot>()
        val tail = ArrayList<MediaSlot>()
        for (slot in media) {
            val inside = slot.inside(count)
            val moved = IntArray(slot.rows.size - inside) { slot.rows[inside + it] - count }
            when (inside) {
                slot.rows.size -> head.add(slot)
                0 -> tail.add(MediaSlot(slot.kind, moved, slot.features))
                else -> {
                    val mel = (slot.features as Features.Heard).mel
                    val (first, second) = mel.split(inside / mel.blockTokens)
                    head.add(MediaSlot(slot.kind, slot.rows.copyOf(inside), Features.Heard(first)))
                    tail.add(MediaSlot(slot.kind, moved, Features.Heard(second)))
                }
            }
        }
        return Prompt(ids.copyOf(count), positions.range(0, count), head, positions.largest(count) + 1) to
            Prompt(ids.copyOfRange(count, ids.size), positions.range(count, ids.size), tail, nextPosition)
    }

    /** The largest length up to [wanted] that splits neither pictures nor blocks of sound. */
    private fun splitPoint(wanted: Int): Int {
        var count = wanted
        while (true) {
            val before = count
            for (slot in media) {
                val inside = slot.inside(count)
                if (inside == 0 || inside == slot.rows.size) continue
                count = slot.rows[slot.blockTokens?.let { inside - inside % it } ?: 0]
            }
            if (count == before) return count
        }
    }

    private fun firstDifference(slot: MediaSlot, other: MediaSlot?, count: Int): Int {
        val start = slot.rows[0]
        if (other == null || other.kind != slot.kind || other.rows[0] != start) return start
        val mine = slot.features
        val theirs = other.features
        return when {
            mine is Features.Heard && theirs is Features.Heard -> {
                val blocks = mine.mel.commonBlocks(theirs.mel)
                if (blocks == mine.mel.blocks) count else slot.rows[blocks * mine.mel.blockTokens]
            }
            mine is Features.Seen && theirs is Features.Seen && same(mine.patches, theirs.patches) -> count
            else -> start
        }
    }

    private fun same(one: Patches, other: Patches) = one.grid == other.grid && one.values.contentEquals(other.values)
}
