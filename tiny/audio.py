"""Training data of the ears: log mels of recordings, with random augmentation.

The ears themselves are trained in ears.py and joint.py. Speed, vocal tract, room, noise and gain
are all changed on the spectrogram, which is a hundred times cheaper than on the samples. No clip
is therefore presented twice in the same form.
"""

import math
from functools import cache
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers.audio_utils import mel_filter_bank
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniAudioEncoder

from tiny import sizes
from tiny.paths import Corpus, Samples, Utterance
from tiny.voices import SPEECH_RATE, at_rate

RATE = 16_000
BINS: int = sizes.AUDIO["num_mel_bins"]
FLOOR = -10.0
"""Decimal logarithm of the smallest power."""
TELEPHONE = 0.25
"""Share of the clips that get the band of a telephone."""
TOP = 8.0
"""Dynamic range of a clip below its maximum, in decades, as in the reference."""


@cache
def _filters() -> torch.Tensor:
    bank = mel_filter_bank(201, BINS, 0.0, RATE / 2, RATE, norm="slaney", mel_scale="slaney")
    return torch.from_numpy(bank).float()


def power(samples: torch.Tensor) -> torch.Tensor:
    """Return log10 of the mel power, (BINS, frames), at 100 frames/s, from 16 kHz samples.

    The audio is padded with silence, as in the reference, which pads every clip to five minutes.
    """
    window, frames = torch.hann_window(400), -(-len(samples) // 160)
    padded = functional.pad(samples, (0, 400))
    spectrum = torch.stft(padded, 400, 160, window=window, return_complex=True).abs() ** 2
    return (_filters().T @ spectrum[:, :frames]).clamp(min=10.0**FLOOR).log10()


def scaled(log: torch.Tensor) -> torch.Tensor:
    """Clip and scale the result of `power` as Whisper does."""
    return (log.clamp(min=float(log.max()) - TOP) + 4.0) / 4.0


def features(samples: Samples, rate: int = RATE) -> torch.Tensor:
    """Return the input of the audio tower, (BINS, frames)."""
    return scaled(power(torch.from_numpy(at_rate(samples, rate, RATE))))


@cache
def _mel_centres() -> np.ndarray:
    return np.linspace(0.0, 15 + math.log(8.0) * 27 / math.log(6.4), BINS + 2)[1:-1]


def _hertz(mels: np.ndarray) -> np.ndarray:
    """Return the frequencies of Slaney's mels."""
    step = math.log(6.4) / 27
    return np.where(mels < 15, mels * 200 / 3, 1000 * np.exp((mels - 15) * step))


def _throat(log: torch.Tensor, factor: float) -> torch.Tensor:
    """Multiply all frequencies by `factor`, by interpolation between the mel bins."""
    mels = _mel_centres()
    step = math.log(6.4) / 27
    hertz = _hertz(mels) / factor
    above = 15 + np.log(np.maximum(hertz, 1) / 1000) / step
    source = np.where(hertz < 1000, hertz * 3 / 200, above)
    place = np.interp(source, mels, np.arange(BINS))
    low = torch.from_numpy(place).long().clamp(max=BINS - 2)
    part = torch.from_numpy(place).float().unsqueeze(1) - low.unsqueeze(1)
    return log[low] * (1 - part) + log[low + 1] * part


def _telephone(log: torch.Tensor) -> torch.Tensor:
    """Silence all that a recording at 8 kHz does not have."""
    edge = int(np.searchsorted(_hertz(_mel_centres()), 3_900))
    return torch.cat([log[:edge], torch.full_like(log[edge:], FLOOR)])


def _room(rng: torch.Generator) -> torch.Tensor:
    """Return a smooth random frequency response, one value per bin, in decades of power."""
    waves = torch.arange(4).float() * math.pi * torch.arange(BINS).float().unsqueeze(1) / BINS
    return (torch.cos(waves) * torch.randn(4, generator=rng) * 0.22).sum(1, keepdim=True)


def changed(log: torch.Tensor, rng: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the clip with another vocal tract, speed, room and noise, and its source frames.

    The second tensor is the frame of `log` that each frame comes from, or -1 in added silence.
    """
    draw = torch.rand(9, generator=rng).tolist()
    frames = round(log.shape[1] / (0.85 + 0.35 * draw[0]))
    source = (torch.arange(frames) * log.shape[1]).div(frames, rounding_mode="floor")
    log = functional.interpolate(log[None], frames, mode="linear", align_corners=False)[0]
    log = _throat(log, 0.84 + 0.34 * draw[1])
    pause = [int(45 * d) for d in draw[2:4]]
    log = functional.pad(log, (pause[0], pause[1]), value=FLOOR)
    source = functional.pad(source, (pause[0], pause[1]), value=-1)
    loud = float((10.0**log).mean())
    noise = -torch.rand(log.shape, generator=rng).clamp(min=1e-6).log()  # of a power spectrum
    colour = 10.0 ** _room(rng)
    level = loud * 10 ** (-(8 + 34 * draw[4]) / 10)
    log = (10.0**log + noise * colour * level).log10() + _room(rng) + (draw[5] * 2.4 - 1.6)
    log = log.clamp(min=FLOOR)
    if draw[6] < TELEPHONE:
        log = _telephone(log)
    for _ in range(2):  # masks in time and in frequency, as in SpecAugment
        where = torch.rand(2, generator=rng)
        wide = int(torch.randint(BINS // 9, (1,), generator=rng))
        long = int(torch.randint(9, (1,), generator=rng))
        mean = float(log.mean())
        low, start = int(where[0] * (BINS - wide)), int(where[1] * (log.shape[1] - long))
        log[low : low + wide] = mean
        log[:, start : start + long] = mean
    return scaled(log), source


class Recordings:
    """A corpus in memory: the log mel power of each recording of a part."""

    def __init__(self, corpus: Corpus, part: str) -> None:
        self.items = [i for i in corpus.utterances if i.held_out == (part == "test")]
        self._powers = {
            item.start: power(
                torch.from_numpy(at_rate(corpus.samples(item), SPEECH_RATE, RATE))
            ).half()
            for item in self.items
        }

    def clip(self, item: Utterance, rng: torch.Generator | None) -> torch.Tensor:
        """Return the tower's input, (BINS, frames); with a generator it is augmented."""
        return self.traced(item, rng)[0]

    def traced(
        self, item: Utterance, rng: torch.Generator | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return `clip`, and the source frame of each of its frames, or -1 in added silence."""
        log = self.power(item)
        return (scaled(log), torch.arange(log.shape[1])) if rng is None else changed(log, rng)

    def power(self, item: Utterance) -> torch.Tensor:
        """Return the recording's log mel power, (BINS, frames)."""
        return self._powers[item.start].float()


def encode(tower: Qwen2_5OmniAudioEncoder, mels: list[torch.Tensor]) -> list[torch.Tensor]:
    """Return the tower's tokens (n, width) for each clip (BINS, frames), all blocks as one batch.

    The result equals the tower's own forward, which attends over all clips at once under a mask.
    For a batch that takes ten times as long.
    """
    return pooled(tower, unpooled(tower, mels))


def pooled(tower: Qwen2_5OmniAudioEncoder, clips: list[torch.Tensor]) -> list[torch.Tensor]:
    """Average pairs of rows of `unpooled`: 25 tokens/s."""
    # A full block has an even number of rows, so no pair spans two blocks.
    pairs = [clip[: len(clip) // 2 * 2].unflatten(0, (-1, 2)).mean(1) for clip in clips]
    tokens = tower.proj(tower.ln_post(torch.cat(pairs)))
    return list(tokens.split([len(p) for p in pairs]))


def unpooled(tower: Qwen2_5OmniAudioEncoder, mels: list[torch.Tensor]) -> list[torch.Tensor]:
    """Return the rows of the last layer, (n, d_model) for each clip, 50 per second."""
    size = 2 * tower.config.n_window
    blocks = [b for mel in mels for b in mel.split(size, 1)]
    lengths = torch.tensor([b.shape[1] for b in blocks])
    padded = torch.stack([functional.pad(b, (0, size - b.shape[1])) for b in blocks])
    inside = (torch.arange(size) < lengths.unsqueeze(1)).unsqueeze(1)
    grid = functional.gelu(tower.conv2(functional.gelu(tower.conv1(padded)) * inside))
    grid = grid.transpose(1, 2)
    places: Any = tower.positional_embedding
    grid = grid + places.positional_embedding[: grid.shape[1]]
    halves = (lengths - 1) // 2 + 1
    seen = torch.arange(grid.shape[1]) < halves.unsqueeze(1)
    where = seen.ravel().nonzero().squeeze(1)
    shape = (*seen.shape, tower.config.encoder_attention_heads, -1)
    rows = grid.flatten(0, 1).index_select(0, where)
    empty = torch.zeros_like(grid).flatten(0, 1)
    layers: Any = tower.layers
    for layer in layers:  # only attention needs the padding
        own, normed = layer.self_attn, layer.self_attn_layer_norm(rows)
        q, k, v = (
            empty.index_copy(0, where, p(normed)).view(shape).transpose(1, 2)
            for p in (own.q_proj, own.k_proj, own.v_proj)
        )
        met = functional.scaled_dot_product_attention(q, k, v, seen[:, None, None])
        rows = rows + own.out_proj(met.transpose(1, 2).reshape(empty.shape).index_select(0, where))
        rows = rows + layer.fc2(functional.gelu(layer.fc1(layer.final_layer_norm(rows))))
    # A full block has an even number of rows, so no pair spans two blocks.
    return list(rows.split([(mel.shape[1] - 1) // 2 + 1 for mel in mels]))
