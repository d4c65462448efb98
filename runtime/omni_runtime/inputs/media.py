"""Decode audio from any file that libav reads.

Not the model's preprocessing (`mel.py`); images are in `image.py`, video in `video.py`. A file may
be far larger than the model's context, so the length is checked while it is decoded.

Every failure is a MediaError of one line. Source: librosa.load (mono, resampling).
"""

import math
from collections.abc import Iterator
from itertools import groupby

import av.error
import numpy as np
import soxr  # pyright: ignore[reportMissingTypeStubs]
from av.audio.frame import AudioFrame, format_dtypes
from av.audio.resampler import AudioResampler
from av.container import InputContainer
from numpy.typing import NDArray

from omni_runtime.arrays import FloatArray
from omni_runtime.errors import MediaError
from omni_runtime.inputs.source import (
    EXACT_DURATION_FORMATS,
    Source,
    open_container,
    require_decoder,
    truncated_error,
)

"""Mono samples, nominally within [-1, 1]."""

Samples = tuple[NDArray[np.generic], int]
"""Decoded audio: samples (n,) or (channels, n), float or integer, and their rate in hertz."""

MAX_SECONDS = 3600.0
RESAMPLING_QUALITY = "HQ"
_MAX_UNPACKED_CHANNELS = 8


def load_audio(
    source: Source | Samples, sample_rate: int = 16000, *, max_seconds: float = MAX_SECONDS
) -> FloatArray:
    """Decode audio to float32 mono (n,) at `sample_rate`: channels averaged, resampled by soxr HQ.

    Raises MediaError when the file cannot be read or is truncated, when the audio is empty or
    longer than `max_seconds`, or when a sample is not finite.
    """
    if isinstance(source, tuple):
        name, (mono, rate) = "the given audio", from_array(*source)
        if len(mono) > max_seconds * rate:
            raise audio_too_long(name, max_seconds)
    else:
        with open_container(source, "audio") as (container, name):
            mono, rate = _decode_sound(container, name, max_seconds)
    if not len(mono):
        raise empty_audio(name)
    require_finite(mono, name)
    return _resampled(mono, rate, sample_rate)


def from_array(samples: NDArray[np.generic], rate: int) -> tuple[FloatArray, int]:
    """Copy samples (n,) or (channels, n) to float32 mono (n,).

    Raises MediaError for another shape, a dtype that is not numeric, or a rate below 1.
    """
    if samples.ndim not in (1, 2) or samples.dtype.kind not in "fiu" or rate <= 0:
        raise MediaError(
            f"an array of {samples.dtype} with shape {samples.shape} at {rate} Hz is not audio",
            fix="pass numbers of shape (n,) or (channels, n) and a rate above 0",
        )
    return _mono(np.atleast_2d(samples)), rate


def empty_audio(name: str) -> MediaError:
    """Return the error for audio without samples."""
    return MediaError(f"{name} holds no audio: its length is zero", fix="record it again")


def require_finite(mono: FloatArray, name: str) -> None:
    """Raise MediaError when a sample is not finite."""
    if not np.isfinite(mono).all():
        raise MediaError(
            f"{name} has samples that are NaN or infinite", fix="export the audio again"
        )


def resampled_length(samples: int, rate: int, sample_rate: int) -> int:
    """Return the length of librosa.resample's result."""
    return math.ceil(samples * sample_rate / rate)


def _mono(planes: NDArray[np.generic]) -> FloatArray:
    """Average the rows of (channels, n), integers scaled to [-1, 1), as float32 (n,)."""
    if planes.dtype.kind in "iu":
        bits = 8 * planes.dtype.itemsize - 1
        middle = 0.0 if planes.dtype.kind == "i" else 2.0**bits
        planes = (planes.astype(np.float64) - middle) / 2.0**bits
    with np.errstate(over="ignore", invalid="ignore"):  # `require_finite` reports infinities
        return planes.astype(np.float32).mean(axis=0)


def _resampled(mono: FloatArray, rate: int, sample_rate: int) -> FloatArray:
    """Resample as librosa.resample does by default: length ceil(n * sample_rate / rate)."""
    if rate == sample_rate:
        return mono
    result = np.asarray(
        soxr.resample(mono, rate, sample_rate, quality=RESAMPLING_QUALITY), np.float32
    )
    length = resampled_length(len(mono), rate, sample_rate)
    return np.pad(result[:length], (0, max(0, length - len(result))))


def _decode_sound(
    container: InputContainer, name: str, max_seconds: float
) -> tuple[FloatArray, int]:
    """Return all samples of the first audio track, mixed to mono, and their first rate.

    Parts with another rate, as in recordings that were joined, are resampled to the first.
    """
    if not container.streams.audio:
        raise MediaError(f"{name} has no audio track", fix="choose a file with audio")
    parts: list[FloatArray] = []
    seconds, first = 0.0, 0
    for rate, frames in groupby(_audio_frames(container, name), lambda frame: frame.sample_rate):
        first = first or rate
        chunks, length = [np.zeros(0, np.float32)], 0
        for frame in frames:
            chunks.append(_mono(_planes(frame)))
            length += len(chunks[-1])
            if seconds + length / rate > max_seconds:
                raise audio_too_long(name, max_seconds)
        seconds += length / rate
        parts.append(_resampled(np.concatenate(chunks), rate, first))
    _require_full_duration(container, seconds, name)
    return np.concatenate([np.zeros(0, np.float32), *parts]), first


def _audio_frames(container: InputContainer, name: str) -> Iterator[AudioFrame]:
    """Decode frames and skip damaged packets, as players do. Raises MediaError for too many."""
    good, bad = 0, 0
    stream = container.streams.audio[0]
    require_decoder(stream, name)
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.error.InvalidDataError:
            bad += 1
            continue
        good += 1
        yield from frames
    if bad > 1 + good // 20:
        raise MediaError(
            f"{name} is damaged: {bad} of {good + bad} packets cannot be decoded",
            fix="copy or download it again",
        )


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


def _require_full_duration(container: InputContainer, seconds: float, name: str) -> None:
    """Raise MediaError when the decoded audio is shorter than the header states."""
    stream = container.streams.audio[0]
    stated = 0.0
    if not container.format.name.startswith(EXACT_DURATION_FORMATS):
        return
    if stream.duration and stream.time_base:
        stated = float(stream.duration * stream.time_base)
    elif container.duration and len(container.streams) == 1:
        stated = container.duration / av.time_base
    if seconds < 0.9 * stated - 0.1:
        raise truncated_error(name, f"it has {seconds:.1f} of {stated:.1f} s of audio")


def audio_too_long(name: str, max_seconds: float) -> MediaError:
    """Return the error for audio longer than the limit."""
    return MediaError(
        f"{name} is longer than {max_seconds:.0f} s",
        fix="cut it into shorter clips",
    )
