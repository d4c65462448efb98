"""Read the configuration files of a checkpoint, strictly.

Each record lists the keys that the export needs. A missing key or a wrong type is an error that
names the key. There are no defaults, since a wrong default would give a bundle that loads but
replies nonsense. A Thinker that was saved alone has its section as the whole file. Both formats of
the rotary settings are read: `rope_scaling` with `rope_theta` (published checkpoints) and
`rope_parameters` (transformers 5).
"""

import json
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from omni_export import kinds
from omni_runtime.errors import OmniError, UsageError

INVALID = "use the file of the published checkpoint, or the one that was saved with these weights"

Record = TypeVar("Record", bound=Struct)


class AudioSource(Struct, frozen=True):
    """`thinker_config.audio_config`."""

    num_mel_bins: int
    d_model: int
    encoder_layers: int
    encoder_attention_heads: int
    encoder_ffn_dim: int
    activation_function: str
    n_window: int
    output_dim: int


class VisionSource(Struct, frozen=True):
    """`thinker_config.vision_config`."""

    depth: int
    hidden_size: int
    hidden_act: str
    intermediate_size: int
    num_heads: int
    in_channels: int
    patch_size: int
    spatial_merge_size: int
    temporal_patch_size: int
    window_size: int
    out_hidden_size: int
    fullatt_block_indexes: list[int]


class DecoderSource(Struct, frozen=True):
    """`thinker_config.text_config`, or the decoder keys of `talker_config`."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    hidden_act: str
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    mrope_section: tuple[int, int, int]
    rope_type: str
    use_sliding_window: bool


class ThinkerIds(Struct, frozen=True):
    """Token ids and time scale of `thinker_config`."""

    audio_token_index: int
    image_token_index: int
    video_token_index: int
    audio_start_token_id: int
    audio_end_token_id: int
    vision_start_token_id: int
    vision_end_token_id: int
    position_id_per_seconds: int
    seconds_per_chunk: float


class TalkerIds(Struct, frozen=True):
    """Token ids of `talker_config`."""

    embedding_size: int
    tts_text_end_token_id: int
    tts_text_pad_token_id: int
    tts_codec_start_token_id: int
    tts_codec_end_token_id: int
    tts_codec_pad_token_id: int
    tts_codec_mask_token_id: int


class DitSource(Struct, frozen=True):
    """`token2wav_config.dit_config`."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    ff_mult: int
    emb_dim: int
    head_dim: int
    block_size: int
    look_ahead_layers: list[int]
    look_backward_layers: list[int]
    repeats: int
    num_embeds: int
    mel_dim: int
    enc_emb_dim: int
    enc_dim: int

    @property
    def input_width(self) -> int:
        """Columns of the input projection: noisy mel, voice embedding, code, speaker vector."""
        return self.mel_dim + self.enc_dim + self.emb_dim + self.enc_emb_dim


class VocoderSource(Struct, frozen=True):
    """`token2wav_config.bigvgan_config`."""

    mel_dim: int
    upsample_initial_channel: int
    resblock_kernel_sizes: list[int]
    resblock_dilation_sizes: list[list[int]]
    upsample_rates: list[int]
    upsample_kernel_sizes: list[int]


class SpeechSource(Struct, frozen=True):
    """All parts after the Thinker. `dit_raw` configures the voice encoder of transformers."""

    talker: DecoderSource
    talker_ids: TalkerIds
    dit: DitSource
    dit_raw: dict[str, Any]
    vocoder: VocoderSource


class SourceConfig(Struct, frozen=True):
    """The keys of config.json that the export needs.

    `eos` are the ids in the Thinker's section that end a reply. `speech` is None for a Thinker that
    was saved alone, and where speech is switched off or left out.
    """

    audio: AudioSource
    vision: VisionSource
    text: DecoderSource
    thinker: ThinkerIds
    eos: tuple[int, ...]
    speech: SpeechSource | None


def read_bytes(path: Path) -> bytes:
    """Read a file of a checkpoint. Raises OmniError if it is missing."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise kinds.missing(path) from None


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises OmniError if the file is missing or is not a JSON object."""
    try:
        found = json.loads(read_bytes(path).decode("utf-8"))
    except (ValueError, OSError) as error:
        raise OmniError(f"{path} cannot be read as JSON: {error}", fix=INVALID) from None
    if not isinstance(found, dict):
        raise OmniError(f"{path} is not a JSON object", fix=INVALID)
    return found


def read_config(
    folder: Path, *, speech_from: Path | None = None, mute: bool = False
) -> SourceConfig:
    """Read config.json of the checkpoint in `folder`, and that of the checkpoint with its speech.

    `speech_from`: take the Talker and all after it from that checkpoint. `mute`: leave them out.

    Raises:
        UsageError: another kind of model, a setting that the graphs do not implement, or a
            `speech_from` that belongs to another size of model.
        OmniError: the file is missing or not JSON, or a key is missing or has the wrong type.
    """
    section = _Section(read_json(folder / "config.json"), "config.json")
    kinds.require_supported(section.raw, folder)
    complete = section.raw["model_type"] == kinds.COMPLETE
    thinker = section.inside("thinker_config") if complete else section
    speech = None
    if speech_from is not None:
        speech = _speech_of(speech_from)
    elif complete and not mute and section.flag("enable_audio_output"):
        speech = _read_speech(section)
    config = SourceConfig(
        audio=thinker.inside("audio_config").read(AudioSource),
        vision=thinker.inside("vision_config").read(VisionSource),
        text=thinker.inside("text_config").decoder(),
        thinker=thinker.read(ThinkerIds),
        eos=eos_ids(thinker.raw, thinker.path),
        speech=speech,
    )
    _check_supported(config)
    return config


