"""Decode audio from any file that libav reads.

Not the model's preprocessing (`mel.py`); images are in `image.py`, video in `video.py`. A file may
be far larger than the model's context and state any sample rate, so the audio is resampled, and its
length checked, while it is decoded.

Every failure is a MediaError of one line. Source: librosa.load (mono, resampling).
"""

import logging
from collections.abc import Iterator
from typing import cast

import numpy as np
from av.audio.frame import AudioFrame, format_dtypes
from av.audio.resampler import AudioResampler
from av.container import InputContainer
from numpy.typing import NDArray

from omni_runtime.arrays import FloatArray
from omni_runtime.errors import MediaError
from omni_runtime.inputs.resampler import Resampler
from omni_runtime.inputs.source import (
    Source,
    can_decode,
    decoded,
    open_container,
    open_source,
)
from omni_runtime.inputs.timeline import HOLE, Clock
from omni_runtime.inputs.truncation import truncated_error

Samples = tuple[NDArray[np.generic], int]
"""Decoded audio: samples (n,) or (channels, n), float or integer, and their rate in hertz."""

MAX_SECONDS = 3600.0
MAX_RATE = 768_000
"""Hertz. No recorder has a higher sample rate."""

_MAX_UNPACKED_CHANNELS = 8
_MAX_PARTS = 4096
"""Parts that are joined at a time: a small array takes more memory than its samples."""

_log = logging.getLogger("omni_runtime")


class TrackError(MediaError):
    """An audio track that cannot be used. A file may have another one, and a video needs none."""


def load_audio(
    source: Source | Samples,
    sample_rate: int = 16000,
    *,
    max_seconds: float = MAX_SECONDS,
    start: float | None = None,
) -> FloatArray:
    """Decode audio to float32 mono (n,) at `sample_rate`: channels averaged, resampled by soxr HQ.

    The first audio track that can be decoded is used; a log line says so when others cannot. Pauses
    in the time stamps are silence. The audio begins with its first sample, or at the time stamp
    `start` in seconds.

    Raises MediaError when the file cannot be read or is truncated, when the audio is longer than
    `max_seconds`, and TrackError when all tracks are empty, damaged or of unknown codecs.
    """
    if isinstance(source, tuple):
        mono, rate = from_array(*source)
        if len(mono) > max_seconds * rate:
            raise audio_too_long("the given audio", max_seconds)
        resampler = Resampler(rate, sample_rate)
        mono = np.concatenate([resampler.push(mono), resampler.finish()])
        _require_usable(mono, "the given audio")
        return mono
    problem: TrackError | None = None
    number, tracks = 0, 1
    with open_source(source) as (file, _):
        while number < tracks:
            with open_container(file, "audio") as (container, name):
                tracks = len(container.streams.audio)
                try:
                    track = _Track(name, sample_rate, max_seconds)
                    mono = _decode(container, number, name, track, start)
                except TrackError as error:
                    problem = problem or error
                else:
                    if problem is not None:
                        _log.warning("%s; audio track %d is used", problem.message, number + 1)
                    return mono
            number += 1
    assert problem is not None
    raise problem


def from_array(samples: NDArray[np.generic], rate: int) -> tuple[FloatArray, int]:
    """Copy samples (n,) or (channels, n) to float32 mono (n,).

    Raises MediaError for another shape, a dtype that is not numeric, or an impossible rate.
    """
    numeric = samples.ndim in (1, 2) and samples.dtype.kind in "fiu"
    if not numeric or not 0 < rate <= MAX_RATE:  # also refuses NaN
        raise MediaError(
            f"an array of {samples.dtype} with shape {samples.shape} at {rate} Hz is not audio",
            fix=f"pass numbers of shape (n,) or (channels, n) and a rate of 1 to {MAX_RATE} Hz",
        )
    return _mono(np.atleast_2d(samples)), rate


def empty_audio(name: str) -> TrackError:
    """Return the error for audio without samples."""
    return TrackError(f"{name} holds no audio: its length is zero", fix="record it again")


def require_finite(mono: FloatArray, name: str) -> None:
    """Raise TrackError when a sample is not finite."""
    if not np.isfinite(mono).all():
        raise TrackError(
            f"{name} has samples that are NaN or infinite", fix="export the audio again"
        )


def _require_usable(mono: FloatArray, name: str) -> None:
    if not len(mono):
        raise empty_audio(name)
    require_finite(mono, name)


def _mono(planes: NDArray[np.generic]) -> FloatArray:
    """Average the rows of (channels, n), integers scaled to [-1, 1), as float32 (n,)."""
    if planes.dtype.kind in "iu":
        bits = 8 * planes.dtype.itemsize - 1
        middle = 0.0 if planes.dtype.kind == "i" else 2.0**bits
        planes = (planes.astype(np.float64) - middle) / 2.0**bits
    with np.errstate(over="ignore", invalid="ignore"):  # `require_finite` reports infinities
        return planes.astype(np.float32).mean(axis=0)


