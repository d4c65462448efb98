package org.pocketomni.engine.graphs

import java.io.Closeable

/** Synthesizes one utterance: codes to samples through the DiT and the vocoder, in chunks of a [scheduler]. */
internal class Code2Wav(
    dit: Dit,
    vocoder: Vocoder,
    voice: FloatArray,
    noise: Noise,
    private val scheduler: ChunkScheduler,
) : Closeable {
    private val mel = MelStream(dit, voice, noise)
    private val wave = WaveStream(vocoder, dit.config.melDim)
    private val rate = vocoder.config.sampleRate
    private val block = dit.config.codesPerBlock
    private val codes = ArrayList<Int>()
    private var held = FloatArray(0)

    /** Add a code; return samples when some are released. */
    fun push(code: Int): FloatArray? {
        codes.add(code)
        val early = scheduler.lowLatency && mel.blocksDone == 0
        val ahead = if (early) FIRST_LOOK_AHEAD_CODES else LOOK_AHEAD_BLOCKS * block
        val ready = Math.floorDiv(codes.size - ahead, block)
        val commit = scheduler.commit(ready, block - Math.floorMod(codes.size - ahead, block))
        if (commit == 0) return null
        // Exactly this look-ahead, even if more codes are known: chunks must not depend on timing.
        val chunk = mel.chunk(codes.subList(0, commit * block + ahead).toIntArray(), commit)
        codes.subList(0, commit * block).clear()
        val samples = wave.push(chunk.mel, chunk.provisional, last = false)
        held += samples
        return if (scheduler.chunkDone(commit, samples.size.toDouble() / rate)) release() else null
    }

    /** Synthesize the rest as one last chunk; null when nothing is left. */
    fun finish(): FloatArray? {
        if (codes.isNotEmpty()) {
            val chunk = mel.chunk(codes.toIntArray(), (codes.size + block - 1) / block)
            codes.clear()
            held += wave.push(chunk.mel, chunk.provisional, last = true)
        }
        return if (held.isEmpty()) null else release()
    }

    override fun close() = mel.close()

    private fun release(): FloatArray = held.also { held = FloatArray(0) }

    private companion object {
        const val LOOK_AHEAD_BLOCKS = 1
    }
}
