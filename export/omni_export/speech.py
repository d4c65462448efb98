"""Precompute the constants of speech: voices, code table, time modulation, receptive fields.

The reference evaluates these in every step of the flow. They do not depend on the noisy mel frames,
so the export computes them once in float32, and the graphs take them as inputs.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from omni_export.checkpoint import Checkpoint
from omni_export.source import DitSource, SpeechSource, VocoderSource
from omni_runtime.arrays import FloatArray
from omni_runtime.bundle.config import SolverPreset, VocoderConfig
from omni_runtime.bundle.contracts import FINAL_MODULATION_ROWS, MODULATION_ROWS
from omni_runtime.engine.solver import evaluation_times
from omni_runtime.errors import OmniError

DIT = "token2wav.code2wav_dit_model."
PROJECTION = DIT + "input_embed.proj."
VOICE_ENCODER = DIT + "input_embed.spk_encoder."
MEL_COLUMNS = "mel columns"
"""Name of the part of the input projection that stays in the DiT graph."""

TIME_FREQUENCIES = 256  # fixed in the reference, like its scale of 1000
ACTIVATION_RADIUS = 6  # radius of an anti-aliased activation in samples
CONV_POST_RADIUS = 3
CONV_PRE_RADIUS = 3
SAMPLE_RATE = 24000  # only in the documentation of the reference

THINKER_TABLE = "thinker.model.embed_tokens.weight"
VOICE_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")  # used as a file name on all systems
MIN_FRAMES = 5  # minimum for the reflect padding of the voice encoder's widest dilation
VOICES = "spk_dict.pt"
VOICE_FIX = "get spk_dict.pt from the repository of the checkpoint"
SPEECH_FIX = "take speech from another checkpoint (--speech-from), or leave it out (--mute)"
ROTARY = DIT + "rotary_embed.inv_freq"
ROTARY_THETA = 10000.0  # the default of the reference


@dataclass(frozen=True)
class Voice:
    """`text_bos`: first text token of the voice. `condition`: float32 (2, hidden) for the DiT.

    Row 0 is the contribution of voice and speaker vector to each frame, row 1 that of the null
    branch of guidance. `mel`: the reference mel of the voice, float32 (frames, mel_dim).
    """

    text_bos: int
    condition: FloatArray
    mel: FloatArray


class InputProjection:
    """The columns of the DiT's input projection that multiply constants."""

    @staticmethod
    def shapes(config: DitSource) -> dict[str, tuple[int, ...]]:
        """Return the tensors that it reads."""
        shape = (config.hidden_size, config.input_width)
        return {PROJECTION + "weight": shape, PROJECTION + "bias": shape[:1]}

    def __init__(self, checkpoint: Checkpoint, config: DitSource) -> None:
        (matrix, shape), (bias, width) = self.shapes(config).items()
        weight = checkpoint.claim(matrix, shape, "constant columns").read()
        ends = np.cumsum([config.mel_dim, config.enc_dim, config.emb_dim])
        _, self.voice, self.code, self.speaker = np.split(weight, ends, axis=1)
        self.bias = checkpoint.claim(bias, width).read()


def require_speech(checkpoint: Checkpoint, folder: Path) -> None:
    """Raise OmniError if the checkpoint has only the Thinker's weights."""
    if not checkpoint.shapes("talker."):
        raise OmniError(
            f"{folder} has the weights of the Thinker alone, but its config.json has speech",
            fix=SPEECH_FIX,
        )


def read_voices(
    path: Path, checkpoint: Checkpoint, speech: SpeechSource, projection: InputProjection
) -> dict[str, Voice]:
    """Read the voices of `spk_dict.pt` and encode them with the ECAPA network. Raises OmniError."""
    try:
        entries: Any = torch.load(path, weights_only=True, map_location="cpu")
    except FileNotFoundError:
        raise OmniError(
            f"the checkpoint has no {path.name}, which has the voices",
            fix=f"{VOICE_FIX}; or {SPEECH_FIX}",
        ) from None
    except Exception as error:  # pickle may raise any exception
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise OmniError(f"{path} cannot be read safely: {reason}", fix=VOICE_FIX) from None
    if not isinstance(entries, dict):
        raise OmniError(f"{path} contains no voice", fix=VOICE_FIX)
    encoder = _voice_encoder(checkpoint, speech)
    vocabulary = checkpoint.shapes(THINKER_TABLE)[THINKER_TABLE][0]
    voices: dict[str, Voice] = {}
    for name, entry in entries.items():
        if problem := _problem(name, entry, speech.dit, vocabulary):
            raise OmniError(f"{path}: voice {name!r} {problem}", fix=VOICE_FIX)
        mel = entry["ref_mel"].float()
        with torch.no_grad():
            real, null = encoder(torch.cat([mel, torch.zeros_like(mel)])).numpy()
        speaker = entry["cond"].float().numpy().reshape(-1)
        rows = [
            projection.voice @ real + projection.speaker @ speaker + projection.bias,
            projection.voice @ null + projection.bias,
        ]
        voices[name] = Voice(entry["bos_token"], np.stack(rows).astype(np.float32), mel[0].numpy())
    if not voices:
        raise OmniError(f"{path} contains no voice", fix=VOICE_FIX)
    return voices


