"""TMRoPE: the (time, height, width) position of every token.

Not a tokenizer: `prompt.py` lists the runs of tokens. IntArray inside a run do not depend on other
runs. A run starts one after the maximum of the previous slice, also across turns.

Source: Qwen2_5OmniPreTrainedModelForConditionalGeneration.get_rope_index. Its quirks are kept. The
two opening markers of a video with audio share one position, as do the two closing ones. Video
times are truncated after a float32 product. A video with audio is a sequence of slices, and the
next run follows the maximum of its LAST slice, even if an earlier slice has higher positions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from omni_runtime.arrays import IntArray
from omni_runtime.bundle.config import PositionConfig


@dataclass(frozen=True)
class SequentialRun:
    """Text, audio and single markers: consecutive positions, equal in time, height and width."""

    length: int


@dataclass(frozen=True)
class SharedRun:
    """Tokens that share one position."""

    length: int


@dataclass(frozen=True)
class VisionRun:
    """An image or the frames of a video: a grid of merged tokens (t, h, w).

    `seconds` is the time from t to t + 1. For an image t is 1 and `seconds` has no effect.
    """

    grid: tuple[int, int, int]
    seconds: float

    @property
    def tokens(self) -> int:
        """Number of merged tokens."""
        return self.grid[0] * self.grid[1] * self.grid[2]


@dataclass(frozen=True)
class VideoWithAudioRun:
    """The frames of a video and its `audio_tokens` audio tokens, interleaved in chunks of time."""

    video: VisionRun
    audio_tokens: int


TokenRun = SequentialRun | SharedRun | VisionRun | VideoWithAudioRun
TrackSlice = tuple[Literal["video", "audio"], int, int]
"""Tokens [start, stop) of one track of a video with audio."""


def token_positions(
    runs: Sequence[TokenRun], config: PositionConfig, start: int = 0
) -> tuple[IntArray, int]:
    """Return the positions of all tokens of `runs`, int64 (3, n), and the next position.

    `start` is the position of the first token: 0, or the next position of the previous turn. The
    next position is one more than the maximum of all, as in the reference's decoding.
    """
    slices: list[IntArray] = []
    following = start
    for run in runs:
        shifted = [part + following for part in _relative_positions(run, config) if part.size]
        slices += shifted
        if shifted:
            following = int(shifted[-1].max()) + 1
    if not slices:
        return np.zeros((3, 0), np.int64), start
    positions = np.concatenate(slices, axis=1)
    return positions, int(positions.max()) + 1


def interleave(run: VideoWithAudioRun, config: PositionConfig) -> list[TrackSlice]:
    """Return the order of the two tracks: for each chunk of time the frames, then the audio.

    Source: Qwen2_5OmniProcessor.get_chunked_index, on times that are not truncated.
    """
    per_chunk = int(config.ids_per_second * config.seconds_per_chunk)
    t, h, w = run.video.grid
    times = np.repeat(np.arange(t), h * w) * run.video.seconds * config.ids_per_second
    video = list(_chunks(times.tolist(), per_chunk))
    audio = list(_chunks(range(run.audio_tokens), per_chunk))
    slices: list[TrackSlice] = []
    for j in range(max(len(video), len(audio))):
        if j < len(video):
            slices.append(("video", *video[j]))
        if j < len(audio):
            slices.append(("audio", *audio[j]))
    return slices


def _chunks(times: Sequence[float], per_chunk: int) -> Iterator[tuple[int, int]]:
    """Split `times` where it first reaches 1, 2, 3... times `per_chunk`, at most once per token."""
    start, chunk = 0, 1
    for i, time in enumerate(times):
        if time >= chunk * per_chunk:
            yield start, i
            start = i
            chunk += 1
    yield start, len(times)


def _relative_positions(run: TokenRun, config: PositionConfig) -> list[IntArray]:
    """Return the slices of a run that starts at position 0."""
    match run:
        case SequentialRun(length):
            return [_broadcast(np.arange(length))]
        case SharedRun(length):
            return [_broadcast(np.zeros(length, np.int64))]
        case VisionRun():
            return [_vision_positions(run, config)]
        case VideoWithAudioRun(video, audio_tokens):
            tracks = {
                "video": _vision_positions(video, config),
                "audio": _broadcast(np.arange(audio_tokens)),
            }
            order = interleave(run, config)
            return [tracks[track][:, start:stop] for track, start, stop in order]


def _broadcast(times: IntArray) -> IntArray:
    return np.broadcast_to(times, (3, len(times)))


def _vision_positions(run: VisionRun, config: PositionConfig) -> IntArray:
    seconds, rate = np.float32(run.seconds), np.float32(config.ids_per_second)
    t, h, w = run.grid
    times = (np.arange(t, dtype=np.float32) * seconds * rate).astype(np.int64)
    rows, columns = np.mgrid[:h, :w].reshape(2, h * w)
    return np.stack([np.repeat(times, h * w), np.tile(rows, t), np.tile(columns, t)])
