"""Decode the sampled frames of a video, and its audio.

Not the model's preprocessing (`pixels.py`, `mel.py`). A video may be far larger than the model's
context, so only the sampled frames are kept, resized for the encoder.

Every failure is a MediaError of one line. Source: fetch_video of qwen_omni_utils 0.0.9.
"""

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, cast

import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from omni_runtime.arrays import FloatArray, IntArray
from omni_runtime.bundle.config import VisionConfig
from omni_runtime.errors import MediaError
from omni_runtime.inputs.animation import animation_frames, animation_size, frame_lengths
from omni_runtime.inputs.media import MAX_SECONDS, TrackError, load_audio
from omni_runtime.inputs.pixels import resize, video_size
from omni_runtime.inputs.source import (
    MAX_FRAME_PIXELS,
    Source,
    decoded,
    open_container,
    open_source,
    require_decoder,
    upright,
)
from omni_runtime.inputs.timeline import ROUNDING, Clock, FrameTimes, frame_times, measured
from omni_runtime.inputs.truncation import truncated_error

_log = logging.getLogger("omni_runtime")

_MAX_THREADED_PIXELS = 4096 * 2304
"""Larger frames are decoded by one thread: each thread keeps frames of its own."""


@dataclass(frozen=True)
class VideoClip:
    """The sampled frames of a video and its audio.

    `frames` is uint8 (t, h, w, 3) at the encoder's resolution. `duration` of the clip is in
    seconds. `fps` is the rate of `frames`, for their positions in time. `audio` is float32 mono
    (n,), or None without an audio track.
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
    """Decode the sampled frames of a video, and its audio.

    Frames are sampled by their time stamps at `config.video_fps` and rotated upright. `sample_rate`
    None skips the audio. Audio that cannot be used is left out, and a log line says so. Both begin
    at the earlier of their first time stamps.

    Raises MediaError when the file cannot be read or is truncated, has no video track, needs more
    than `max_tokens` tokens, or has audio longer than `max_seconds`.
    """
    with open_source(source) as (file, given):
        if lengths := frame_lengths(file):
            return _load_animation(file, lengths, config, max_tokens, given)
        with open_container(file, "video") as (container, name):
            stream = _picture_stream(container, name)
            times = frame_times(container, stream, config.video_fps, name)
            indices, fps = sample_frames(times.frames, times.rate, config)
            size = stream.width, stream.height
            _require_supported_size(*size, len(indices), config, max_tokens, name)
            has_sound = bool(container.streams.audio)
        # Opened again instead of rewound: raw h264 and flv cannot seek.
        with open_container(file, "video") as (container, name):
            stream = _picture_stream(container, name)
            sampled = _decode_frames(container, stream, times, times.shown(indices), name)
            frames = _images(sampled, len(indices), config)
        audio = None
        if sample_rate is not None and has_sound:
            try:
                audio = load_audio(file, sample_rate, max_seconds=max_seconds, start=times.start)
            except TrackError as error:
                _log.warning("%s; the video is used without its audio", error.message)
    return VideoClip(frames, times.duration, fps, audio)


def _load_animation(
    file: BinaryIO,
    lengths: Sequence[float],
    config: VisionConfig,
    max_tokens: int | None,
    name: str,
) -> VideoClip:
    stamps = np.cumsum([0.0, *lengths]).tolist()
    times = measured(stamps[:-1], 0.0, stamps[-1], (), config.video_fps, name)
    indices, fps = sample_frames(times.frames, times.rate, config)
    size = animation_size(file, name)
    _require_supported_size(*size, len(indices), config, max_tokens, name)
    numbers = np.searchsorted(times.times, times.shown(indices)).tolist()
    shape = video_size(size[1], size[0], len(indices), config)
    images = {
        number: resize(image, shape) for number, image in animation_frames(file, set(numbers), name)
    }
    frames = np.stack([images[number] for number in numbers])
    return VideoClip(frames, times.duration, fps, None)


def sample_frames(total: int, rate: float, config: VisionConfig) -> tuple[IntArray, float]:
    """Return the indices of the sampled frames, int64 (n,), and their rate in frames per second.

    `total` and `rate` are the number of frames of the video and its frame rate.

    The indices equal smart_nframes and linspace of qwen_omni_utils, so the first and the last frame
    are among them. A video of one frame, which the reference rejects, returns that frame.

    The returned rate is `config.video_fps`, as the reference assumes. If `video_max_frames` or the
    length of the video allows fewer frames, it is the true rate; otherwise video and audio would
    drift apart by minutes.
    """
    depth = config.temporal_patch_size
    limit = min(config.video_max_frames, total) // depth * depth
    wanted = total / rate * config.video_fps
    count = int(min(max(wanted, config.video_min_frames), limit)) // depth * depth
    count = max(count, min(depth, total))
    thinned = wanted // depth * depth > count
    fps = count / (total / rate) if thinned else config.video_fps
    return _evenly_spaced(total, count), fps


def _evenly_spaced(total: int, count: int) -> IntArray:
    """Return torch.linspace(0, total - 1, count).round(): float32, from both ends to the middle."""
    if count == 1:
        return np.zeros(1, np.int64)
    last = np.float32(total - 1)
    step = last / np.float32(count - 1)
    offsets = np.arange(count // 2, dtype=np.float32) * step
    behind = np.arange(count - count // 2, dtype=np.float32)[::-1] * step
    return np.concatenate([offsets, last - behind]).round().astype(np.int64)


def _picture_stream(container: InputContainer, name: str) -> VideoStream:
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:  # cover art is not a video
            require_decoder(stream, name)
            stream.codec_context.options = {"max_pixels": str(MAX_FRAME_PIXELS)}
            small = stream.width * stream.height <= _MAX_THREADED_PIXELS
            stream.thread_type = "AUTO" if small else "SLICE"
            return stream
    raise MediaError(f"{name} has no video track", fix="attach it as audio or as an image")


def _require_frame_size(width: int, height: int, name: str) -> None:
    if width * height > MAX_FRAME_PIXELS:
        raise MediaError(f"{name} has frames of {width} x {height} pixels", fix="scale it down")


def _require_supported_size(
    width: int, height: int, frames: int, config: VisionConfig, max_tokens: int | None, name: str
) -> None:
    if not width or not height:
        raise MediaError(
            f"{name} has frames of more than {MAX_FRAME_PIXELS:,} pixels or of unknown size",
            fix="scale it down, or convert it to mp4",
        )
    _require_frame_size(width, height, name)
    height, width = video_size(height, width, frames, config)
    side = config.patch_size * config.merge_size
    tokens = -(-frames // config.temporal_patch_size) * (height // side) * (width // side)
    if max_tokens is not None and tokens > max_tokens:
        raise MediaError(
            f"{name} needs {tokens:,} tokens; the model's context holds {max_tokens:,}",
            fix="use a shorter clip",
        )


def _images(frames: Iterator[VideoFrame], count: int, config: VisionConfig) -> NDArray[np.uint8]:
    """Return the `count` frames upright and at the encoder's resolution, uint8 (t, h, w, 3)."""
    images: list[NDArray[np.uint8]] = []
    size, before = None, None
    for frame in frames:
        if frame is not before:  # a frame that is shown for long is sampled repeatedly
            image, before = upright(frame), frame
            size = size or video_size(image.shape[0], image.shape[1], count, config)
            images.append(resize(image, size))
        else:
            images.append(images[-1])
    return np.stack(images)


def _decode_frames(
    container: InputContainer,
    stream: VideoStream,
    times: FrameTimes,
    shown: NDArray[np.float64],
    name: str,
) -> Iterator[VideoFrame]:
    """Decode up to the last of `shown`, and yield the frames of these times.

    A frame that cannot be decoded, or whose packet holds none, is replaced by the one before it.
    """
    wanted, clock, same = deque(shown.tolist()), Clock(container), ROUNDING
    count, last = 0, None
    for frame in cast(Iterator[VideoFrame], decoded(container, stream, name)):
        _require_frame_size(frame.width, frame.height, name)
        # Raw streams have no time stamps.
        seconds = times.times[min(count, len(times.times) - 1)]
        if frame.pts is not None and frame.time_base is not None:
            seconds = clock(frame.pts, frame.time_base)
        count += 1
        while wanted and wanted[0] < seconds + same:
            late = wanted.popleft() < seconds - same
            yield last if late and last is not None else frame
        if not wanted:
            return
        last = frame
    if last is None or count < 0.9 * len(times.times):
        raise truncated_error(name, f"it has {count} of {len(times.times)} frames")
    for _ in wanted:
        yield last
