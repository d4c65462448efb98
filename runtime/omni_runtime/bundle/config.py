"""What the runtime has to know of a model, as frozen records that the export writes.

Nothing here has a default: an absent key is an error at the border, so no code further in ever
guesses a dimension, a token id or a frequency. All values come from the checkpoint's own files.
"""

from msgspec import Struct


class _Record(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Common settings: immutable, keyword only, unknown keys refused."""


class SpecialTokens(_Record, frozen=True):
    """Ids of the tokens that stand for media in a prompt, and of those that end a reply."""

    audio: int
    image: int
    video: int
    audio_bos: int
    audio_eos: int
    vision_bos: int
    vision_eos: int
    eos: tuple[int, ...]


class AudioConfig(_Record, frozen=True):
    """Log-mel front end and the block structure of the audio encoder.

    `padded_samples` is the length to which the reference pads a clip with zeros before the
    short-time Fourier transform; `block_frames` mel frames are one independent encoder block.
    """

    sample_rate: int
    n_fft: int
    hop_length: int
    n_mels: int
    padded_samples: int
    block_frames: int


class VisionConfig(_Record, frozen=True):
    """Pixel front end and the geometry of the vision encoder. Sizes are in pixels."""

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

    `mrope_section` counts the rotary frequencies that follow time, height and width; they add up
    to `head_dim // 2`. `max_context` is the number of positions the checkpoint was made for.
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
    """How fast position ids run: ids a second of media, and the interleaving of video and sound."""

    ids_per_second: int
    seconds_per_chunk: float


class ThinkerConfig(_Record, frozen=True):
    """The part that reads, listens, looks and writes text."""

    decoder: DecoderConfig
    tokens: SpecialTokens
    positions: PositionConfig


class TalkerConfig(_Record, frozen=True):
    """The part that turns the Thinker's states into codec codes.

    `input_size` is the width of the Thinker rows and codec embeddings it is fed with; ids named
    `text_*` index the Thinker's embedding table, ids named `codec_*` the Talker's. `codec_mask`
    stands for the prompt where the reference counts repetitions.
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
    """The diffusion transformer from codec codes to a mel spectrogram.

    `block_frames` mel frames attend to each other; `look_back_layers` is how many layers also see
    the block before; `codes` is the number of rows of the code table (row 0 is the null code of
    guidance); a code is `frames_per_code` mel frames.
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
    """BigVGAN: mel to waveform.

    `samples_per_frame` samples of `sample_rate` sound come from one mel frame. `context_frames`
    mel frames on each side make a chunk exact. Stage i multiplies the rate by `stage_rates[i]`;
    of its output, `margins[i]` samples on each side are needed by the stages that follow.
    """

    sample_rate: int
    samples_per_frame: int
    context_frames: int
    stage_rates: tuple[int, ...]
    margins: tuple[int, ...]


class SolverPreset(_Record, frozen=True):
    """One way to integrate the DiT's flow: solver, time grid, guidance.

    `steps` intervals of [0, 1], stretched by `sway` (0: even), are crossed with the solver named
    "euler", "midpoint", "ab2" or "rk4"; `guidance` is the strength of classifier-free guidance,
    which doubles the work of an evaluation, `guided` how many evaluations have it, the first ones.
    """

    solver: str
    steps: int
    sway: float
    guidance: float
    guided: int
    summary: str


class SpeechConfig(_Record, frozen=True):
    """Everything behind the Thinker. Absent in a bundle of a checkpoint that does not speak.

    `voices` gives for each voice the id of its text bos token in the Thinker's embedding table.
    """

    talker: TalkerConfig
    dit: DitConfig
    vocoder: VocoderConfig
    presets: dict[str, SolverPreset]
    default_preset: str
    voices: dict[str, int]
    default_voice: str


class ModelConfig(_Record, frozen=True):
    """The whole model, as the runtime sees it. `audio`, `vision` and `speech` may be absent."""

    thinker: ThinkerConfig
    audio: AudioConfig | None
    vision: VisionConfig | None
    speech: SpeechConfig | None
    system_prompt: str
