"""Synthetic audio, images and video, and media files of installed packages."""

import importlib.util
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest


def sweep(seconds: float, rate: int = 16000, seed: int = 0) -> np.ndarray:
    """Return a rising tone with a little noise and a silent middle, float32."""
    t = np.arange(round(seconds * rate)) / rate
    tone = 0.4 * np.sin(2 * np.pi * (150 + 300 * t / max(seconds, 1)) * t)
    tone += 0.01 * np.random.default_rng(seed).standard_normal(len(t))
    tone[len(t) // 2 : len(t) // 2 + len(t) // 8] = 0
    return tone.astype(np.float32)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Return an image of waves and noise, uint8 (h, w, 3)."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    noise = np.random.default_rng(seed).integers(0, 60, (height, width, 3))
    waves = np.stack([np.sin(9 * x + seed), np.cos(7 * y * x), np.sin(5 * y + 3 * x)], -1)
    return np.clip(127 + 90 * waves + noise, 0, 255).astype(np.uint8)


def frame(index: int, height: int = 48, width: int = 64) -> np.ndarray:
    """Return an image whose brightness identifies the frame."""
    return np.full((height, width, 3), 3 * index % 256, np.uint8)


def write_media(
    path: Path,
    *,
    sound: np.ndarray | None = None,
    rate: int = 48000,
    layout: str = "mono",
    audio_codec: str = "aac",
    frames: Sequence[np.ndarray] = (),
    fps: Fraction | int = 25,
    video_codec: str = "libx264",
) -> Path:
    """Encode `sound` (n,) or (channels, n) and `frames` into a container by the file's suffix."""
    for codec in [audio_codec] * (sound is not None) + [video_codec] * bool(len(frames)):
        try:
            av.Codec(codec, "w")
        except ValueError:
            pytest.skip(f"this build of libav has no encoder {codec}")
    with av.open(str(path), "w") as container:
        video = container.add_stream(video_codec, rate=fps) if len(frames) else None
        audio = None
        if sound is not None:
            audio = container.add_stream(audio_codec, rate=rate, layout=layout)
        if video is not None:
            video.height, video.width = frames[0].shape[:2]
            video.pix_fmt = "rgb8" if video_codec == "gif" else "yuv420p"
            for image in frames:
                container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(video.encode(None))
        if audio is not None and sound is not None:
            _encode_sound(container, audio, np.atleast_2d(sound), rate, layout)
    return path


def _encode_sound(container, stream, planes: np.ndarray, rate: int, layout: str) -> None:
    channels = stream.codec_context.layout.nb_channels
    planes = np.broadcast_to(planes, (channels, planes.shape[1])).astype(np.float32)
    packed = np.ascontiguousarray(planes.T).reshape(1, -1)
    whole = av.AudioFrame.from_ndarray(packed, format="flt", layout=layout)
    whole.sample_rate, whole.pts, whole.time_base = rate, 0, Fraction(1, rate)
    convert = av.AudioResampler(
        format=stream.codec_context.format,
        layout=layout,
        rate=rate,
        frame_size=stream.codec_context.frame_size or 1024,
    )
    for part in [*convert.resample(whole), *convert.resample(None)]:
        container.mux(stream.encode(part))
    container.mux(stream.encode(None))


def packaged(package: str, name: str) -> Path:
    """Return a file of an installed package, or skip the test."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"package {package} with {name} is not installed")
    found = list(Path(next(iter(spec.submodule_search_locations))).rglob(name))
    if not found:
        pytest.skip(f"package {package} does not ship {name}")
    return found[0]
