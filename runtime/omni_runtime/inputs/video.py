"""Decode the sampled frames of a video, and its audio.

Not the model's preprocessing (`pixels.py`, `mel.py`). A video may be far larger than the model's
context, so only the sampled frames are kept, resized for the encoder.

Every failure is a MediaError of one line. Source: fetch_video of qwen_omni_utils 0.0.9.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream
from numpy.typing import NDArray

from omni_runtime.arrays import FloatArray, IntArray
from omni_runtime.bundle.config import VisionConfig
from omni_runtime.errors import MediaError
from omni_runtime.inputs.media import MAX_SECONDS, load_audio
from omni_runtime.inputs.pixels import resize, video_size
from omni_runtime.inputs.source import (
    EXACT_DURATION_FORMATS,
    Source,
    open_container,
    open_source,
    require_decoder,
    truncated_error,
    upright,
)

_MAX_FRAME_PIXELS = 8192 * 4320
"""Pixels of an 8K frame; a header that states more is damaged."""


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

    Frames are sampled by index at `config.video_fps` and rotated upright. `sample_rate` None skips
    the audio. Raises MediaError when the file cannot be read or is truncated, has no video track,
    needs more than `max_tokens` tokens, or has audio longer than `max_seconds`.
    """
    with open_source(source) as (file, _):
        with open_container(file, "video") as (container, name):
            stream = _picture_stream(container, name)
            total, rate = _count_frames(container, stream, name)
            indices, fps = sample_frames(total, rate, config)
            _require_supported_size(stream, len(indices), config, max_tokens, name)
            has_sound = bool(container.streams.audio)
        # Opened again instead of rewound: raw h264 and flv cannot seek.
        with open_container(file, "video") as (container, name):
            stream = _picture_stream(container, name)
            frames = list(_decode_frames(container, stream, indices, config))
            if len(frames) < 0.9 * len(indices):
                raise truncated_error(
                    name, f"it has {len(frames)} of {len(indices)} sampled frames"
                )
        audio = None
        if sample_rate is not None and has_sound:
            audio = load_audio(file, sample_rate, max_seconds=max_seconds)
    return VideoClip(np.stack(frames), total / rate, fps, audio)


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
            stream.thread_type = "AUTO"
            return stream
    raise MediaError(f"{name} has no video track", fix="attach it as audio or as an image")


def _count_frames(container: InputContainer, stream: VideoStream, name: str) -> tuple[int, float]:
    """Return the number of frames and their mean rate. Packets are counted if it is not stated."""
    rate = stream.average_rate or stream.guessed_rate or stream.base_rate
    total = stream.frames
    if not total:
        total, end = 0, 0.0
        for packet in container.demux():
            total += packet.stream is stream and packet.size > 0
            if packet.pts is not None and packet.time_base:
                end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        stated = (container.duration or 0) / av.time_base
        if end < 0.9 * stated - 0.5 and container.format.name.startswith(EXACT_DURATION_FORMATS):
            raise truncated_error(name, f"it has {end:.1f} of {stated:.1f} s")
    if not total or not rate:
        raise MediaError(f"{name} has no frames", fix="convert it to mp4")
    return total, float(rate)


def _require_supported_size(
    stream: VideoStream, frames: int, config: VisionConfig, max_tokens: int | None, name: str
) -> None:
    if not stream.width or not stream.height:
        raise MediaError(f"{name} does not state the size of its frames", fix="convert it to mp4")
    if stream.width * stream.height > _MAX_FRAME_PIXELS:
        raise MediaError(
            f"{name} has frames of {stream.width} x {stream.height} pixels", fix="scale it down"
        )
    height, width = video_size(stream.height, stream.width, frames, config)
    side = config.patch_size * config.merge_size
    tokens = -(-frames // config.temporal_patch_size) * (height // side) * (width // side)
    if max_tokens is not None and tokens > max_tokens:
        raise MediaError(
            f"{name} needs {tokens:,} tokens; the model's context holds {max_tokens:,}",
            fix="use a shorter clip",
        )


def _decode_frames(
    container: InputContainer,
    stream: VideoStream,
    indices: IntArray,
    config: VisionConfig,
) -> Iterator[NDArray[np.uint8]]:
    """Decode up to the last index; yield the frames at `indices`, upright and resized."""
    wanted: set[int] = set(indices.tolist())
    size: tuple[int, int] | None = None
    for i, frame in enumerate(container.decode(stream)):
        if i in wanted:
            image = upright(frame)
            size = size or video_size(image.shape[0], image.shape[1], len(indices), config)
            yield resize(image, size)
        if i >= indices[-1]:
            return
