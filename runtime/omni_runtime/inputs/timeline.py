"""Time stamps of packets and frames: when the frames of a video are shown.

Decoders give frames in order; only time stamps tell when each is shown. Recordings of a screen have
a frame when something changes, those of a browser have any rate, and edit lists hide frames.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from av.container import InputContainer
from av.format import Flags
from av.video.stream import VideoStream
from numpy.typing import NDArray

from omni_runtime.arrays import IntArray
from omni_runtime.errors import MediaError

HOLE = 0.1
"""Seconds. Shorter differences of time stamps are rounding, or the jitter of a recorder."""

ROUNDING = 0.002
"""Seconds. Many containers round time stamps to milliseconds."""

_MAX_JUMP = 10.0
"""Seconds. Where recordings were joined, the time stamps jump; a longer jump is no pause."""


class Clock:
    """Turns time stamps into seconds that increase where recordings were joined."""

    def __init__(self, container: InputContainer) -> None:
        self._joins = bool(container.format.flags & Flags.ts_discont.value)
        self._shift = 0.0
        self._last: float | None = None

    def __call__(self, stamp: int, time_base: Fraction) -> float:
        """Return the seconds of a time stamp."""
        seconds = float(stamp * time_base) + self._shift
        last = seconds if self._last is None else self._last
        if seconds < last - _MAX_JUMP or (self._joins and seconds > last + _MAX_JUMP):
            self._shift += last - seconds
            seconds = last
        self._last = seconds
        return seconds


@dataclass(frozen=True)
class FrameTimes:
    """When the frames of a video are shown.

    `times` float64 (n,), ascending, are their time stamps in seconds, as `Clock` gives them; video
    or audio, whichever is first, begins at `start`. The video counts as one of `frames` frames at a
    constant `rate` in frames per second: the true ones, or those of a variable rate on average.
    """

    times: NDArray[np.float64]
    start: float
    frames: int
    rate: float
    constant: bool

    @property
    def duration(self) -> float:
        """Seconds from `start` to the end of the last frame."""
        return self.frames / self.rate

    def shown(self, indices: IntArray) -> NDArray[np.float64]:
        """Return the time stamps of the frames that are shown at `indices` of the constant rate."""
        if self.constant:
            return self.times[indices]
        at = self.start + indices / self.rate + ROUNDING
        return self.times[np.maximum(np.searchsorted(self.times, at, "right") - 1, 0)]


def frame_times(
    container: InputContainer, stream: VideoStream, fps: float, name: str
) -> FrameTimes:
    """Read all packets and return when the frames of `stream` are shown.

    A variable rate counts as at least `fps`, so that sampling at `fps` finds every scene. Raises
    MediaError for a video without frames.
    """
    clocks = {s.index: Clock(container) for s in container.streams}
    usual = 1 / float(stream.guessed_rate or stream.average_rate or 25)
    stamps: list[float] = []
    start, end = math.inf, 0.0
    for packet in container.demux():
        if packet.size == 0 or packet.is_discard:
            continue
        stamp = packet.dts if packet.pts is None else packet.pts
        seconds, length = end, usual
        if stamp is not None and packet.time_base:
            seconds = clocks[packet.stream.index](stamp, packet.time_base)
        if packet.duration and packet.time_base:
            length = float(packet.duration * packet.time_base)
        if packet.stream is stream:
            stamps.append(seconds)
            end = max(end, seconds + length)
        if packet.stream.type in ("audio", "video"):
            start = min(start, seconds)
    rates = [float(rate) for rate in (stream.average_rate, stream.guessed_rate) if rate]
    return measured(stamps, start, max(end, max(stamps, default=0.0)), rates, fps, name)


def measured(
    stamps: Sequence[float],
    start: float,
    end: float,
    rates: Sequence[float],
    fps: float,
    name: str,
) -> FrameTimes:
    """Return when frames with these time stamps are shown, in seconds, the last until `end`.

    `rates` are those that the file states. Raises MediaError for a video without frames.
    """
    if not stamps:
        raise MediaError(f"{name} has no frames", fix="convert it to mp4")
    times = np.unique(stamps)
    start = float(times[0]) if times[0] - start < HOLE else start
    for rate in rates:
        if np.abs(times - start - np.arange(len(times)) / rate).max() < 0.5 / rate:
            return FrameTimes(times, start, len(times), rate, constant=True)
    usual = min(float(np.median(np.diff(times))), 1.0) if len(times) > 1 else 0.04
    duration = max(end, float(times[-1]) + usual) - start
    frames = max(len(times), round(duration * fps))
    return FrameTimes(times, start, frames, frames / duration, constant=False)
