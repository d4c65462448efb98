"""The mel spectrogram of codec, DiT and vocoder: 100 frames/s, 80 bins.

Natural logarithm of the amplitude, at least log(1e-5), as the scaling of BigVGAN expects.
"""

from functools import cache

import numpy as np
import torch
from transformers.audio_utils import mel_filter_bank

from tiny.voices import SPEECH_RATE

HOP = 240
WINDOW = 1024
BINS = 80
FLOOR = 1e-5


@cache
def filters(bins: int = BINS, window: int = WINDOW) -> torch.Tensor:
    bank = mel_filter_bank(
        num_frequency_bins=window // 2 + 1,
        num_mel_filters=bins,
        min_frequency=0.0,
        max_frequency=SPEECH_RATE / 2,
        sampling_rate=SPEECH_RATE,
        norm="slaney",
        mel_scale="slaney",
    )
    return torch.from_numpy(np.asarray(bank, np.float32))


def spectrum(samples: torch.Tensor, window: int = WINDOW, hop: int = HOP) -> torch.Tensor:
    """Return amplitudes (..., frames, bins); frame i is centred on sample (i + 1/2) * hop."""
    edge = (window - hop) // 2
    padded = torch.nn.functional.pad(samples, (edge, window - hop - edge))
    shape = torch.hann_window(window)
    complex_ = torch.stft(padded, window, hop, window=shape, center=False, return_complex=True)
    return complex_.abs().transpose(-1, -2)


def log_mel(samples: torch.Tensor) -> torch.Tensor:
    """Return the log mel spectrogram: (..., samples) to (..., samples // 240, 80)."""
    return (spectrum(samples) @ filters()).clamp(min=FLOOR).log()
