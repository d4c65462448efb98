"""TMRoPE: the (time, height, width) position of every token, by one walk over runs of tokens.

Not a tokenizer: who lays out a prompt (`prompt.py`) says which runs it has, and a later turn goes
on where the walk stopped. The one idea: a run starts one after the maximum of the piece before it,
and inside itself depends on nothing else.

Source: Qwen2_5OmniPreTrainedModelForConditionalGeneration.get_rope_index. Its quirks are kept: the
two opening markers of a video with sound share one position, so do the two closing ones; video
times are truncated after a product in float32; and after a video with sound the walk goes on from
the maximum of its LAST piece, even where a longer track before it reached further.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from omni_runtime.arrays import IntArray
from omni_runtime.bundle.config import PositionConfig


@dataclass(frozen=True)
class Sequential:
    """Text, sound and single markers: the next position for each token, the same in all rows."""

    length: int


@dataclass(frozen=True)
class Shared:
    """Tokens that stand at one and the same position."""

    length: int


@dataclass(frozen=True)
class Picture:
    """A picture or the frames of a video: merged tokens (t, h, w), `seconds` from t to t + 1.

    For a still picture t is 1 and `seconds` has no effect.
    """

    grid: tuple[int, int, int]
    seconds: float

    @property
    def tokens(self) -> int:
        """How many tokens there are."""
        return self.grid[0] * self.grid[1] * self.grid[2]


@dataclass(frozen=True)
class PictureWithSound:
    """The frames of a video and `audio_tokens` of its sound, interleaved in chunks of time."""

    picture: Picture
    audio_tokens: int


Run = Sequential | Shared | Picture | PictureWithSound
Piece = tuple[Literal["video", "audio"], int, int]
"""Tokens [start, stop) of one track of a video with sound."""


def walk(runs: Sequence[Run], config: PositionConfig, start: int = 0) -> tuple[IntArray, int]:
    """IntArray of all tokens of `runs`, int64 (3, n), and the position of the token after them.

    `start` is the position of the first token: 0, or where the conversation so far stopped. The
    position after the last token is one more than the maximum of all, which is where the
    reference's decoding goes on.
    """
    pieces: list[IntArray] = []
    place = start
    for run in runs:
        made = [piece + place for piece in _pieces(run, config) if piece.size]
        pieces += made
        if made:
            place = int(made[-1].max()) + 1
    if not pieces:
        return np.zeros((3, 0), np.int64), start
    positions = np.concatenate(pieces, axis=1)
    return positions, int(positions.max()) + 1


def interleave(run: PictureWithSound, config: PositionConfig) -> list[Piece]:
    """The order of the two tracks: of each chunk of time first the frames, then the sound.

    Source: Qwen2_5OmniProcessor.get_chunked_index, on times that aren't truncated.
    """
    per_chunk = int(config.ids_per_second * config.seconds_per_chunk)
    t, h, w = run.picture.grid
    times = np.repeat(np.arange(t), h * w) * run.picture.seconds * config.ids_per_second
    video = list(_chunks(times.tolist(), per_chunk))
    audio = list(_chunks(range(run.audio_tokens), per_chunk))
    pieces: list[Piece] = []
    for j in range(max(len(video), len(audio))):
        if j < len(video):
            pieces.append(("video", *video[j]))
        if j < len(audio):
            pieces.append(("audio", *audio[j]))
    return pieces


def _chunks(times: Sequence[float], per_chunk: int) -> Iterator[tuple[int, int]]:
    """Cut `times` where it first reaches 1, 2, 3... times `per_chunk`, one cut at most a token."""
    start, chunk = 0, 1
    for i, time in enumerate(times):
        if time >= chunk * per_chunk:
            yield start, i
            start = i
            chunk += 1
    yield start, len(times)


def _pieces(run: Run, config: PositionConfig) -> list[IntArray]:
    """IntArray of a run that starts at 0, in the pieces after whose last one the walk goes on."""
    match run:
        case Sequential(length):
            return [_along(np.arange(length))]
        case Shared(length):
            return [_along(np.zeros(length, np.int64))]
        case Picture():
            return [_picture(run, config)]
        case PictureWithSound(picture, audio_tokens):
            tracks = {"video": _picture(picture, config), "audio": _along(np.arange(audio_tokens))}
            order = interleave(run, config)
            return [tracks[track][:, start:stop] for track, start, stop in order]


def _along(times: IntArray) -> IntArray:
    return np.broadcast_to(times, (3, len(times)))


def _picture(run: Picture, config: PositionConfig) -> IntArray:
    seconds, rate = np.float32(run.seconds), np.float32(config.ids_per_second)
    t, h, w = run.grid
    times = (np.arange(t, dtype=np.float32) * seconds * rate).astype(np.int64)
    rows, columns = np.mgrid[:h, :w].reshape(2, h * w)
    return np.stack([np.repeat(times, h * w), np.tile(rows, t), np.tile(columns, t)])
