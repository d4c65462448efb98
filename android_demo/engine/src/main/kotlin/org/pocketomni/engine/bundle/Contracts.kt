/** Graph contracts: names, types and shapes of the inputs and outputs of each graph (docs/bundle.md, section 3). */
package org.pocketomni.engine.bundle

/** One input or output. [shape] holds sizes, and null for one that may change from call to call. */
internal data class TensorSpec(val name: String, val type: String, val shape: List<Int?>)

internal data class GraphContract(val inputs: List<TensorSpec>, val outputs: List<TensorSpec>)

internal const val FLOAT = "float32"
internal const val INT8 = "int8"
internal val DECODERS = listOf("thinker", "talker")

private fun floats(name: String, vararg shape: Int?) = TensorSpec(name, FLOAT, shape.toList())

private fun longs(name: String, vararg shape: Int?) = TensorSpec(name, "int64", shape.toList())

private fun ints(name: String, vararg shape: Int?) = TensorSpec(name, "int32", shape.toList())

private fun decoder(config: DecoderConfig, width: Int, outputs: List<TensorSpec>, cache: String): GraphContract {
    fun states(state: String) = (0 until config.layers).flatMap { layer ->
        listOf("key", "value").map { kind ->
            TensorSpec("${state}_${kind}_$layer", cache, listOf(1, config.kvHeads, null, config.headDim))
        }
    }
    val half = config.headDim / 2
    return GraphContract(
        listOf(
            floats("embeddings", 1, null, width), ints("last_position", 1), ints("total_length"),
            floats("cos", null, half), floats("sin", null, half),
        ) + states("past"),
        outputs + states("present"),
    )
}

private fun vision(config: VisionConfig, width: Int) = GraphContract(
    listOf(
        floats("patches", null, config.patchLength),
        floats("cos", null, config.headDim / 2),
        floats("sin", null, config.headDim / 2),
        longs("window_slots", null, null),
        ints("window_lengths", null),
        longs("unpad", null),
        longs("grid_frames", 1),
    ),
    listOf(floats("embeddings", null, width)),
)

private fun dit(config: DitConfig): GraphContract {
    val block = config.blockFrames
    val half = config.headDim / 2
    fun left(state: String) = listOf("key", "value").map {
        floats("${state}_$it", config.lookBackLayers, null, block, config.heads * config.headDim)
    }
    return GraphContract(
        listOf(
            floats("noisy", 1, null, config.melDim),
            floats("condition", null, null, config.hiddenSize),
            floats("modulation", config.layers, MODULATION_ROWS, config.hiddenSize),
            floats("final_modulation", FINAL_MODULATION_ROWS, config.hiddenSize),
            floats("cos", null, half),
            floats("sin", null, half),
            floats("key_bias", null, block),
            longs("commit", 1),
        ) + left("past"),
        listOf(floats("velocity", null, null, config.melDim)) + left("present"),
    )
}

/** Modulation rows of a DiT layer, and those of its end. */
internal const val MODULATION_ROWS = 6
internal const val FINAL_MODULATION_ROWS = 2

/** Return the contracts of a model by graph name, decoders with this type of KV cache. */
internal fun contracts(config: ModelConfig, cache: String): Map<String, GraphContract> {
    val width = config.decoder.hiddenSize
    val graphs = LinkedHashMap<String, GraphContract>()
    config.audio?.let {
        graphs["audio_encoder"] = GraphContract(
            listOf(floats("mel", null, it.nMels, null), ints("frames", null)),
            listOf(floats("embeddings", null, null, width)),
        )
    }
    config.vision?.let { graphs["vision_encoder"] = vision(it, width) }
    val hidden = listOf(floats("hidden", 1, null, width), floats("logits", 1, config.decoder.vocabSize))
    graphs["thinker"] = decoder(config.decoder, width, hidden, cache)
    config.speech?.let {
        val logits = listOf(floats("logits", 1, it.talker.decoder.vocabSize))
        graphs["talker"] = decoder(it.talker.decoder, it.talker.inputSize, logits, cache)
        graphs["dit"] = dit(it.dit)
        graphs["vocoder"] = GraphContract(
            listOf(floats("mel", 1, it.dit.melDim, null), longs("crops", it.vocoder.stageRates.size + 1, 2)),
            listOf(floats("waveform", null)),
        )
    }
    return graphs
}
