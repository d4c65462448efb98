"""Decode images from any file that Pillow or libheif reads.

Not the model's preprocessing (`pixels.py`). The size of an image is checked before it is decoded.

Every failure is a MediaError of one line. Sources: transformers' load_image (orientation, RGB) and
qwen_omni_utils (transparency on white).
"""

import math
import struct
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image
from PIL.JpegImagePlugin import JpegImageFile

from omni_runtime.errors import MediaError
from omni_runtime.inputs.pixels import require_aspect_ratio
from omni_runtime.inputs.source import (
    Source,
    open_source,
)

MAX_PIXELS = 89_478_485
"""Pillow's limit against decompression bombs. Decoding takes 4 bytes a pixel."""

_LIMITS = {
    "AVIF": 2**25,
    "HEIF": 3 * 2**24,
    "JPEG2000": 2**25,
    "WEBP": 2**24,
    "progressive": 2**26,
}
"""Pixels at most where a decoder takes more memory: 6 to 24 bytes a pixel."""

_ENOUGH_PIXELS = 16384 * 28 * 28
"""Pixels that a model uses at most. A larger image is reduced to no less."""

_STRIP_PIXELS = 2**20

_FORMATS = {
    "AVIF",
    "BMP",
    "GIF",
    "ICO",
    "JPEG",
    "JPEG2000",
    "MPO",
    "PCX",
    "PNG",
    "PPM",
    "TGA",
    "TIFF",
    "WEBP",
}
"""Formats that Pillow decodes itself. For others, such as EPS, it would start programs."""


def load_image(source: Source) -> NDArray[np.uint8]:
    """Decode an image to uint8 (h, w, 3), upright, with transparent areas on white.

    An image of which a model uses less than a quarter of the pixels is reduced by a whole number.

    Raises MediaError when it cannot be read, has more than MAX_PIXELS pixels (fewer in formats that
    take more memory; a jpeg four times as many, for it is scaled while it is decoded), or an aspect
    ratio above 200 : 1.
    """
    with open_source(source) as (file, name), one_error(name), _opened(file, name) as picture:
        require_aspect_ratio(picture.height, picture.width)
        if picture.format in ("JPEG", "MPO"):
            kind = "progressive" if picture.info.get("progressive") else "JPEG"
            _require_size(*picture.size, _LIMITS.get(kind, 4 * MAX_PIXELS), name)
            factor = _reduction(picture)
            picture.draft("RGB", (picture.width // factor, picture.height // factor))
        else:
            _require_size(*picture.size, _LIMITS.get(picture.format or "", MAX_PIXELS), name)
        return to_rgb(picture)


def _opened(file: BinaryIO, name: str) -> Image.Image:
    Image.init()
    try:
        return Image.open(file, formats=sorted(_FORMATS & Image.OPEN.keys()))
    except Image.UnidentifiedImageError:
        return _opened_heif(file, name)
    except Image.DecompressionBombError:
        file.seek(0)
        if file.read(2) != b"\xff\xd8":
            raise
        file.seek(0)
        return JpegImageFile(file)  # a larger one can be scaled


def _opened_heif(file: BinaryIO, name: str) -> Image.Image:
    """Open a HEIC photograph, or raise the MediaError for what is no image."""
    unknown = f"{name} is not an image in a supported format"
    file.seek(4)
    if file.read(4) != b"ftyp":
        raise MediaError(unknown, fix="convert it to png or jpeg")
    try:
        from pi_heif import register_heif_opener  # noqa: PLC0415 - few have such files
    except ImportError as error:
        raise MediaError(f"{name} needs pi-heif", fix="convert it to png or jpeg") from error
    register_heif_opener()
    file.seek(0)
    try:
        return Image.open(file, formats=["HEIF"])
    except Image.UnidentifiedImageError as error:
        raise MediaError(unknown, fix="convert it to png or jpeg") from error


@contextmanager
def one_error(name: str) -> Generator[None]:
    """Turn the many kinds of exceptions of Pillow's plug-ins into a MediaError."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except (Image.DecompressionBombError, MemoryError) as error:
            raise MediaError(f"{name} has too many pixels", fix="scale it down") from error
        except OSError as error:
            if error.errno is not None:  # the file, not its content; `open_source` reports it
                raise
            raise _damaged(name, error) from error
        except (SyntaxError, ValueError, ArithmeticError, LookupError) as error:
            raise _damaged(name, error) from error
        except (TypeError, AttributeError, EOFError, RuntimeError, struct.error) as error:
            raise _damaged(name, error) from error


def _reduction(picture: Image.Image) -> int:
    return max(1, math.isqrt(picture.width * picture.height // _ENOUGH_PIXELS))


def to_rgb(picture: Image.Image) -> NDArray[np.uint8]:
    """Convert to RGB, reduced and upright. Strips bound the memory beside the decoded image."""
    width, height, factor = *picture.size, _reduction(picture)
    rows = max(1, _STRIP_PIXELS // width // factor) * factor
    deep = picture.mode.startswith("I") and np.max(picture.getextrema()) > 255
    image = np.empty((-(-height // factor), -(-width // factor), 3), np.uint8)
    for top in range(0, height, rows):
        strip = _strip(picture.crop((0, top, width, min(top + rows, height))), deep=bool(deep))
        start = top // factor
        image[start : start + rows // factor] = np.asarray(strip.reduce(factor))
    return _upright(image, picture.getexif().get(ExifTags.Base.Orientation, 1))


def _strip(strip: Image.Image, *, deep: bool) -> Image.Image:
    """Convert to RGB: transparency on white, 16-bit gray scaled to 8 bits if it is `deep`."""
    if strip.mode.startswith("I"):
        gray = np.asarray(strip).astype(np.int64)
        scaled = np.rint(gray / 257) if deep else gray
        return Image.fromarray(np.clip(scaled, 0, 255).astype(np.uint8)).convert("RGB")
    if strip.has_transparency_data:
        seen = strip.convert("RGBA")
        white = Image.new("RGB", seen.size, (255, 255, 255))
        white.paste(seen, mask=seen.getchannel("A"))
        return white
    return strip.convert("RGB")


def _upright(image: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Undo an EXIF orientation: 1 to 8; others count as 1."""
    turns = {3: 2, 4: 2, 5: 3, 6: 3, 7: 1, 8: 1}.get(orientation, 0)
    image = np.rot90(image, turns)
    return np.ascontiguousarray(image[:, ::-1] if orientation in (2, 4, 5, 7) else image)


def _require_size(width: int, height: int, limit: int, name: str) -> None:
    if width * height > limit:
        raise MediaError(f"{name} has more than {limit:,} pixels", fix="scale it down")


def _damaged(name: str, error: Exception) -> MediaError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return MediaError(f"{name} is a damaged image: {reason}", fix="save or download it again")
