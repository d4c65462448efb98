/** Model configuration, as the manifest states it. No field has a default; docs/bundle.md says what they mean. */
package org.pocketomni.engine.bundle

import org.pocketomni.engine.Sampling

/** Ids of media tokens, of their markers, and of the tokens that end a reply. */
internal data class SpecialTokens(
    val audio: Int,
    val image: Int,
    val video: Int,
    val audioBos: Int,
    val audioEos: Int,
    val visionBos: Int,
    val visionEos: Int,
    val eos: List<Int>,
) {
    val all: Set<Int> = setOf(audio, image, video, audioBos, audioEos, visionBos, visionEos) + eos
}

internal data class AudioConfig(
    val sampleRate: Int,
    val nFft: Int,
    val hopLength: Int,
    val nMels: Int,
    val paddedSamples: Int,
    val blockFrames: Int,
    /** Whether the zeros that the reference adds stand before the clip. */
    val paddedLeft: Boolean,
)

internal data class VisionConfig(
    val patchSize: Int,
    val temporalPatchSize: Int,
    val mergeSize: Int,
    val windowSize: Int,
    val headDim: Int,
    val ropeTheta: Double,
    val imageMean: List<Double>,
    val imageStd: List<Double>,
    val imagePixels: IntRange,
    val videoPixels: IntRange,
    val videoFps: Double,
    val videoMinFrames: Int,
    val videoMaxFrames: Int,
) {
    /** Sides of a picture are multiples of it. */
    val factor: Int get() = patchSize * mergeSize

    /** Floats of a patch. */
    val patchLength: Int get() = CHANNELS * temporalPatchSize * patchSize * patchSize

    companion object {
        const val CHANNELS = 3
    }
}

internal data class DecoderConfig(
    val layers: Int,
    val hiddenSize: Int,
    val heads: Int,
    val kvHeads: Int,
    val headDim: Int,
    val vocabSize: Int,
    val ropeTheta: Double,
    val mropeSection: List<Int>,
    val maxContext: Int,
)

internal data class PositionConfig(val idsPerSecond: Int, val secondsPerChunk: Double)

internal data class TalkerConfig(
    val decoder: DecoderConfig,
    val inputSize: Int,
    val textEos: Int,
    val textPad: Int,
    val codecBos: Int,
    val codecPad: Int,
    val codecMask: Int,
    val codecEos: List<Int>,
    val maxCodes: Int,
    val sampling: Sampling,
)

internal data class DitConfig(
    val hiddenSize: Int,
    val layers: Int,
    val heads: Int,
    val headDim: Int,
    val lookBackLayers: Int,
    val blockFrames: Int,
    val framesPerCode: Int,
    val melDim: Int,
    val codes: Int,
    val rotaryFrequencies: FloatArray,
) {
    val codesPerBlock: Int get() = blockFrames / framesPerCode
}

internal data class VocoderConfig(
    val sampleRate: Int,
    val samplesPerFrame: Int,
    val contextFrames: Int,
    val stageRates: List<Int>,
    val margins: List<Int>,
)

internal enum class Solver { EULER, MIDPOINT, RK4 }

internal data class SolverPreset(
    val solver: Solver,
    val steps: Int,
    val sway: Double,
    val guidance: Double,
    val guided: Int,
    val summary: String,
)

internal data class SpeechConfig(
    val talker: TalkerConfig,
    val dit: DitConfig,
    val vocoder: VocoderConfig,
    val presets: Map<String, SolverPreset>,
    val defaultPreset: String,
    val voices: Map<String, Int>,
    val defaultVoice: String,
) {
    /** Codes per second of speech. */
    val codesPerSecond: Double
        get() = vocoder.sampleRate.toDouble() / vocoder.samplesPerFrame / dit.framesPerCode
}

internal data class ModelConfig(
    val decoder: DecoderConfig,
    val tokens: SpecialTokens,
    val positions: PositionConfig,
    val audio: AudioConfig?,
    val vision: VisionConfig?,
    val speech: SpeechConfig?,
    val systemPrompt: String,
)

internal fun modelConfig(fields: Fields): ModelConfig {
    val thinker = fields.record("thinker") {
        Triple(it.record("decoder", ::decoder), it.record("tokens", ::tokens), it.record("positions", ::positions))
    }
    return ModelConfig(
        thinker.first,
        thinker.second,
        thinker.third,
        fields.optionalRecord("audio", ::audio),
        fields.optionalRecord("vision", ::vision),
        fields.optionalRecord("speech", ::speech),
        fields.string("system_prompt"),
    )
}

private fun decoder(f: Fields) = DecoderConfig(
    f.int("layers"), f.int("hidden_size"), f.int("heads"), f.int("kv_heads"), f.int("head_dim"), f.int("vocab_size"),
    f.double("rope_theta"), f.ints("mrope_section"), f.int("max_context"),
)

private fun tokens(f: Fields) = SpecialTokens(
    f.int("audio"), f.int("image"), f.int("video"), f.int("audio_bos"), f.int("audio_eos"), f.int("vision_bos"),
    f.int("vision_eos"), f.ints("eos"),
)

private fun positions(f: Fields) = PositionConfig(f.int("ids_per_second"), f.double("seconds_per_chunk"))

private fun audio(f: Fields) = AudioConfig(
    f.int("sample_rate"), f.int("n_fft"), f.int("hop_length"), f.int("n_mels"), f.int("padded_samples"),
    f.int("block_frames"), f.string("padding_side", "right") == "left",
)

private fun vision(f: Fields) = VisionConfig(
    f.int("patch_size"), f.int("temporal_patch_size"), f.int("merge_size"), f.int("window_size"), f.int("head_dim"),
    f.double("rope_theta"), f.doubles("image_mean"), f.doubles("image_std"),
    f.int("image_min_pixels")..f.int("image_max_pixels"), f.int("video_min_pixels")..f.int("video_max_pixels"),
    f.double("video_fps"), f.int("video_min_frames"), f.int("video_max_frames"),
)

private fun speech(f: Fields) = SpeechConfig(
    f.record("talker", ::talker),
    f.record("dit", ::dit),
    f.record("vocoder") {
        VocoderConfig(
            it.int("sample_rate"), it.int("samples_per_frame"), it.int("context_frames"), it.ints("stage_rates"),
            it.ints("margins"),
        )
    },
    f.records("presets", ::preset),
    f.string("default_preset"),
    f.read("voices") { value -> (value as? Map<*, *>)?.entries?.associate { it.key as String to (it.value as Long).toInt() } },
    f.string("default_voice"),
)

private fun talker(f: Fields) = TalkerConfig(
    f.record("decoder", ::decoder), f.int("input_size"), f.int("text_eos"), f.int("text_pad"), f.int("codec_bos"),
    f.int("codec_pad"), f.int("codec_mask"), f.ints("codec_eos"), f.int("max_codes"),
    Sampling(f.double("temperature"), f.int("top_k"), f.double("top_p"), f.double("repetition_penalty")),
)

private fun dit(f: Fields) = DitConfig(
    f.int("hidden_size"), f.int("layers"), f.int("heads"), f.int("head_dim"), f.int("look_back_layers"),
    f.int("block_frames"), f.int("frames_per_code"), f.int("mel_dim"), f.int("codes"),
    f.doubles("rotary_frequencies").map { it.toFloat() }.toFloatArray(),
)

private fun preset(f: Fields) = SolverPreset(
    f.read("solver") { value -> Solver.values().find { it.name.lowercase() == value } },
    f.int("steps"), f.double("sway"), f.double("guidance"), f.int("guided"), f.string("summary"),
)
