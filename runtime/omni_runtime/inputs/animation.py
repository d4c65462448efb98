"""Frames of an animated WebP. libav reads only the first one.

Every failure is a MediaError of one line.
"""

from collections.abc import Collection, Iterator
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from omni_runtime.errors import MediaError
from omni_runtime.inputs.image import one_error, to_rgb

_MAX_PIXELS = 2**32
"""Of all frames together, which are decoded one after the other."""

_MIN_SECONDS = 0.01
_MAX_CHUNKS = 100_000


def frame_lengths(file: BinaryIO) -> list[float]:
    """Return how long each frame is shown, in seconds; nothing for a file of another kind."""
    lengths: list[float] = []
    file.seek(0)
    head = file.read(12)
    at = 12
    while head[:4] == b"RIFF" and head[8:] == b"WEBP" and len(lengths) < _MAX_CHUNKS:
        file.seek(at)
        chunk = file.read(24)
        if len(chunk) < 8 or (chunk[:4] not in (b"ANMF", b"VP8X", b"ANIM", b"ICCP")):
            break
        if chunk[:4] == b"ANMF" and len(chunk) == 24:
            milliseconds = int.from_bytes(chunk[20:23], "little")
            lengths.append(max(milliseconds / 1000, _MIN_SECONDS))
        size = int.from_bytes(chunk[4:8], "little")
        at += 8 + size + size % 2
    file.seek(0)
    return lengths


def animation_size(file: BinaryIO, name: str) -> tuple[int, int]:
    """Return width and height of an animation. Raises MediaError, also for too many pixels."""
    file.seek(0)
    with one_error(name), Image.open(file, formats=["WEBP"]) as picture:
        if picture.width * picture.height * getattr(picture, "n_frames", 1) > _MAX_PIXELS:
            raise MediaError(f"{name} has too many frames", fix="cut it, or scale it down")
        return picture.size


def animation_frames(
    file: BinaryIO, numbers: Collection[int], name: str
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield (number, frame) of the wanted frames, uint8 (h, w, 3). Raises MediaError."""
    file.seek(0)
    with one_error(name), Image.open(file, formats=["WEBP"]) as picture:
        for number in sorted(numbers):
            picture.seek(number)
            yield number, to_rgb(picture)
