"""Decode sound and pictures from any file that libav or Pillow reads.

Not the model's preprocessing: `mel.py` and `pixels.py` take what comes out here; video is in
`video.py`. The one idea: a file may be far larger than what the model can take, so sound is
measured while it is decoded, and a picture before.

Every failure is a MediaError of one line. Sources: librosa.load (mono, resampling), transformers'
load_image (orientation, RGB).
"""

import math
import struct
import warnings
from collections.abc import Iterator

import av.error
import numpy as np
import soxr  # pyright: ignore[reportMissingTypeStubs]
from av.audio.frame import AudioFrame, format_dtypes
from av.audio.resampler import AudioResampler
from av.container import InputContainer
from numpy.typing import NDArray
from PIL import Image, ImageOps

from omni_runtime.arrays import FloatArray
from omni_runtime.errors import MediaError
from omni_runtime.inputs.source import (
    STATES_LENGTH,
    Source,
    cut_off,
    demuxed,
    opened,
    refuse_unknown_codec,
)

"""Mono samples, nominally within [-1, 1]."""

Samples = tuple[NDArray[np.generic], int]
"""Decoded sound: numbers of shape (n,) or (channels, n), float or integer, and their rate."""

MAX_SECONDS = 3600.0
RESAMPLING_QUALITY = "HQ"
_FORMATS = {"AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP"}
"""Formats that Pillow decodes itself; others (EPS) would start programs."""

_PLANES_WITHOUT_END = 8


def load_audio(
    source: Source | Samples, sample_rate: int = 16000, *, max_seconds: float = MAX_SECONDS
) -> FloatArray:
    """Decode sound to float32 mono (n,) at `sample_rate`, channels averaged, resampled by soxr HQ.

    Raises MediaError when it can't be read, holds no sound or values that aren't finite, is cut
    off, or lasts longer than `max_seconds`.
    """
    if isinstance(source, tuple):
        name, (mono, rate) = "the given sound", from_array(*source)
        if len(mono) > max_seconds * rate:
            raise too_long(name, max_seconds)
    else:
        with demuxed(source, "sound") as (container, name):
            mono, rate = _decode_sound(container, name, max_seconds)
    if not len(mono):
        raise no_sound(name)
    refuse_infinite(mono, name)
    return _resampled(mono, rate, sample_rate)


def load_image(source: Source) -> NDArray[np.uint8]:
    """Decode a picture to uint8 (h, w, 3), turned as its EXIF orientation says.

    Raises MediaError when it can't be read, or has more pixels than Pillow's guard against
    decompression bombs allows (89 million).
    """
    with opened(source) as (file, name), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        Image.init()
        try:
            with Image.open(file, formats=sorted(_FORMATS & Image.OPEN.keys())) as picture:
                upright = ImageOps.exif_transpose(picture)
                return np.array((upright or picture).convert("RGB"))
        except (Image.DecompressionBombWarning, Image.DecompressionBombError, MemoryError) as error:
            raise MediaError(
                f"{name} has more than {Image.MAX_IMAGE_PIXELS:,} pixels", fix="make it smaller"
            ) from error
        except Image.UnidentifiedImageError as error:
            raise MediaError(
                f"{name} is not a picture in a known format", fix="convert it to png or jpeg"
            ) from error
        # Pillow's plug-ins raise whatever a broken file makes them stumble over.
        except (OSError, SyntaxError, ValueError, ArithmeticError, LookupError) as error:
            raise _damaged(name, error) from error
        except (TypeError, AttributeError, EOFError, RuntimeError, struct.error) as error:
            raise _damaged(name, error) from error


def from_array(samples: NDArray[np.generic], rate: int) -> tuple[FloatArray, int]:
    """Copy samples (n,) or (channels, n) to float32 mono (n,). Raises MediaError for others."""
    if samples.ndim not in (1, 2) or samples.dtype.kind not in "fiu" or rate <= 0:
        raise MediaError(
            f"an array of {samples.dtype} with shape {samples.shape} at {rate} Hz is not sound",
            fix="give numbers of shape (n,) or (channels, n) and a rate above 0",
        )
    return _mono(np.atleast_2d(samples)), rate


