"""Decode sound, pictures and video from any file that libav or Pillow reads.

Not the model's preprocessing: `mel.py` and `pixels.py` take what comes out here. The one idea: a
file may be far larger than what the model can take, so sound is measured while it is decoded, and
of a video only the frames that are used are kept, already at the size the encoder sees.

Every failure is a MediaError of one line. Sources: librosa.load (mono, resampling), transformers'
load_image (orientation, RGB), Qwen2VLVideoProcessor.sample_frames (which frames).
"""

import math
import struct
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import av.error
import numpy as np
import soxr  # pyright: ignore[reportMissingTypeStubs]
from av.audio.frame import AudioFrame
from av.container import InputContainer
from av.stream import Disposition, Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray
from PIL import Image, ImageOps

from omni_runtime.bundle.config import VisionConfig
from omni_runtime.errors import MediaError
from omni_runtime.inputs.pixels import resize, video_size
from omni_runtime.inputs.source import Source, cut_off, demuxed, opened

FloatArray = NDArray[np.float32]
"""Mono samples, nominally within [-1, 1]."""

Samples = tuple[NDArray[np.generic], int]
"""Decoded sound: numbers of shape (n,) or (channels, n), float or integer, and their rate."""

MAX_SECONDS = 3600.0

_FORMATS = {"AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP"}
"""Formats that Pillow decodes itself; others (EPS) would start programs."""

_STATES_LENGTH = ("mov", "matroska", "flac", "avi")
"""Containers whose stated length is exact; for others libav may guess it from the bit rate."""


@dataclass(frozen=True)
class VideoClip:
    """The sampled frames of a video and its sound.

    `frames` is uint8 (t, h, w, 3), at the size the vision encoder takes; `duration` is that of the
    whole clip in seconds; `fps` is the rate of `frames` for their positions in time; `audio` is
    float32 mono (n,), or None without a sound track.
    """

    frames: NDArray[np.uint8]
    duration: float
    fps: float
    audio: FloatArray | None


def load_audio(
    source: Source | Samples, sample_rate: int = 16000, *, max_seconds: float = MAX_SECONDS
) -> FloatArray:
    """Decode sound to float32 mono (n,) at `sample_rate`, channels averaged, resampled by soxr HQ.

    Raises MediaError when it can't be read, holds no sound or values that aren't finite, is cut
    off, or lasts longer than `max_seconds`.
    """
    if isinstance(source, tuple):
        name, (mono, rate) = "the given sound", _from_array(*source)
        if len(mono) > max_seconds * rate:
            raise _too_long(name, max_seconds)
    else:
        with demuxed(source, "sound") as (container, name):
            mono, rate = _decode_sound(container, name, max_seconds)
    if not len(mono):
        raise MediaError(f"{name} holds no sound: its length is zero", fix="record it again")
    if not np.isfinite(mono).all():
        raise MediaError(
            f"{name} holds values that aren't numbers (NaN or infinity)", fix="export it again"
        )
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


def load_video(
    source: Source,
    config: VisionConfig,
    *,
    sample_rate: int | None = 16000,
    max_tokens: int | None = None,
    max_seconds: float = MAX_SECONDS,
) -> VideoClip:
    """Decode the frames of a video that the model looks at, and its sound.

    Frames are picked by their number, at `config.video_fps`, and turned upright. With `sample_rate`
    None the sound is left out. Raises MediaError when the file can't be read, has no picture, is
    cut off, would make more than `max_tokens` tokens, or has sound longer than `max_seconds`.
    """
    with opened(source) as (file, _):
        with demuxed(file, "video") as (container, name):
            stream = _picture_stream(container, name)
            total, rate = _count_frames(container, stream, name)
            indices, fps = sample_frames(total, rate, config)
            _refuse_huge(stream, len(indices), config, max_tokens, name)
            container.seek(0)
            frames = list(_decode_frames(container, stream, indices, config))
            if len(frames) < 0.9 * len(indices):
                raise cut_off(name, f"{len(frames)} of {len(indices)} sampled frames are there")
            has_sound = bool(container.streams.audio)
        audio = None
        if sample_rate is not None and has_sound:
            audio = load_audio(file, sample_rate, max_seconds=max_seconds)
    return VideoClip(np.stack(frames), total / rate, fps, audio)


def sample_frames(total: int, rate: float, config: VisionConfig) -> tuple[NDArray[np.int64], float]:
    """Which of `total` frames at `rate` frames a second are used, int64 (n,), and their own rate.

    The indices are those of Qwen2VLVideoProcessor.sample_frames; its float32 arange depends on the
    vector width of the CPU, so that in 1 of 2000 clips one index may be off by one. A video of one
    frame, which the reference can't take, gives that frame.

    The rate is the one that was asked for, as the reference's processor assumes, except where
    `video_max_frames` or the video itself doesn't have that many frames: there it is the true one,
    or picture and sound would drift apart for minutes.
    """
    depth = config.temporal_patch_size
    limit = min(config.video_max_frames, total) // depth * depth
    wanted = total / rate * config.video_fps
    count = int(min(max(wanted, config.video_min_frames), limit)) // depth * depth
    count = max(count, min(depth, total))
    step = total / count
    indices = (np.arange(math.ceil(total / step)) * step).astype(np.float32).astype(np.int64)
    thinned = wanted // depth * depth > count
    fps = count / (total / rate) if thinned else config.video_fps
    return indices[indices < total], fps