def _speech_of(folder: Path) -> SpeechSource:
    section = _Section(read_json(folder / "config.json"), "config.json of --speech-from")
    kinds.require_supported(section.raw, folder)
    if section.raw["model_type"] != kinds.COMPLETE:
        raise UsageError(
            f"{folder} is {kinds.name_of(section.raw)}, without speech",
            fix="give --speech-from a complete checkpoint, for example the published one",
        )
    return _read_speech(section)


def eos_ids(raw: dict[str, Any], where: str) -> tuple[int, ...]:
    """Return `eos_token_id` of a section: one id, several, or none. Raises OmniError."""
    found = raw.get("eos_token_id")
    listed = found if isinstance(found, list) else [] if found is None else [found]
    try:
        return msgspec.convert(listed, tuple[int, ...])
    except msgspec.ValidationError as error:
        raise OmniError(f"{where}: eos_token_id: {error}", fix=INVALID) from None


def _read_speech(section: "_Section") -> SpeechSource:
    talker = section.inside("talker_config")
    token2wav = section.inside("token2wav_config")
    return SpeechSource(
        talker=talker.decoder(),
        talker_ids=talker.read(TalkerIds),
        dit=token2wav.inside("dit_config").read(DitSource),
        dit_raw=token2wav.inside("dit_config").raw,
        vocoder=token2wav.inside("bigvgan_config").read(VocoderSource),
    )


class _Section:
    """One object of config.json with its path, which errors contain."""

    def __init__(self, raw: dict[str, Any], path: str) -> None:
        self.raw = raw
        self.path = path

    def inside(self, key: str) -> "_Section":
        child = self.raw.get(key)
        if not isinstance(child, dict):
            raise self._error(f"has no section {key!r}")
        return _Section(child, f"{self.path}: {key}")

    def flag(self, key: str) -> bool:
        return bool(self.raw.get(key, True))  # the default of the reference

    def read(self, kind: type[Record]) -> Record:
        try:
            return msgspec.convert(self.raw, kind)
        except msgspec.ValidationError as error:
            raise self._error(str(error)) from None

    def decoder(self) -> DecoderSource:
        """Read the decoder keys, with the rotary settings of either format merged in."""
        flat = dict(self.raw)
        for key in ("rope_scaling", "rope_parameters"):
            rope = self.raw.get(key)
            if isinstance(rope, dict):
                flat.update(rope)
                flat["rope_type"] = rope.get("rope_type", rope.get("type"))
        if flat.get("rope_type") == "mrope":  # an older name
            flat["rope_type"] = "default"
        if "head_dim" not in flat and "hidden_size" in flat and "num_attention_heads" in flat:
            flat["head_dim"] = flat["hidden_size"] // flat["num_attention_heads"]
        return _Section(flat, self.path).read(DecoderSource)

    def _error(self, what: str) -> OmniError:
        return OmniError(f"{self.path}: {what}", fix=INVALID)


def _check_supported(config: SourceConfig) -> None:
    """Raise UsageError for settings that the graphs do not implement."""
    wanted: list[tuple[str, object, object]] = [
        ("audio_config.activation_function", config.audio.activation_function, "gelu"),
        ("vision_config.hidden_act", config.vision.hidden_act, "silu"),
        # A token is made from four frames, which must be in the same block.
        ("audio_config.n_window % 2", config.audio.n_window % 2, 0),
    ]
    decoders = {"text_config": config.text}
    if config.speech is not None:
        decoders["talker_config"] = config.speech.talker
        width = config.speech.talker_ids.embedding_size
        if width != config.text.hidden_size:
            raise UsageError(
                f"the Talker reads states of width {width}, but the Thinker has "
                f"{config.text.hidden_size}: they belong to models of different size",
                fix="give --speech-from the checkpoint that this one was trained from",
            )
    for name, decoder in decoders.items():
        wanted += [
            (f"{name}.hidden_act", decoder.hidden_act, "silu"),
            (f"{name}.rope_type", decoder.rope_type, "default"),
            (f"{name}.use_sliding_window", decoder.use_sliding_window, False),
            (f"{name}.head_dim % 16", decoder.head_dim % 16, 0),
            (f"{name}.sum(mrope_section)", sum(decoder.mrope_section), decoder.head_dim // 2),
        ]
    for name, found, supported in wanted:
        if found != supported:
            raise UsageError(
                f"config.json: {name} is {found!r}, but the graphs implement only {supported!r}",
                fix="use a checkpoint of the published architecture",
            )
