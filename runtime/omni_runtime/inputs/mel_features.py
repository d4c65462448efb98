"""Log-mel features of a clip, in the independent blocks of the audio encoder.

Not the transform (`mel.py`). The reference clamps every value to at least 8 below the maximum of
the clip, so a later, louder sound may change earlier blocks. Blocks therefore keep their raw log
power, and the floor is applied when a block is read. The revision of a block counts how many floors
have changed its values.

Source: transformers' WhisperFeatureExtractor (floor and scale).
"""

from bisect import bisect_right
from copy import copy as copy_of
from dataclasses import dataclass

import numpy as np

from omni_runtime.arrays import FloatArray, IntArray
from omni_runtime.bundle.config import AudioConfig
from omni_runtime.inputs.mel import MIN_FRAMES, LogPowerStream, audio_tokens

_RANGE = np.float32(8)
"""Dynamic range in decades of power; values further below the clip's maximum are clamped."""


def log_mel(samples: FloatArray, config: AudioConfig) -> "MelFeatures":
    """Return the features of a complete clip: ceil(n / hop) frames, floor on `padding_side` "left".

    `samples` is float32 mono (n,) at `config.sample_rate`, nominally within [-1, 1].

    There are two differences from the reference. A clip below `MIN_FRAMES` is padded with zeros to
    that length; the reference returns no token. A clip longer than `padded_samples` is used
    completely, on `padding_side` "left" as if padded; the reference silently truncates it.
    """
    stream = LogMelStream(config, len(samples))
    stream.push(samples)
    stream.finish()
    return stream.features()


class LogMelStream:
    """Stateful log-mel: samples are pushed, features are read. Only one thread may push."""

    def __init__(self, config: AudioConfig, length: int = 0) -> None:
        """`length` is that of the clip in samples, 0 if it is not known."""
        self.config = config
        self.frames = 0
        """Frames of all blocks so far."""
        self.stable_blocks = 0
        """Blocks that later samples change only by a higher floor."""
        self._power = LogPowerStream(config, length)
        self._blocks: list[FloatArray] = []
        self._minima: list[np.float32] = []
        self._floors: list[np.float32] = []
        """All floors of the clip so far, in ascending order."""

    def push(self, samples: FloatArray) -> None:
        """Append float32 mono (n,) at `config.sample_rate`."""
        self._append(*self._power.push(samples))
        self.stable_blocks = len(self._blocks)

    def finish(self) -> None:
        """End the clip and compute its last frames."""
        self._append(*self._power.finish())

    def features(self) -> "MelFeatures":
        """Return a view of all blocks so far. Later pushes do not change it."""
        return MelFeatures(self, 0, self.frames, len(self._floors))

    def copy(self) -> "LogMelStream":
        """Return an independent stream with the same state. The blocks so far are shared."""
        copy = LogMelStream(self.config)
        copy.frames, copy.stable_blocks = self.frames, self.stable_blocks
        copy._power = copy_of(self._power)  # its arrays are never written to
        copy._blocks, copy._minima = [*self._blocks], [*self._minima]
        copy._floors = [*self._floors]
        return copy

    def revision(self, block: int, floors: int) -> int:
        """Return how many of the first `floors` floors change values of a block."""
        return max(0, floors - bisect_right(self._floors, self._minima[block]))

    def block_length(self, block: int) -> int:
        """Return the number of frames of a block."""
        return self._blocks[block].shape[1]

    def write_block(self, block: int, floors: int, out: FloatArray) -> None:
        """Write a block, clamped to floor number `floors` - 1, into `out` (n_mels, frames)."""
        np.maximum(self._blocks[block], self._floors[floors - 1], out=out)
        out += np.float32(4)
        out *= np.float32(0.25)

    def _append(self, blocks: list[FloatArray], outside: FloatArray) -> None:
        """Append blocks. The reference includes frames outside of the clip in the maximum."""
        self._blocks += blocks
        self._minima += [block.min() for block in blocks]
        self.frames += sum(block.shape[1] for block in blocks)
        floors = [part.max() - _RANGE for part in (*blocks, outside) if part.size]
        if floors and (not self._floors or max(floors) > self._floors[-1]):
            self._floors.append(max(floors))


@dataclass(frozen=True)
class MelFeatures:
    """A view of consecutive blocks of a clip. Nothing is copied; the floor is applied when read.

    `np.asarray` returns float32 (n_mels, frames): log10 of the power, clamped to at least 8 below
    the clip's maximum, plus 4, divided by 4. Every block but the last has `config.block_frames`
    frames. A last block that is too short for a token counts in `frames` but not in `blocks`.
    """

    stream: LogMelStream
    start: int
    frames: int
    floors: int
    """Number of floors of the clip when the view was created."""

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the array: (n_mels, frames)."""
        return self.stream.config.n_mels, self.frames

    @property
    def blocks(self) -> int:
        """Number of blocks that give at least one token."""
        size = self.stream.config.block_frames
        return self.frames // size + (self.frames % size >= MIN_FRAMES)

    @property
    def stable_blocks(self) -> int:
        """Number of blocks that later samples could change only by a higher floor."""
        return max(0, min(self.blocks, self.stream.stable_blocks - self.start))

    @property
    def block_tokens(self) -> int:
        """Tokens of a full block."""
        return audio_tokens(self.stream.config.block_frames)

    def batch(self, start: int, stop: int) -> tuple[FloatArray, IntArray]:
        """Return blocks [start, stop) for the encoder, and their lengths in frames, int64 (n,).

        The blocks are float32 (n, n_mels, longest), zero-padded. All blocks together give
        `audio_tokens(frames)` tokens: `block_frames` is a multiple of 4, so a full block has an
        even number of frames after the encoder's convolutions.
        """
        blocks = [self.start + block for block in range(start, min(stop, self.blocks))]
        lengths = np.array([self.stream.block_length(block) for block in blocks], np.int64)
        padded = np.zeros((len(blocks), self.shape[0], lengths.max()), np.float32)
        for row, block, length in zip(padded, blocks, lengths, strict=True):
            self.stream.write_block(block, self.floors, row[:, :length])
        return padded, lengths

    def split(self, block: int) -> tuple["MelFeatures", "MelFeatures"]:
        """Return two views: the blocks before `block`, and the blocks from `block` on."""
        frames = block * self.stream.config.block_frames
        return (
            MelFeatures(self.stream, self.start, frames, self.floors),
            MelFeatures(self.stream, self.start + block, self.frames - frames, self.floors),
        )

    def common_blocks(self, other: "MelFeatures") -> int:
        """Return the number of leading blocks that are equal, by revision or by value."""
        both = min(self.blocks, other.blocks)
        return next((k for k in range(both) if not self._equal(other, k)), both)

    def _equal(self, other: "MelFeatures", block: int) -> bool:
        if self.stream is other.stream and self.start == other.start:
            return self._revision(block) == other._revision(block)
        return np.array_equal(self._values(block), other._values(block))

    def _revision(self, block: int) -> int:
        return self.stream.revision(self.start + block, self.floors)

    def _values(self, block: int) -> FloatArray:
        number = self.start + block
        out = np.empty((self.shape[0], self.stream.block_length(number)), np.float32)
        self.stream.write_block(number, self.floors, out)
        return out

    def __array__(self, dtype: type | None = None, copy: bool | None = None) -> FloatArray:
        size = self.stream.config.block_frames
        blocks = [self._values(block) for block in range(-(-self.frames // size))]
        empty = np.zeros((self.shape[0], 0), np.float32)
        return np.concatenate([empty, *blocks], axis=1).astype(dtype or np.float32, copy=False)
