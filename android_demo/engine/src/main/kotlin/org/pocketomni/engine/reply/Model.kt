package org.pocketomni.engine.reply

import org.pocketomni.engine.EngineOptions
import org.pocketomni.engine.UsageError
import org.pocketomni.engine.bundle.Bundle
import org.pocketomni.engine.bundle.FLOAT
import org.pocketomni.engine.bundle.INT8
import org.pocketomni.engine.bundle.ModelConfig
import org.pocketomni.engine.bundle.SpeechConfig
import org.pocketomni.engine.bundle.Table
import org.pocketomni.engine.bundle.contracts
import org.pocketomni.engine.graphs.AudioEncoder
import org.pocketomni.engine.graphs.Decoder
import org.pocketomni.engine.graphs.Dit
import org.pocketomni.engine.graphs.Graph
import org.pocketomni.engine.graphs.GraphLoader
import org.pocketomni.engine.graphs.RunControl
import org.pocketomni.engine.graphs.SynthesisSpeed
import org.pocketomni.engine.graphs.Talker
import org.pocketomni.engine.graphs.Thinker
import org.pocketomni.engine.graphs.VisionEncoder
import org.pocketomni.engine.graphs.Vocoder
import org.pocketomni.engine.graphs.functionEvaluations
import org.pocketomni.engine.inputs.PromptBuilder
import org.pocketomni.engine.inputs.Tokenizer
import java.io.Closeable

/** A loaded bundle: its graphs and tables, each opened on first use. Belongs to one thread. */
internal class Model(val bundle: Bundle, private val options: EngineOptions) : Closeable {
    val config: ModelConfig = bundle.config
    val control = RunControl()
    private val cacheType = if (options.int8Cache) INT8 else FLOAT
    private val contracts = contracts(config, cacheType)
    private val loader = GraphLoader(options.threads, options.kernels, control)
    private val open = ArrayList<Closeable>()
    private val dits = HashMap<String, Dit>()
    private val tables = HashMap<String, Table>()
    private var audio: AudioEncoder? = null
    private var vision: VisionEncoder? = null

    val tokenizer by lazy { Tokenizer(bundle.text(Bundle.TOKENIZER), config.tokens) }
    val prompts by lazy { PromptBuilder(tokenizer, bundle.text(Bundle.CHAT_TEMPLATE), config) }

    private val thinkerDecoder by lazy {
        Decoder(graph("thinker"), config.decoder, config.decoder.hiddenSize, true, cacheType, options.memory).also(open::add)
    }
    val thinker by lazy { Thinker(thinkerDecoder, table("thinker_embedding"), ::audioEncoder, ::visionEncoder) }

    /** The speech part of the configuration. Throws [UsageError] for a bundle without speech. */
    val speech: SpeechConfig
        get() = config.speech ?: throw UsageError("${bundle.folder} has no voice", "ask for replies without speech", "no_speech")

    private val talkerDecoder by lazy {
        val talker = speech.talker
        Decoder(graph("talker"), talker.decoder, talker.inputSize, false, cacheType, options.memory).also(open::add)
    }
    val talker by lazy {
        Talker(speech.talker, talkerDecoder, table("talker_embedding"), table("thinker_embedding"), speech.dit.codes)
    }
    private val ditGraph by lazy { graph("dit").also(open::add) }
    val vocoder by lazy { Vocoder(graph("vocoder").also(open::add), speech.vocoder, speech.dit.melDim) }

    /** Speech speed of this device, measured on first use. */
    val speed by lazy {
        SynthesisSpeed.measure(speech, talker, dit(speech.defaultPreset), vocoder, bundle.voice(speech.defaultVoice))
    }

    /** Function evaluations of each preset. */
    val evaluations: Map<String, Int> by lazy { speech.presets.mapValues { functionEvaluations(it.value) } }

    /** The DiT with the constants of a preset. */
    fun dit(preset: String): Dit = dits.getOrPut(preset) {
        Dit(ditGraph, speech.dit, speech.presets.getValue(preset), table("dit_code")) { bundle.modulation(preset, it) }
    }

    /** Presets with fewer function evaluations, most evaluations first. */
    fun fasterPresets(preset: String): List<String> {
        val mine = evaluations.getValue(preset)
        return evaluations.filterValues { it < mine }.keys.sortedByDescending { evaluations.getValue(it) }
    }

    fun audioEncoder(): AudioEncoder = audio ?: AudioEncoder(graph("audio_encoder"), config.audio!!, config.decoder.hiddenSize)
        .also { audio = it }

    fun visionEncoder(): VisionEncoder = vision ?: VisionEncoder(graph("vision_encoder"), config.vision!!, config.decoder.hiddenSize)
        .also { vision = it }

    /** Release the encoders where they are not to be kept; the next medium opens them again. */
    fun mediaDone() {
        if (!options.keepEncoders) closeEncoders()
    }

    private fun closeEncoders() {
        audio?.close()
        vision?.close()
        audio = null
        vision = null
    }

    private fun table(name: String): Table = tables.getOrPut(name) { bundle.table(name) }

    private fun graph(name: String): Graph = loader.open(bundle.graph(name, cacheType), contracts.getValue(name))

    override fun close() {
        closeEncoders()
        open.forEach { it.close() }
        open.clear()
    }
}
