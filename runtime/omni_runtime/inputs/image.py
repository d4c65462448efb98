"""Decode images from any file that Pillow or libav reads.

Not the model's preprocessing (`pixels.py`). The size of an image is checked before it is decoded.

Every failure is a MediaError of one line. Sources: transformers' load_image (orientation, RGB) and
qwen_omni_utils (transparency on white).
"""

import struct
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from omni_runtime.errors import MediaError
from omni_runtime.inputs.pixels import require_aspect_ratio
from omni_runtime.inputs.source import Source, open_container, open_source, require_decoder, upright

MAX_PIXELS = 89_478_485
"""Pillow's limit against decompression bombs."""

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

_SCALED_FORMATS = {"JPEG", "MPO"}
"""Formats that can be decoded at an eighth to a half of their size."""

_HEIF_BRANDS = {"heic", "heix", "heim", "heis", "mif1"}


def load_image(source: Source) -> NDArray[np.uint8]:
    """Decode an image to uint8 (h, w, 3), upright, with transparent areas on white.

    Raises MediaError when it cannot be read, has more than MAX_PIXELS pixels (a jpeg four times as
    many: it is scaled while it is decoded), or an aspect ratio above 200 : 1.
    """
    with open_source(source) as (file, name), _one_error(name):
        Image.init()
        try:
            picture = Image.open(file, formats=sorted(_FORMATS & Image.OPEN.keys()))
        except Image.UnidentifiedImageError:
            return _load_heif(file, name)
        with picture:
            width, height = picture.size
            require_aspect_ratio(height, width)
            if width * height > MAX_PIXELS and picture.format in _SCALED_FORMATS:
                picture.draft("RGB", (width // 2, height // 2))
            _require_size(*picture.size, name)
            return _rgb(ImageOps.exif_transpose(picture) or picture)


@contextmanager
def _one_error(name: str) -> Generator[None]:
    """Turn the many kinds of exceptions of Pillow's plug-ins into a MediaError."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except (Image.DecompressionBombError, MemoryError) as error:
            raise _too_large(name) from error
        except OSError as error:
            if error.errno is not None:  # the file, not its content; `open_source` reports it
                raise
            raise _damaged(name, error) from error
        except (SyntaxError, ValueError, ArithmeticError, LookupError) as error:
            raise _damaged(name, error) from error
        except (TypeError, AttributeError, EOFError, RuntimeError, struct.error) as error:
            raise _damaged(name, error) from error


def _rgb(picture: Image.Image) -> NDArray[np.uint8]:
    """Convert to RGB: transparency on white, 16-bit gray scaled to 8 bits."""
    if picture.mode.startswith("I"):
        gray = np.asarray(picture).astype(np.int64)
        scaled = np.rint(gray / 257) if gray.max(initial=0) > 255 else gray
        return np.repeat(np.clip(scaled, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
    if picture.has_transparency_data:
        seen = picture.convert("RGBA")
        white = Image.new("RGB", seen.size, (255, 255, 255))
        white.paste(seen, mask=seen.getchannel("A"))
        return np.array(white)
    return np.array(picture.convert("RGB"))


def _load_heif(file: BinaryIO, name: str) -> NDArray[np.uint8]:
    """Decode a HEIC photograph with libav. One that is split into tiles is refused."""
    file.seek(0)
    head = file.read(12)
    if head[4:8] != b"ftyp" or head[8:12].decode("latin-1") not in _HEIF_BRANDS:
        raise MediaError(
            f"{name} is not an image in a supported format", fix="convert it to png or jpeg"
        )
    with open_container(file, "an image") as (container, _):
        streams = sorted(container.streams.video, key=lambda s: s.width * s.height)
        if not streams:
            raise MediaError(f"{name} has no image", fix="convert it to png or jpeg")
        stream = streams[-1]
        if sum((s.width, s.height) == (stream.width, stream.height) for s in streams) > 1:
            raise MediaError(f"{name} is split into tiles", fix="convert it to jpeg")
        require_decoder(stream, name)
        require_aspect_ratio(stream.height, stream.width)
        _require_size(stream.width, stream.height, name)
        for frame in container.decode(stream):
            return upright(frame)
    raise MediaError(f"{name} has no image", fix="convert it to png or jpeg")


def _require_size(width: int, height: int, name: str) -> None:
    if width * height > MAX_PIXELS:
        raise _too_large(name)


def _too_large(name: str) -> MediaError:
    return MediaError(f"{name} has more than {MAX_PIXELS:,} pixels", fix="scale it down")


def _damaged(name: str, error: Exception) -> MediaError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return MediaError(f"{name} is a damaged image: {reason}", fix="save or download it again")
