package org.pocketomni.engine.graphs

import org.pocketomni.engine.bundle.Table
import org.pocketomni.engine.inputs.Features
import org.pocketomni.engine.inputs.Positions
import org.pocketomni.engine.inputs.Prompt

/** [logits] (vocabulary) after the last token; [talkerRows] (n, hidden), one row for each token. */
internal class ThinkerOutput(val logits: FloatArray, val talkerRows: FloatArray)

/**
 * The Thinker: token ids and media to hidden states and logits.
 *
 * The Talker's row of a token is its hidden state plus its embedding, where the embedding of media counts as zero.
 */
internal class Thinker(
    private val decoder: Decoder,
    private val table: Table,
    private val audio: () -> AudioEncoder,
    private val vision: () -> VisionEncoder,
) {
    private val hidden = decoder.config.hiddenSize

    fun newCache(limit: Int? = null) = decoder.newCache(limit)

    /** Append a prompt with its media. Throws ContextFullError before any work is done. */
    fun prefill(cache: KvCache, prompt: Prompt): ThinkerOutput {
        cache.checkRoom(prompt.ids.size)
        val rows = FloatArray(prompt.ids.size * hidden)
        prompt.ids.forEachIndexed { i, id -> table.read(id, rows, i * hidden) }
        val forTalker = rows.copyOf()
        for (slot in prompt.media) {
            val encoded = when (val features = slot.features) {
                is Features.Heard -> audio().encode(features.mel)
                is Features.Seen -> vision().encode(features.patches)
            }
            slot.rows.forEachIndexed { i, row ->
                encoded.copyInto(rows, row * hidden, i * hidden, (i + 1) * hidden)
                forTalker.fill(0f, row * hidden, (row + 1) * hidden)
            }
        }
        return output(decoder.extend(cache, rows, prompt.positions), forTalker)
    }

    /** Append one token of the reply. */
    fun step(cache: KvCache, token: Int, position: Int): ThinkerOutput {
        val row = table.row(token)
        return output(decoder.extend(cache, row, Positions.shared(position, 1)), row)
    }

    private fun output(found: DecoderOutput, embeddings: FloatArray): ThinkerOutput {
        for (i in embeddings.indices) embeddings[i] = found.hidden[i] + embeddings[i]
        return ThinkerOutput(found.logits, embeddings)
    }
}
