"""What the speech path computes once: voices, code table, time modulation, receptive fields.

The reference evaluates all of this again in every step of the flow. None of it depends on the
noisy mel frames, so the export does it once, in float32, and the graphs take it as input.
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
"""The part of the input projection that stays in the DiT's graph."""

TIME_FREQUENCIES = 256  # fixed in the reference, like its scale of 1000
ACTIVATION_REACH = 6  # samples to each side that an anti-aliased activation sees
CONV_POST_REACH = 3
CONV_PRE_REACH = 3
SAMPLE_RATE = 24000  # the reference states it nowhere but in its documentation

THINKER_TABLE = "thinker.model.embed_tokens.weight"
VOICE_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")  # it becomes a file name, on any system
LEAST_FRAMES = 5  # fewer than the voice encoder's widest dilation can be mirrored at the edges
VOICE_FIX = "get spk_dict.pt from the checkpoint's own repository"


@dataclass(frozen=True)
class Voice:
    """`text_bos` starts this voice's text; `condition` float32 (2, hidden) goes into the DiT.

    Row 0 is what voice and speaker vector add to each frame, row 1 the same for the null branch
    of guidance. `mel` float32 (frames, mel_dim) is the reference that it was made of.
    """

    text_bos: int
    condition: FloatArray
    mel: FloatArray


class InputProjection:
    """The columns of the DiT's input projection that meet constants."""

    def __init__(self, checkpoint: Checkpoint, config: DitSource) -> None:
        shape = (config.hidden_size, config.input_width)
        weight = checkpoint.claim(PROJECTION + "weight", shape, "constant columns").read()
        ends = np.cumsum([config.mel_dim, config.enc_dim, config.emb_dim])
        _, self.voice, self.code, self.speaker = np.split(weight, ends, axis=1)
        self.bias = checkpoint.claim(PROJECTION + "bias", shape[:1]).read()


def read_voices(
    path: Path, checkpoint: Checkpoint, speech: SpeechSource, projection: InputProjection
) -> dict[str, Voice]:
    """Voices of `spk_dict.pt`, encoded by the checkpoint's own ECAPA network."""
    try:
        entries: Any = torch.load(path, weights_only=True, map_location="cpu")
    except FileNotFoundError:
        raise OmniError(f"the checkpoint has no {path.name}, so no voice", fix=VOICE_FIX) from None
    except Exception as error:  # pickle raises anything
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise OmniError(f"{path} can't be read safely: {reason}", fix=VOICE_FIX) from None
    if not isinstance(entries, dict):
        raise OmniError(f"{path} holds no voice", fix=VOICE_FIX)
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
        raise OmniError(f"{path} holds no voice", fix=VOICE_FIX)
    return voices


def _problem(name: object, entry: Any, dit: DitSource, vocabulary: int) -> str | None:
    """What is wrong with an entry of `spk_dict.pt`, whose names become those of files."""
    if not isinstance(name, str) or not VOICE_NAME.fullmatch(name):
        return "has a name that can't be a file's"
    keys: set[Any] = set(entry) if isinstance(entry, dict) else set()
    if missing := {"bos_token", "cond", "ref_mel"} - keys:
        return f"lacks {sorted(missing)}"
    token, mel, speaker = entry["bos_token"], entry["ref_mel"], entry["cond"]
    if not isinstance(token, int) or not 0 <= token < vocabulary:
        return f"begins with the token {token!r}, but the vocabulary has {vocabulary}"
    if not isinstance(speaker, torch.Tensor) or speaker.numel() != dit.enc_emb_dim:
        return f"has a speaker vector that is not {dit.enc_emb_dim} wide"
    shape = tuple(mel.shape) if isinstance(mel, torch.Tensor) else ()
    if len(shape) != 3 or (shape[0], shape[2]) != (1, dit.mel_dim) or shape[1] < LEAST_FRAMES:
        return f"has a reference of shape {shape} instead of (1, frames, {dit.mel_dim})"
    return None


