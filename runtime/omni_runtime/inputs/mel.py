"""Streaming log-mel power of a clip.

Not a file decoder (`media.py`), and not yet the encoder's input: `mel_features.py` applies the
floor of the clip. The reference pads every clip with zeros to 300 s before its short-time Fourier
transform. Frames of zeros only are constant, so they are not computed. The other frames are
computed one encoder block at a time.

Sources: transformers' WhisperFeatureExtractor (transform, mel scale), as Qwen2_5OmniProcessor calls
it (padding="max_length", frames by attention mask), and Qwen2_5OmniAudioEncoder (blocks, tokens).
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from omni_runtime.arrays import FloatArray
from omni_runtime.bundle.config import AudioConfig

MIN_FRAMES = 3
"""Mel frames of the shortest clip that gives a token: two after the convolutions, averaged."""


def audio_tokens(frames: int) -> int:
    """Return the number of tokens of a clip of `frames` mel frames: stride 2, then pairs averaged.

    Pairs are counted over the whole clip; an odd last frame is dropped.
    """
    return ((frames - 1) // 2 + 1) // 2


class LogPowerStream:
    """Stateful short-time Fourier transform and mel filters: samples to log-power frames.

    Frames are returned in blocks of `config.block_frames`, as soon as no later sample can change
    them. A block is transformed in one call, so its values do not depend on the size of pushes.
    """

    def __init__(self, config: AudioConfig) -> None:
        self._config = config
        self._signal = np.zeros(0, np.float32)
        """Samples of the next frames; begins with the window of frame `_frames`."""
        self._padded = False
        self._samples = 0
        self._frames = 0

    def push(self, samples: FloatArray) -> list[FloatArray]:
        """Append float32 mono (n,); return the completed blocks, float32 (n_mels, block_frames)."""
        self._samples += len(samples)
        self._signal = np.concatenate([self._signal, samples])
        self._pad_start()
        size, hop, n_fft = self._config.block_frames, self._config.hop_length, self._config.n_fft
        blocks: list[FloatArray] = []
        while self._padded and len(self._signal) >= (size - 1) * hop + n_fft:
            blocks.append(self._take(size))
        return blocks

    def finish(self) -> tuple[list[FloatArray], FloatArray]:
        """Return the last blocks of the clip, and the later frames whose windows overlap it.

        The clip has ceil(n / hop) frames, at least `MIN_FRAMES`; its last block may be shorter.
        """
        size, hop, n_fft = self._config.block_frames, self._config.hop_length, self._config.n_fft
        frames = max(-(-self._samples // hop), MIN_FRAMES)
        total = max(self._config.padded_samples, frames * hop)
        # n_fft zeros after the clip suffice: no window that overlaps the clip is longer.
        length = min(total, frames * hop + n_fft)
        self._signal = np.pad(self._signal, (0, length - self._samples))
        self._pad_start()
        self._signal = np.pad(self._signal, (0, n_fft // 2), mode="reflect")
        blocks: list[FloatArray] = []
        while self._frames < frames:
            blocks.append(self._take(min(size, frames - self._frames)))
        return blocks, self._take(length // hop - frames)

    def _pad_start(self) -> None:
        half = self._config.n_fft // 2
        if not self._padded and len(self._signal) > half:
            self._signal = np.pad(self._signal, (half, 0), mode="reflect")
            self._padded = True

    def _take(self, frames: int) -> FloatArray:
        hop = self._config.hop_length
        windows = np.lib.stride_tricks.sliding_window_view(self._signal, self._config.n_fft)
        power = log_power(
            windows[::hop][:frames],
            n_mels=self._config.n_mels,
            sample_rate=self._config.sample_rate,
        )
        self._signal = self._signal[frames * hop :]
        self._frames += frames
        return power


def log_power(windows: FloatArray, *, n_mels: int, sample_rate: int) -> FloatArray:
    """Return log10 of the mel power of each window: (frames, n_fft) -> (n_mels, frames)."""
    n_fft = windows.shape[1]
    spectrum = np.fft.rfft(windows.astype(np.float64) * _hann(n_fft))
    power = spectrum.real**2 + spectrum.imag**2
    filters = _mel_filters(n_fft, n_mels, sample_rate)
    return np.ascontiguousarray(np.log10(np.maximum(power @ filters, 1e-10)).T, np.float32)


@lru_cache
def _hann(length: int) -> NDArray[np.float64]:
    """Return the periodic Hann window, as torch.hann_window."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)


@lru_cache
def _mel_filters(n_fft: int, n_mels: int, sample_rate: int) -> NDArray[np.float64]:
    """Return area-normalized filters on Slaney's mel scale, (n_fft // 2 + 1, n_mels)."""
    nyquist = sample_rate / 2
    bins = np.linspace(0, nyquist, n_fft // 2 + 1)
    edges = _mel_to_hertz(np.linspace(0, _hertz_to_mel(nyquist), n_mels + 2))
    rising = (bins[:, None] - edges[:-2]) / np.diff(edges)[:-1]
    falling = (edges[2:] - bins[:, None]) / np.diff(edges)[1:]
    triangles = np.maximum(0, np.minimum(rising, falling))
    return triangles * (2 / (edges[2:] - edges[:-2]))


_LINEAR_TO = 1000.0  # hertz; below it the scale is linear, 3 mels per 200 Hz
_LINEAR_MELS = 15.0
_LOG_STEP = 27 / np.log(6.4)


def _hertz_to_mel(hertz: float) -> float:
    if hertz < _LINEAR_TO:
        return 3 * hertz / 200
    return float(_LINEAR_MELS + np.log(hertz / _LINEAR_TO) * _LOG_STEP)


def _mel_to_hertz(mels: NDArray[np.float64]) -> NDArray[np.float64]:
    logarithmic = _LINEAR_TO * np.exp((mels - _LINEAR_MELS) / _LOG_STEP)
    return np.where(mels < _LINEAR_MELS, 200 * mels / 3, logarithmic)