def _problem(name: object, entry: Any, dit: DitSource, vocabulary: int) -> str | None:
    """Return what is wrong with an entry of `spk_dict.pt`, or None."""
    if not isinstance(name, str) or not VOICE_NAME.fullmatch(name):
        return "has a name that is not a valid file name"
    keys: set[Any] = set(entry) if isinstance(entry, dict) else set()
    if missing := {"bos_token", "cond", "ref_mel"} - keys:
        return f"lacks {sorted(missing)}"
    token, mel, speaker = entry["bos_token"], entry["ref_mel"], entry["cond"]
    if not isinstance(token, int) or not 0 <= token < vocabulary:
        return f"begins with the token {token!r}, but the vocabulary has {vocabulary}"
    if not isinstance(speaker, torch.Tensor) or speaker.numel() != dit.enc_emb_dim:
        return f"has a speaker vector that is not {dit.enc_emb_dim} wide"
    shape = tuple(mel.shape) if isinstance(mel, torch.Tensor) else ()
    if len(shape) != 3 or (shape[0], shape[2]) != (1, dit.mel_dim) or shape[1] < MIN_FRAMES:
        return f"has a reference of shape {shape} instead of (1, frames, {dit.mel_dim})"
    return None


def voice_encoder_shapes(speech: SpeechSource) -> dict[str, tuple[int, ...]]:
    """Return the tensors of the voice encoder."""
    with torch.device("meta"):
        state = _untrained_encoder(speech).state_dict()
    return {VOICE_ENCODER + name: tuple(value.shape) for name, value in state.items()}


def _voice_encoder(checkpoint: Checkpoint, speech: SpeechSource) -> torch.nn.Module:
    """Load the voice encoder of transformers. It runs only during the export."""
    encoder = _untrained_encoder(speech)
    state = {
        name: torch.from_numpy(checkpoint.claim(VOICE_ENCODER + name, tuple(value.shape)).read())
        for name, value in encoder.state_dict().items()
    }
    encoder.load_state_dict(state)
    return encoder.eval()


def _untrained_encoder(speech: SpeechSource) -> torch.nn.Module:
    from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import (  # noqa: PLC0415
        Qwen2_5OmniDiTConfig,
    )
    from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import (  # noqa: PLC0415
        ECAPA_TimeDelayNet,
    )

    encoder: torch.nn.Module = ECAPA_TimeDelayNet(Qwen2_5OmniDiTConfig(**speech.dit_raw))
    return encoder


def code_table_shape(config: DitSource) -> dict[str, tuple[int, ...]]:
    """Return the tensor that `code_table` reads."""
    return {DIT + "text_embed.codec_embed.weight": (config.num_embeds + 1, config.emb_dim)}


def code_table(
    checkpoint: Checkpoint, config: DitSource, projection: InputProjection
) -> FloatArray:
    """Return the contribution of each code to its frames, float32 (num_embeds + 1, hidden).

    Row 0 is the null code.
    """
    ((name, shape),) = code_table_shape(config).items()
    table = checkpoint.claim(name, shape).read()
    return table @ projection.code.T


