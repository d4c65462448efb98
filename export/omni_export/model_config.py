"""Build the configuration for the runtime from the files of the checkpoint."""

from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
from msgspec import Struct

from omni_export.source import (
    INVALID,
    DecoderSource,
    SourceConfig,
    SpeechSource,
    VisionSource,
    eos_ids,
    read_json,
)
from omni_export.speech import Voice, vocoder_geometry
from omni_runtime.arrays import FloatArray
from omni_runtime.bundle.config import (
    AudioConfig,
    DecoderConfig,
    DitConfig,
    ModelConfig,
    PositionConfig,
    SolverPreset,
    SpecialTokens,
    SpeechConfig,
    TalkerConfig,
    ThinkerConfig,
    VisionConfig,
)
from omni_runtime.errors import OmniError

SYSTEM_PROMPT = (
    "You are Qwen, a virtual human developed by the Qwen Team, Alibaba Group, capable of "
    "perceiving auditory and visual inputs, as well as generating text and speech."
)
"""The model was trained to speak with this prompt; the reference's processor checks for it."""

VISION_ROPE_THETA = 10000.0  # fixed in the reference, not part of the configuration

# From Qwen2_5OmniProcessorKwargs and Qwen2VLVideoProcessor of transformers; not in any file.
VIDEO_MIN_PIXELS = 128 * 28 * 28
VIDEO_MAX_PIXELS = 768 * 28 * 28
VIDEO_FPS = 2.0
VIDEO_MIN_FRAMES = 4
VIDEO_MAX_FRAMES = 768

# Defaults of Qwen2_5OmniForConditionalGeneration.generate. A checkpoint can override them in
# generation_config.json, with the names of that function's arguments (talker_temperature ...).
TALKER_SAMPLING = {"temperature": 0.9, "top_k": 40, "top_p": 0.8, "repetition_penalty": 1.05}
TALKER_MAX_CODES = 4096

# Guidance can be applied to all, the first few or no evaluations of any solver. Among combinations
# of equal cost these have the lowest error on the small trained checkpoint (BENCHMARKS.md).
PRESETS = {
    "faithful": SolverPreset(
        solver="rk4",
        steps=9,
        sway=-1.0,
        guidance=0.5,
        guided=36,
        summary="the reference",
    ),
    "balanced": SolverPreset(
        solver="midpoint", steps=4, sway=-1.0, guidance=0.5, guided=8, summary="second order"
    ),
    "fast": SolverPreset(
        solver="euler", steps=5, sway=-1.0, guidance=0.0, guided=0, summary="first order, unguided"
    ),
}
DEFAULT_PRESET = "balanced"

GENERATION, PROCESSOR = "generation_config.json", "processor_config.json"
IMAGE_KEYS = (
    *("image_mean", "image_std", "patch_size", "temporal_patch_size", "merge_size"),
    *("size", "min_pixels", "max_pixels"),
)

Record = TypeVar("Record", bound=Struct)


class Preprocessor(Struct, frozen=True):
    """The keys of preprocessor_config.json that the export needs."""

    sampling_rate: int
    feature_size: int
    hop_length: int
    n_fft: int
    n_samples: int
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]
    patch_size: int
    temporal_patch_size: int
    merge_size: int
    min_pixels: int
    max_pixels: int
    padding_side: Literal["right", "left"] = "right"  # the default of the reference
    # The reference ignores the file for video. A checkpoint trained on other sizes has these keys.
    video_min_pixels: int = VIDEO_MIN_PIXELS
    video_max_pixels: int = VIDEO_MAX_PIXELS


def read_preprocessor(folder: Path) -> Preprocessor:
    """Read the file, in the format of transformers 4 or 5.

    Raises OmniError if it is missing or lacks a key.
    """
    name = "preprocessor_config.json"
    if not (folder / name).is_file() and (folder / PROCESSOR).is_file():
        name, raw = PROCESSOR, _merged(read_json(folder / PROCESSOR))
    else:
        raw = read_json(folder / name)
    size = raw.get("size")
    if isinstance(size, dict):  # the format of newer releases
        raw.setdefault("min_pixels", size.get("shortest_edge", size.get("min_pixels")))
        raw.setdefault("max_pixels", size.get("longest_edge", size.get("max_pixels")))
    return _convert(raw, Preprocessor, name)