def _from_array(samples: NDArray[np.generic], rate: int) -> tuple[FloatArray, int]:
    if samples.ndim not in (1, 2) or samples.dtype.kind not in "fiu" or rate <= 0:
        raise MediaError(
            f"an array of {samples.dtype} with shape {samples.shape} at {rate} Hz is not sound",
            fix="give numbers of shape (n,) or (channels, n) and a rate above 0",
        )
    return _mono(np.atleast_2d(samples)), rate


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
    result = np.asarray(soxr.resample(mono, rate, sample_rate, quality="HQ"), np.float32)
    length = math.ceil(len(mono) * sample_rate / rate)
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
        planes = frame.to_ndarray()
        if not frame.format.is_planar:
            planes = planes.reshape(-1, frame.layout.nb_channels).T
        chunks.append(_mono(planes))
        length += len(chunks[-1])
        if length > max_seconds * rate:
            raise _too_long(name, max_seconds)
    _refuse_short(container, length / rate if rate else 0.0, name)
    return np.concatenate([np.zeros(0, np.float32), *chunks]), rate


def _audio_frames(container: InputContainer, name: str) -> Iterator[AudioFrame]:
    """Decode, leaving out packets that are damaged, as players do; too many are an error."""
    good, bad = 0, 0
    stream = container.streams.audio[0]
    _refuse_unknown_codec(stream, name)
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


def _refuse_short(container: InputContainer, seconds: float, name: str) -> None:
    """Raise MediaError when less sound came than the header states."""
    stream = container.streams.audio[0]
    stated = 0.0
    if not container.format.name.startswith(_STATES_LENGTH):
        return
    if stream.duration and stream.time_base:
        stated = float(stream.duration * stream.time_base)
    elif container.duration and len(container.streams) == 1:
        stated = container.duration / av.time_base
    if seconds < 0.9 * stated - 0.1:
        raise cut_off(name, f"{seconds:.1f} of {stated:.1f} s of sound are there")


def _refuse_unknown_codec(stream: Stream, name: str) -> None:
    if getattr(stream, "codec_context", None) is None:  # what PyAV leaves for an unknown codec
        raise MediaError(
            f"{name} is compressed in a way that is not known here", fix="convert it to wav or mp4"
        )


def _picture_stream(container: InputContainer, name: str) -> VideoStream:
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:  # the cover of a song is no video
            _refuse_unknown_codec(stream, name)
            stream.thread_type = "AUTO"
            return stream
    raise MediaError(f"{name} has no moving picture", fix="give it as sound or as a picture")


def _count_frames(container: InputContainer, stream: VideoStream, name: str) -> tuple[int, float]:
    """The number of frames and their mean rate; where the header has no number, packets count."""
    rate = stream.average_rate or stream.guessed_rate or stream.base_rate
    total = stream.frames
    if not total:
        total, end = 0, 0.0
        for packet in container.demux():
            total += packet.stream is stream and packet.size > 0
            if packet.pts is not None and packet.time_base:
                end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        stated = (container.duration or 0) / av.time_base
        if end < 0.9 * stated - 0.5 and container.format.name.startswith(_STATES_LENGTH):
            raise cut_off(name, f"{end:.1f} of {stated:.1f} s are there")
    if not total or not rate:
        raise MediaError(f"{name} has no frames", fix="convert it to mp4")
    return total, float(rate)


def _refuse_huge(
    stream: VideoStream, frames: int, config: VisionConfig, max_tokens: int | None, name: str
) -> None:
    if not stream.width or not stream.height:
        raise MediaError(f"{name} doesn't say how large its frames are", fix="convert it to mp4")
    height, width = video_size(stream.height, stream.width, config)
    side = config.patch_size * config.merge_size
    tokens = -(-frames // config.temporal_patch_size) * (height // side) * (width // side)
    if max_tokens is not None and tokens > max_tokens:
        raise MediaError(
            f"{name} would make {tokens:,} tokens; the model's context holds {max_tokens:,}",
            fix="cut a shorter clip",
        )


def _decode_frames(
    container: InputContainer,
    stream: VideoStream,
    indices: NDArray[np.int64],
    config: VisionConfig,
) -> Iterator[NDArray[np.uint8]]:
    """Decode up to the last index, and yield the frames at `indices`, upright and resized."""
    wanted: set[int] = set(indices.tolist())
    size: tuple[int, int] | None = None
    for i, frame in enumerate(container.decode(stream)):
        if i in wanted:
            picture = _upright(frame)
            size = size or video_size(picture.shape[0], picture.shape[1], config)
            yield resize(picture, size)
        if i >= indices[-1]:
            return


def _upright(frame: VideoFrame) -> NDArray[np.uint8]:
    """The frame as uint8 (h, w, 3), turned as the display matrix of the file says."""
    picture = cast(NDArray[np.uint8], frame.to_ndarray(format="rgb24"))
    return np.ascontiguousarray(np.rot90(picture, round(frame.rotation / 90)))


def _too_long(name: str, max_seconds: float) -> MediaError:
    return MediaError(
        f"{name} lasts longer than {max_seconds:.0f} s, the most that is taken",
        fix="cut it into shorter clips",
    )


def _damaged(name: str, error: Exception) -> MediaError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return MediaError(f"{name} is a damaged picture: {reason}", fix="save or download it again")