def rotary_frequencies(checkpoint: Checkpoint, speech: SpeechSource) -> FloatArray:
    """Return the rotary frequencies of the DiT, float32 (head_dim / 2,).

    Checkpoints that transformers 5 wrote lack them, since they are not learned.
    """
    width = speech.dit.head_dim
    if ROTARY in checkpoint:
        return checkpoint.claim(ROTARY, (width // 2,)).read()
    rope = speech.dit_raw.get("rope_parameters") or {}
    theta = float(rope.get("rope_theta", ROTARY_THETA))
    return (1.0 / theta ** (torch.arange(0, width, 2, dtype=torch.float32) / width)).numpy()


class TimeModulation:
    """Scales, shifts and gates of all DiT layers. They depend only on the time."""

    @staticmethod
    def shapes(config: DitSource) -> dict[str, tuple[int, ...]]:
        """Return the tensors that it reads: pairs of weight and bias, in the order of use."""
        width = config.hidden_size
        names = [f"transformer_blocks.{i}.attn_norm" for i in range(config.num_hidden_layers)]
        rows = [MODULATION_ROWS] * len(names) + [FINAL_MODULATION_ROWS]
        pairs = [
            *(
                (f"time_embed.time_mlp.{i}", n, width)
                for i, n in ((0, TIME_FREQUENCIES), (2, width))
            ),
            *(
                (f"{name}.linear", width, count * width)
                for name, count in zip([*names, "norm_out"], rows, strict=True)
            ),
        ]
        shapes: dict[str, tuple[int, ...]] = {}
        for name, inputs, outputs in pairs:
            shapes[f"{DIT}{name}.weight"] = (outputs, inputs)
            shapes[f"{DIT}{name}.bias"] = (outputs,)
        return shapes

    def __init__(self, checkpoint: Checkpoint, config: DitSource) -> None:
        self.config = config
        handles = [checkpoint.claim(name, shape) for name, shape in self.shapes(config).items()]
        pairs = list(zip(handles[::2], handles[1::2], strict=True))
        self._time_mlp = [(weight.read(), bias.read()) for weight, bias in pairs[:2]]
        self._layers = pairs[2:]

    @property
    def weights(self) -> int:
        """Number of weights that `tables` reads."""
        return sum(math.prod(weight.shape) for weight, _ in self._layers)

    def tables(
        self, grids: Sequence[FloatArray], advance: Callable[[int], None]
    ) -> list[FloatArray]:
        """Return a table for each grid of times, float32 (times, layers * 6 + 2, hidden).

        The DiT's contract describes the rows. Each weight is read once for all grids; `advance`
        receives its size.
        """
        signals = [_silu(self._embed(times)) for times in grids]
        parts: list[list[FloatArray]] = [[] for _ in grids]
        for index, (weight, bias) in enumerate(self._layers):
            matrix, offset = weight.read(), bias.read()
            for signal, found in zip(signals, parts, strict=True):
                rows = signal @ matrix.T + offset
                rows = rows.reshape(len(signal), -1, self.config.hidden_size)
                if index < len(self._layers) - 1:
                    # Reference order: shift, scale, gate, then the same for the feed-forward.
                    rows = rows[:, [1, 0, 2, 4, 3, 5]]
                    rows[:, [0, 3]] += 1
                else:
                    rows[:, 0] += 1  # the reference has the scale first here
                found.append(rows)
            advance(matrix.size)
        return [np.concatenate(found, axis=1).astype(np.float32) for found in parts]

    def _embed(self, times: FloatArray) -> FloatArray:
        half = TIME_FREQUENCIES // 2
        decay = np.exp(
            np.arange(half, dtype=np.float32) * np.float32(-math.log(10000) / (half - 1))
        )
        angles = np.float32(1000) * times[:, None] * decay
        signal = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
        (first, first_bias), (second, second_bias) = self._time_mlp
        return _silu(signal @ first.T + first_bias) @ second.T + second_bias


def modulation_times(preset: SolverPreset) -> FloatArray:
    """Return the distinct times of a preset, ascending: the rows of its modulation table."""
    return np.unique(evaluation_times(preset))


def _silu(x: FloatArray) -> FloatArray:
    return (x / (1 + np.exp(-x))).astype(np.float32)


def vocoder_geometry(config: VocoderSource) -> VocoderConfig:
    """Return the receptive field of each stage, computed from the last to the first, rounded up.

    For each dilation d, a residual block has a radius of (k - 1) / 2 * (d + 1) samples from its two
    convolutions, plus twice that of an activation; the widest block counts. A transposed
    convolution with kernel k and stride s needs (n + k / 2) / s samples for n samples of output.
    """
    need = CONV_POST_RADIUS + ACTIVATION_RADIUS
    margins: list[int] = []
    stages = list(zip(config.upsample_rates, config.upsample_kernel_sizes, strict=True))
    radius = max(
        sum((kernel - 1) // 2 * (dilation + 1) + 2 * ACTIVATION_RADIUS for dilation in dilations)
        for kernel, dilations in zip(
            config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True
        )
    )
    for rate, kernel in reversed(stages):
        margins.insert(0, need)
        need = math.ceil((need + radius + kernel / 2) / rate) + 1
    return VocoderConfig(
        sample_rate=SAMPLE_RATE,
        samples_per_frame=math.prod(config.upsample_rates),
        context_frames=need + CONV_PRE_RADIUS,
        stage_rates=tuple(config.upsample_rates),
        margins=tuple(margins),
    )