def _merged(processor: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of audio and images, which transformers 5 keeps in two sections.

    It repeats keys of each in the other, where they have no effect.
    """
    audio, images = (processor.get(part) for part in ("feature_extractor", "image_processor"))
    if not isinstance(audio, dict) or not isinstance(images, dict):
        raise OmniError(f"{PROCESSOR} lacks feature_extractor or image_processor", fix=INVALID)
    pixels = {key: images[key] for key in IMAGE_KEYS if key in images}
    return {key: value for key, value in audio.items() if key not in IMAGE_KEYS} | pixels


def read_generation(folder: Path) -> dict[str, Any]:
    """Read generation_config.json; {} if there is none. Raises OmniError if it is not JSON."""
    path = folder / GENERATION
    return read_json(path) if path.is_file() else {}


def model_config(
    folder: Path,
    source: SourceConfig,
    voices: dict[str, Voice],
    rotary_frequencies: FloatArray | None,
    talker_generation: dict[str, Any],
) -> ModelConfig:
    """Build the configuration. `rotary_frequencies` are those of the DiT; None without speech.

    `talker_generation`: the generation_config.json of the checkpoint with the Talker.
    """
    preprocessor, generation = read_preprocessor(folder), read_generation(folder)
    speech = None
    if source.speech is not None and rotary_frequencies is not None:
        sampling = _talker_sampling(talker_generation)
        speech = _speech(source.speech, voices, rotary_frequencies, sampling)
    return ModelConfig(
        thinker=ThinkerConfig(
            decoder=decoder_config(source.text),
            tokens=_tokens(source, generation),
            positions=PositionConfig(
                ids_per_second=source.thinker.position_id_per_seconds,
                seconds_per_chunk=source.thinker.seconds_per_chunk,
            ),
        ),
        audio=AudioConfig(
            sample_rate=preprocessor.sampling_rate,
            n_fft=preprocessor.n_fft,
            hop_length=preprocessor.hop_length,
            n_mels=preprocessor.feature_size,
            padded_samples=preprocessor.n_samples,
            block_frames=2 * source.audio.n_window,
            padding_side=preprocessor.padding_side,
        ),
        vision=_vision(source.vision, preprocessor),
        speech=speech,
        system_prompt=SYSTEM_PROMPT,
    )


def decoder_config(source: DecoderSource) -> DecoderConfig:
    return DecoderConfig(
        layers=source.num_hidden_layers,
        hidden_size=source.hidden_size,
        heads=source.num_attention_heads,
        kv_heads=source.num_key_value_heads,
        head_dim=source.head_dim,
        vocab_size=source.vocab_size,
        rope_theta=source.rope_theta,
        mrope_section=source.mrope_section,
        max_context=source.max_position_embeddings,
    )


def _tokens(source: SourceConfig, generation: dict[str, Any]) -> SpecialTokens:
    ids = source.thinker
    return SpecialTokens(
        audio=ids.audio_token_index,
        image=ids.image_token_index,
        video=ids.video_token_index,
        audio_bos=ids.audio_start_token_id,
        audio_eos=ids.audio_end_token_id,
        vision_bos=ids.vision_start_token_id,
        vision_eos=ids.vision_end_token_id,
        eos=_eos(source, generation),
    )


def _eos(source: SourceConfig, generation: dict[str, Any]) -> tuple[int, ...]:
    """Return the ids that end a reply, from the Thinker's section and generation_config.json.

    The reference reads only the former; published checkpoints have both.
    """
    found = {*source.eos, *eos_ids(generation, GENERATION)}
    if not found:
        raise OmniError("config.json: thinker_config has no eos_token_id", fix=INVALID)
    return tuple(sorted(found))


def _vision(source: VisionSource, preprocessor: Preprocessor) -> VisionConfig:
    return VisionConfig(
        patch_size=source.patch_size,
        temporal_patch_size=source.temporal_patch_size,
        merge_size=source.spatial_merge_size,
        window_size=source.window_size,
        head_dim=source.hidden_size // source.num_heads,
        rope_theta=VISION_ROPE_THETA,
        image_mean=preprocessor.image_mean,
        image_std=preprocessor.image_std,
        image_min_pixels=preprocessor.min_pixels,
        image_max_pixels=preprocessor.max_pixels,
        video_min_pixels=preprocessor.video_min_pixels,
        video_max_pixels=preprocessor.video_max_pixels,
        video_fps=VIDEO_FPS,
        video_min_frames=VIDEO_MIN_FRAMES,
        video_max_frames=VIDEO_MAX_FRAMES,
    )


def _speech(
    source: SpeechSource,
    voices: dict[str, Voice],
    rotary_frequencies: FloatArray,
    sampling: dict[str, float],
) -> SpeechConfig:
    ids, dit = source.talker_ids, source.dit
    return SpeechConfig(
        talker=TalkerConfig(
            decoder=decoder_config(source.talker),
            input_size=ids.embedding_size,
            text_eos=ids.tts_text_end_token_id,
            text_pad=ids.tts_text_pad_token_id,
            codec_bos=ids.tts_codec_start_token_id,
            codec_pad=ids.tts_codec_pad_token_id,
            codec_mask=ids.tts_codec_mask_token_id,
            codec_eos=(ids.tts_codec_pad_token_id, ids.tts_codec_end_token_id),
            max_codes=TALKER_MAX_CODES,
            temperature=sampling["temperature"],
            top_k=int(sampling["top_k"]),
            top_p=sampling["top_p"],
            repetition_penalty=sampling["repetition_penalty"],
        ),
        dit=DitConfig(
            hidden_size=dit.hidden_size,
            layers=dit.num_hidden_layers,
            heads=dit.num_attention_heads,
            head_dim=dit.head_dim,
            look_back_layers=len(dit.look_backward_layers),
            block_frames=dit.block_size,
            frames_per_code=dit.repeats,
            mel_dim=dit.mel_dim,
            codes=dit.num_embeds + 1,
            rotary_frequencies=tuple(float(value) for value in rotary_frequencies),
        ),
        vocoder=vocoder_geometry(source.vocoder),
        presets=PRESETS,
        default_preset=DEFAULT_PRESET,
        voices={name: voice.text_bos for name, voice in voices.items()},
        default_voice=next(iter(voices)),
    )


def _talker_sampling(generation: dict[str, Any]) -> dict[str, float]:
    """Return the sampling settings of the Talker: those of the checkpoint, or the reference's."""
    names = TALKER_SAMPLING.items()
    found = {name: generation.get(f"talker_{name}", value) for name, value in names}
    return _convert(found, dict[str, float], GENERATION)


def _convert(raw: object, kind: type[Record] | Any, where: str) -> Any:
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        raise OmniError(f"{where}: {error}", fix=INVALID) from None