def _decode(
    container: InputContainer, number: int, name: str, track: "_Track", start: float | None
) -> FloatArray:
    """Return one audio track, mixed to mono. Raises MediaError or TrackError."""
    if not container.streams.audio:
        raise TrackError(f"{name} has no audio track", fix="choose a file with audio")
    stream = container.streams.audio[number]
    if not can_decode(stream):
        raise TrackError(f"{name} has an unsupported codec", fix="convert it to wav or mp4")
    _require_rate(stream.rate, name)
    clock = Clock(container)
    for frame in cast(Iterator[AudioFrame], decoded(container, stream, name)):
        _require_rate(frame.sample_rate, name)
        if frame.pts is not None and frame.time_base is not None:
            seconds = clock(frame.pts, frame.time_base)
            start = seconds if start is None else start
            track.pause(seconds - start - track.seconds)
        track.add(_mono(_planes(frame)), frame.sample_rate)
    mono = track.finish()
    stated = float((stream.duration or 0) * (stream.time_base or 0))
    if container.format.name == "flac" and track.seconds < 0.9 * stated - 0.1:
        raise truncated_error(name, f"it has {track.seconds:.1f} of {stated:.1f} s of audio")
    _require_usable(mono, name)
    return mono


class _Track:
    """Collects samples at the model's rate, with silence where time stamps leave a hole.

    Parts with another rate, as in recordings that were joined, are resampled from theirs.
    """

    def __init__(self, name: str, sample_rate: int, max_seconds: float) -> None:
        self._earlier, self._samples = 0.0, 0  # seconds of the parts before, samples of this one
        self._name, self._sample_rate, self._max_seconds = name, sample_rate, max_seconds
        self._resampler: Resampler | None = None
        self._parts: list[FloatArray] = []
        self._blocks: list[FloatArray] = [np.zeros(0, np.float32)]

    @property
    def seconds(self) -> float:
        """Duration so far."""
        rate = self._resampler.rate if self._resampler else 1
        return self._earlier + self._samples / rate

    def add(self, mono: FloatArray, rate: int) -> None:
        """Append samples (n,)."""
        if self._resampler is None or rate != self._resampler.rate:
            self._end_part()
            self._resampler = Resampler(rate, self._sample_rate)
        self._samples += len(mono)
        self._require_short()
        self._parts.append(self._resampler.push(mono))
        if len(self._parts) == _MAX_PARTS:
            self._end_block()

    def pause(self, seconds: float) -> None:
        """Append silence if it is longer than the jitter of time stamps."""
        if seconds > HOLE:
            self._end_part()
            self._earlier += seconds
            self._require_short()
            self._parts.append(np.zeros(round(seconds * self._sample_rate), np.float32))

    def finish(self) -> FloatArray:
        """Return all samples, float32 (n,)."""
        self._end_part()
        self._end_block()
        return np.concatenate(self._blocks)

    def _require_short(self) -> None:
        if self.seconds > self._max_seconds:
            raise audio_too_long(self._name, self._max_seconds)

    def _end_part(self) -> None:
        if self._resampler is not None:
            self._parts.append(self._resampler.finish())
            self._earlier, self._samples = self.seconds, 0
            self._resampler = None

    def _end_block(self) -> None:
        self._blocks.append(np.concatenate([np.zeros(0, np.float32), *self._parts]))
        self._parts.clear()


def _require_rate(rate: int, name: str) -> None:
    if not 0 < rate <= MAX_RATE:
        raise TrackError(f"{name} has a sample rate of {rate} Hz", fix="record it again")


def _planes(frame: AudioFrame) -> NDArray[np.generic]:
    """Return the samples of a frame, (channels, n), in the file's dtype if numpy has it.

    PyAV counts planes up to a null pointer. From 8 channels on there is none, and PyAV would read
    out of bounds; such frames are first packed into one plane.
    """
    many = frame.format.is_planar and frame.layout.nb_channels >= _MAX_UNPACKED_CHANNELS
    if many or frame.format.name not in format_dtypes:
        (frame,) = AudioResampler(format="flt").resample(frame)
    planes = frame.to_ndarray()
    return planes if frame.format.is_planar else planes.reshape(-1, frame.layout.nb_channels).T


def audio_too_long(name: str, max_seconds: float) -> MediaError:
    """Return the error for audio longer than the limit."""
    return MediaError(
        f"{name} is longer than {max_seconds:.0f} s",
        fix="cut it into shorter clips",
    )