def _voice_encoder(checkpoint: Checkpoint, speech: SpeechSource) -> torch.nn.Module:
    """The reference's own network: it runs once per voice, here, and never on a device."""
    from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import (  # noqa: PLC0415
        Qwen2_5OmniDiTConfig,
    )
    from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import (  # noqa: PLC0415
        ECAPA_TimeDelayNet,
    )

    encoder: torch.nn.Module = ECAPA_TimeDelayNet(Qwen2_5OmniDiTConfig(**speech.dit_raw))
    state = {
        name: torch.from_numpy(checkpoint.claim(VOICE_ENCODER + name, tuple(value.shape)).read())
        for name, value in encoder.state_dict().items()
    }
    encoder.load_state_dict(state)
    return encoder.eval()


def code_table(
    checkpoint: Checkpoint, config: DitSource, projection: InputProjection
) -> FloatArray:
    """What each code adds to its frames, float32 (num_embeds + 1, hidden); row 0 is the null."""
    shape = (config.num_embeds + 1, config.emb_dim)
    table = checkpoint.claim(DIT + "text_embed.codec_embed.weight", shape).read()
    return table @ projection.code.T


class TimeModulation:
    """Scales, shifts and gates of all DiT layers as functions of the time point alone."""

    def __init__(self, checkpoint: Checkpoint, config: DitSource) -> None:
        width = config.hidden_size
        claim = checkpoint.claim
        self.config = config
        self._time_mlp = [
            (
                claim(f"{DIT}time_embed.time_mlp.{index}.weight", (width, inputs)).read(),
                claim(f"{DIT}time_embed.time_mlp.{index}.bias", (width,)).read(),
            )
            for index, inputs in ((0, TIME_FREQUENCIES), (2, width))
        ]
        names = [f"transformer_blocks.{i}.attn_norm" for i in range(config.num_hidden_layers)]
        rows = [MODULATION_ROWS] * len(names) + [FINAL_MODULATION_ROWS]
        self._layers = [
            (
                claim(f"{DIT}{name}.linear.weight", (count * width, width)),
                claim(f"{DIT}{name}.linear.bias", (count * width,)),
            )
            for name, count in zip([*names, "norm_out"], rows, strict=True)
        ]

    @property
    def weights(self) -> int:
        """How many weights `tables` reads."""
        return sum(math.prod(weight.shape) for weight, _ in self._layers)

    def tables(
        self, grids: Sequence[FloatArray], advance: Callable[[int], None]
    ) -> list[FloatArray]:
        """For each grid of time points, float32 (times, layers * 6 + 2, hidden).

        See the DiT's contract for the rows. Each weight is read once for all grids; `advance` is
        told its size.
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
                    rows[:, 0] += 1  # here the reference has the scale first
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
    """The distinct time points of a preset, ascending: one row of its modulation table each."""
    return np.unique(evaluation_times(preset))


def _silu(x: FloatArray) -> FloatArray:
    return (x / (1 + np.exp(-x))).astype(np.float32)


def vocoder_geometry(config: VocoderSource) -> VocoderConfig:
    """Receptive field of each stage, from the last to the first, rounded up.

    A residual block reaches, for each dilation d, (k - 1) / 2 * (d + 1) samples through its two
    convolutions and twice the radius of an activation; the widest block counts. A transposed
    convolution of kernel k and stride s turns n samples of need into (n + k / 2) / s before it.
    """
    need = CONV_POST_REACH + ACTIVATION_REACH
    margins: list[int] = []
    stages = list(zip(config.upsample_rates, config.upsample_kernel_sizes, strict=True))
    radius = max(
        sum((kernel - 1) // 2 * (dilation + 1) + 2 * ACTIVATION_REACH for dilation in dilations)
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
        context_frames=need + CONV_PRE_REACH,
        stage_rates=tuple(config.upsample_rates),
        margins=tuple(margins),
    )
