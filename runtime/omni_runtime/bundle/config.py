"""Model configuration: frozen records that the export writes and the runtime reads.

No field has a default: a missing key is an error when the manifest is read, so no later code
guesses a dimension, a token id or a frequency. All values come from the files of the checkpoint.
"""

from typing import Literal

from msgspec import Struct


class _Record(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base class: immutable, keyword-only, unknown keys are errors."""


class SpecialTokens(_Record, frozen=True):
    """Ids of media tokens, their markers, and the tokens that end a reply."""

    audio: int
    image: int
    video: int
    audio_bos: int
    audio_eos: int
    vision_bos: int
    vision_eos: int
    eos: tuple[int, ...]


class AudioConfig(_Record, frozen=True, omit_defaults=True):
    """Log-mel parameters and the block size of the audio encoder.

    The reference pads a clip with zeros to `padded_samples`, on `padding_side`, before the
    short-time Fourier transform. `block_frames` mel frames are one independent encoder block.
    """

    sample_rate: int
    n_fft: int
    hop_length: int
    n_mels: int
    padded_samples: int
    block_frames: int
    padding_side: Literal["right", "left"] = "right"


class VisionConfig(_Record, frozen=True):
    """Image preprocessing and geometry of the vision encoder. Sizes are in pixels."""

    patch_size: int
    temporal_patch_size: int
    merge_size: int
    window_size: int
    head_dim: int
    rope_theta: float
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]
    image_min_pixels: int
    image_max_pixels: int
    video_min_pixels: int
    video_max_pixels: int
    video_fps: float
    video_min_frames: int
    video_max_frames: int


class DecoderConfig(_Record, frozen=True):
    """Shape of a Qwen2 decoder with grouped-query attention and multimodal rotary positions.

    `mrope_section` is the number of rotary frequencies for time, height and width; their sum is
    `head_dim // 2`. `max_context` is the context length of the checkpoint, in tokens.
    """

    layers: int
    hidden_size: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    rope_theta: float
    mrope_section: tuple[int, int, int]
    max_context: int


class PositionConfig(_Record, frozen=True):
    """Position ids per second of media, and the chunk length of interleaved video and audio."""

    ids_per_second: int
    seconds_per_chunk: float


class ThinkerConfig(_Record, frozen=True):
    """The Thinker: the decoder that generates text."""

    decoder: DecoderConfig
    tokens: SpecialTokens
    positions: PositionConfig


class TalkerConfig(_Record, frozen=True):
    """The Talker: the decoder that generates codec codes from the Thinker's states.

    `input_size` is the width of the Thinker's states and of the codec embeddings. Ids named
    `text_*` index the Thinker's embedding table, ids named `codec_*` the Talker's. The repetition
    penalty counts prompt tokens as `codec_mask`, as in the reference.
    """

    decoder: DecoderConfig
    input_size: int
    text_eos: int
    text_pad: int
    codec_bos: int
    codec_pad: int
    codec_mask: int
    codec_eos: tuple[int, ...]
    max_codes: int
    temperature: float
    top_k: int
    top_p: float
    repetition_penalty: float


class DitConfig(_Record, frozen=True):
    """The diffusion transformer (DiT) from codec codes to a mel spectrogram.

    Mel frames attend to their block of `block_frames`. `look_back_layers` layers also attend to the
    previous block. `codes` is the number of rows of the code table; row 0 is the null code of
    guidance. A code lasts `frames_per_code` mel frames.
    """

    hidden_size: int
    layers: int
    heads: int
    head_dim: int
    look_back_layers: int
    block_frames: int
    frames_per_code: int
    mel_dim: int
    codes: int
    rotary_frequencies: tuple[float, ...]


class VocoderConfig(_Record, frozen=True):
    """The BigVGAN vocoder: mel to waveform.

    One mel frame gives `samples_per_frame` samples at `sample_rate` Hz. A chunk is exact with
    `context_frames` mel frames on each side. Stage i upsamples by `stage_rates[i]`; later stages
    need `margins[i]` samples of its output on each side.
    """

    sample_rate: int
    samples_per_frame: int
    context_frames: int
    stage_rates: tuple[int, ...]
    margins: tuple[int, ...]


class SolverPreset(_Record, frozen=True):
    """Settings to integrate the DiT's flow: solver, time grid, guidance.

    `solver` is "euler", "midpoint" or "rk4". It takes `steps` steps over [0, 1], warped by
    `sway` (0: uniform). `guidance` is the strength of classifier-free guidance, which doubles the
    work of an evaluation. Only the first `guided` evaluations use it.
    """

    solver: Literal["euler", "midpoint", "rk4"]
    steps: int
    sway: float
    guidance: float
    guided: int
    summary: str


class SpeechConfig(_Record, frozen=True):
    """Speech synthesis. Absent if the checkpoint generates no speech.

    `voices` maps each voice to its text bos token, an id of the Thinker's embedding table.
    """

    talker: TalkerConfig
    dit: DitConfig
    vocoder: VocoderConfig
    presets: dict[str, SolverPreset]
    default_preset: str
    voices: dict[str, int]
    default_voice: str


class ModelConfig(_Record, frozen=True):
    """Configuration of a model. `audio`, `vision` and `speech` may be absent."""

    thinker: ThinkerConfig
    audio: AudioConfig | None
    vision: VisionConfig | None
    speech: SpeechConfig | None
    system_prompt: str