def no_sound(name: str) -> MediaError:
    """Return the error for sound without samples."""
    return MediaError(f"{name} holds no sound: its length is zero", fix="record it again")


def refuse_infinite(mono: FloatArray, name: str) -> None:
    """Raise MediaError when samples are not finite."""
    if not np.isfinite(mono).all():
        raise MediaError(
            f"{name} holds values that aren't numbers (NaN or infinity)", fix="export it again"
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
    with np.errstate(over="ignore", invalid="ignore"):  # infinities are refused later, by name
        return planes.astype(np.float32).mean(axis=0)


def _resampled(mono: FloatArray, rate: int, sample_rate: int) -> FloatArray:
    """librosa.resample with its default quality: length ceil(n * sample_rate / rate)."""
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
    """All samples of the first sound track, mixed to mono, and their rate."""
    if not container.streams.audio:
        raise MediaError(f"{name} has no sound track", fix="give a file with sound")
    chunks: list[FloatArray] = []
    rate, length = 0, 0
    for frame in _audio_frames(container, name):
        rate = rate or frame.sample_rate
        if frame.sample_rate != rate:
            raise MediaError(f"{name} changes its sample rate", fix="convert it to wav")
        chunks.append(_mono(_planes(frame)))
        length += len(chunks[-1])
        if length > max_seconds * rate:
            raise too_long(name, max_seconds)
    _refuse_short(container, length / rate if rate else 0.0, name)
    return np.concatenate([np.zeros(0, np.float32), *chunks]), rate


def _audio_frames(container: InputContainer, name: str) -> Iterator[AudioFrame]:
    """Decode, leaving out packets that are damaged, as players do; too many are an error."""
    good, bad = 0, 0
    stream = container.streams.audio[0]
    refuse_unknown_codec(stream, name)
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.error.InvalidDataError:
            bad += 1
            continue
        good += 1
        yield from frames
    if bad > 1 + good // 20:
        raise MediaError(f"{name} is damaged: {bad} of {good + bad} packets can't be decoded")


def _planes(frame: AudioFrame) -> NDArray[np.generic]:
    """The samples of a frame, (channels, n), in the file's own type where numpy can take it.

    PyAV counts planes up to a null pointer, which from 8 channels on isn't there: so many channels
    are packed into one plane first, or the process would read memory that isn't its own.
    """
    many = frame.format.is_planar and frame.layout.nb_channels >= _PLANES_WITHOUT_END
    if many or frame.format.name not in format_dtypes:
        (frame,) = AudioResampler(format="flt").resample(frame)
    planes = frame.to_ndarray()
    return planes if frame.format.is_planar else planes.reshape(-1, frame.layout.nb_channels).T


def _refuse_short(container: InputContainer, seconds: float, name: str) -> None:
    """Raise MediaError when less sound came than the header states."""
    stream = container.streams.audio[0]
    stated = 0.0
    if not container.format.name.startswith(STATES_LENGTH):
        return
    if stream.duration and stream.time_base:
        stated = float(stream.duration * stream.time_base)
    elif container.duration and len(container.streams) == 1:
        stated = container.duration / av.time_base
    if seconds < 0.9 * stated - 0.1:
        raise cut_off(name, f"{seconds:.1f} of {stated:.1f} s of sound are there")


def too_long(name: str, max_seconds: float) -> MediaError:
    """Return the error for sound above the limit."""
    return MediaError(
        f"{name} lasts longer than {max_seconds:.0f} s, the most that is taken",
        fix="cut it into shorter clips",
    )


def _damaged(name: str, error: Exception) -> MediaError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return MediaError(f"{name} is a damaged picture: {reason}", fix="save or download it again")
