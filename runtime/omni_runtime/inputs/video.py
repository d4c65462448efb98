"""Decode the frames of a video that the model looks at, and its sound.

Not the model's preprocessing: `pixels.py` and `mel.py` take what comes out here. The one idea: a
video may be far larger than what the model can take, so only the frames that are used are kept,
already at the size the encoder sees.

Every failure is a MediaError of one line. Source: Qwen2VLVideoProcessor.sample_frames.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from omni_runtime.arrays import FloatArray, IntArray
from omni_runtime.bundle.config import VisionConfig
from omni_runtime.errors import MediaError
from omni_runtime.inputs.media import MAX_SECONDS, load_audio
from omni_runtime.inputs.pixels import resize, video_size
from omni_runtime.inputs.source import (
    STATES_LENGTH,
    Source,
    cut_off,
    demuxed,
    opened,
    refuse_unknown_codec,
)

_MAX_FRAME_PIXELS = 8192 * 4320
"""The largest video frames there are; more is a broken header."""


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


def sample_frames(total: int, rate: float, config: VisionConfig) -> tuple[IntArray, float]:
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


def _picture_stream(container: InputContainer, name: str) -> VideoStream:
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:  # the cover of a song is no video
            refuse_unknown_codec(stream, name)
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
        if end < 0.9 * stated - 0.5 and container.format.name.startswith(STATES_LENGTH):
            raise cut_off(name, f"{end:.1f} of {stated:.1f} s are there")
    if not total or not rate:
        raise MediaError(f"{name} has no frames", fix="convert it to mp4")
    return total, float(rate)


def _refuse_huge(
    stream: VideoStream, frames: int, config: VisionConfig, max_tokens: int | None, name: str
) -> None:
    if not stream.width or not stream.height:
        raise MediaError(f"{name} doesn't say how large its frames are", fix="convert it to mp4")
    if stream.width * stream.height > _MAX_FRAME_PIXELS:
        raise MediaError(
            f"{name} has frames of {stream.width} x {stream.height} pixels", fix="make it smaller"
        )
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
    indices: IntArray,
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
