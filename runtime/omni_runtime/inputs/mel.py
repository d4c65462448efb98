"""Streaming log-mel power of a clip.

Not a file decoder (`media.py`), and not yet the encoder's input: `mel_features.py` applies the
floor of the clip. The reference pads every clip with zeros to 300 s before its short-time Fourier
transform. Frames of zeros only are constant, so they are not computed. The other frames are
computed one encoder block at a time. Padding on the left puts the frames on a grid that ends with
the clip, so that the first one depends on the number of samples.

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

    def __init__(self, config: AudioConfig, length: int = 0) -> None:
        """`length` is that of the clip in samples, 0 if it is not known: see `finish`."""
        self._config = config
        self._signal = np.zeros(0, np.float32)
        """Samples of the next frames; begins with the window of frame `_frames`."""
        self._padded = False
        self._samples = 0
        self._frames = 0
        self._margin = 0
        """Frames before the clip; windows of the last ones overlap it."""
        if config.padding_side == "left":
            hop = config.hop_length
            self._margin = -(-config.n_fft // (2 * hop)) + 1
            self._samples = self._margin * hop - length % hop
            self._signal = np.zeros(self._samples, np.float32)

    def push(self, samples: FloatArray) -> tuple[list[FloatArray], FloatArray]:
        """Append float32 mono (n,); return the completed blocks, and frames outside of the clip.

        Blocks are float32 (n_mels, block_frames). The other frames only count for the maximum.
        """
        self._samples += len(samples)
        self._signal = np.concatenate([self._signal, samples])
        self._pad_start()
        size, hop, n_fft = self._config.block_frames, self._config.hop_length, self._config.n_fft
        blocks, outside = list[FloatArray](), np.zeros((self._config.n_mels, 0), np.float32)
        dropped = hop - 1 if self._margin else 0  # at most, by `finish`
        while self._padded:
            before = max(self._margin - self._frames, 0)
            if len(self._signal) - dropped < (before + size - 1) * hop + n_fft:
                break
            outside = self._take(before) if before else outside
            blocks.append(self._take(size))
        return blocks, outside

    def finish(self) -> tuple[list[FloatArray], FloatArray]:
        """Return the last blocks of the clip, and frames outside of it whose windows overlap it.

        The clip has ceil(n / hop) frames, at least `MIN_FRAMES`; its last block may be shorter.
        With padding on the left it has floor(n / hop) frames; if its length was not known, the
        samples after the last full hop are dropped.
        """
        hop = self._config.hop_length
        if self._margin:
            frames = max(self._samples // hop, self._margin + MIN_FRAMES)
            short = frames * hop - self._samples  # of the shortest clip; below zero: dropped
            self._signal = np.pad(self._signal, (max(short, 0), 0))
            self._signal = self._signal[: len(self._signal) + min(short, 0)]
            length = frames * hop
        else:
            frames = max(-(-self._samples // hop), MIN_FRAMES)
            total = max(self._config.padded_samples, frames * hop)
            # n_fft zeros after the clip suffice: no window that overlaps the clip is longer.
            length = min(total, frames * hop + self._config.n_fft)
            self._signal = np.pad(self._signal, (0, length - self._samples))
        self._pad_start()
        self._signal = np.pad(self._signal, (0, self._config.n_fft // 2), mode="reflect")
        before = self._take(max(self._margin - self._frames, 0))
        blocks: list[FloatArray] = []
        while self._frames < frames:
            blocks.append(self._take(min(self._config.block_frames, frames - self._frames)))
        after = self._take(length // hop - frames)
        return blocks, np.concatenate([before, after], axis=1)

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
