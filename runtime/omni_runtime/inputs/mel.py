"""From samples to the audio encoder's input: log-mel frames, cut into independent blocks.

Not a decoder of files (that is `media.py`) and not the encoder. The one idea: the reference pads
every clip with zeros to 300 s before its short-time Fourier transform, and what those zeros give
is known, so only the frames that a clip's own sound reaches are computed, a few thousand at a time.

Sources: transformers' WhisperFeatureExtractor (transform, mel scale, floor), as
Qwen2_5OmniProcessor calls it (padding="max_length", frames by attention mask), and
Qwen2_5OmniAudioEncoder (blocks, tokens).
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from omni_runtime.bundle.config import AudioConfig

FloatArray = NDArray[np.float32]

MIN_FRAMES = 3
"""The shortest clip that gives one token: two frames after the convolutions, averaged."""

_CHUNK_FRAMES = 2048


def audio_tokens(frames: int) -> int:
    """How many tokens a clip of `frames` mel frames becomes: a stride of 2, then pairs averaged.

    Pairs are counted over the whole clip; an odd last frame is dropped.
    """
    return ((frames - 1) // 2 + 1) // 2


def log_mel(samples: FloatArray, config: AudioConfig) -> FloatArray:
    """The log-mel spectrogram of one clip: float32 (n_mels, frames), frames = ceil(n / hop).

    `samples` is float32 mono (n,) at `config.sample_rate`, nominally within [-1, 1]. Values are
    log10 of the power, not more than 8 below the clip's maximum, plus 4, divided by 4.

    Two departures from the reference, both where it gives something useless. A clip below
    `MIN_FRAMES` is padded with zeros to that length (the reference gives no token at all). A clip
    longer than `padded_samples` is used whole (the reference silently drops the rest).
    """
    hop = config.hop_length
    frames = max(-(-len(samples) // hop), MIN_FRAMES)
    total = max(config.padded_samples, frames * hop)
    # Behind the clip, n_fft zeros are as good as all of them: no frame reaches further.
    body = np.zeros(min(total, frames * hop + config.n_fft), np.float32)
    body[: len(samples)] = samples
    signal = np.pad(body, config.n_fft // 2, mode="reflect")

    computed = len(body) // hop
    mel = np.empty((config.n_mels, computed), np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(signal, config.n_fft)[::hop]
    for start in range(0, computed, _CHUNK_FRAMES):
        chunk = windows[start : min(start + _CHUNK_FRAMES, computed)]
        mel[:, start : start + len(chunk)] = _log_power(chunk, config)
    np.maximum(mel, mel.max() - 8, out=mel)
    return (mel[:, :frames] + np.float32(4)) / np.float32(4)


def blocks(mel: FloatArray, config: AudioConfig) -> tuple[FloatArray, NDArray[np.int64]]:
    """Cut a clip into the encoder's independent blocks.

    `mel` is (n_mels, frames). Returns the blocks, float32 (n_blocks, n_mels, block_frames) with
    zeros behind a shorter last one, and their lengths in frames, int64 (n_blocks,). A last block
    too short for a token of its own is left out: nothing of it would reach the result. The tokens
    of all blocks together are `audio_tokens(frames)`, since a full block has an even number of
    frames after its convolutions (`block_frames` is a multiple of 4).
    """
    size = config.block_frames
    frames = mel.shape[1]
    count = frames // size + (frames % size >= MIN_FRAMES)
    lengths = np.full(count, size, np.int64)
    if count * size > frames:
        lengths[-1] = frames % size
    padded = np.zeros((mel.shape[0], count * size), np.float32)
    used = min(frames, count * size)
    padded[:, :used] = mel[:, :used]
    cut = padded.reshape(mel.shape[0], count, size).transpose(1, 0, 2)
    return np.ascontiguousarray(cut), lengths


def _log_power(windows: FloatArray, config: AudioConfig) -> FloatArray:
    """log10 of the mel power of each window: (frames, n_fft) -> (n_mels, frames)."""
    spectrum = np.fft.rfft(windows.astype(np.float64) * _hann(config.n_fft))
    power = spectrum.real**2 + spectrum.imag**2
    filters = _mel_filters(config.n_fft, config.n_mels, config.sample_rate)
    return np.log10(np.maximum(power @ filters, 1e-10)).astype(np.float32).T


@lru_cache
def _hann(length: int) -> NDArray[np.float64]:
    """The periodic Hann window, as torch.hann_window makes it."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)


@lru_cache
def _mel_filters(n_fft: int, n_mels: int, sample_rate: int) -> NDArray[np.float64]:
    """Triangles on Slaney's mel scale, normalised by area: (n_fft // 2 + 1, n_mels)."""
    nyquist = sample_rate / 2
    bins = np.linspace(0, nyquist, n_fft // 2 + 1)
    edges = _mel_to_hertz(np.linspace(0, _hertz_to_mel(nyquist), n_mels + 2))
    rising = (bins[:, None] - edges[:-2]) / np.diff(edges)[:-1]
    falling = (edges[2:] - bins[:, None]) / np.diff(edges)[1:]
    triangles = np.maximum(0, np.minimum(rising, falling))
    return triangles * (2 / (edges[2:] - edges[:-2]))


_LINEAR_TO = 1000.0  # hertz; below it the scale is linear, 3 mels in 200 Hz
_LINEAR_MELS = 15.0
_LOG_STEP = 27 / np.log(6.4)


def _hertz_to_mel(hertz: float) -> float:
    if hertz < _LINEAR_TO:
        return 3 * hertz / 200
    return float(_LINEAR_MELS + np.log(hertz / _LINEAR_TO) * _LOG_STEP)


def _mel_to_hertz(mels: NDArray[np.float64]) -> NDArray[np.float64]:
    logarithmic = _LINEAR_TO * np.exp((mels - _LINEAR_MELS) / _LOG_STEP)
    return np.where(mels < _LINEAR_MELS, 200 * mels / 3, logarithmic)
