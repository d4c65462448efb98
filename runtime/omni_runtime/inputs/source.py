"""Where a medium comes from: a path, bytes or an open file, always read as local bytes.

Not a decoder and not a downloader: `media.py` decides what to do with the bytes. The one idea is
that every failure of a file or of libav becomes a `MediaError` here, in one place, and that libav
never opens anything on its own: it gets a Python file object and an empty list of protocols, so
neither a URL nor a playlist that names other files can make it read them.
"""

import io
import logging
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import av
import av.error
import av.logging
from av.container import InputContainer
from av.stream import Stream

from omni_runtime.errors import MediaError

Source = str | os.PathLike[str] | bytes | BinaryIO
"""A local path, the bytes of a file, or a binary file object (read from its start)."""

STATES_LENGTH = ("mov", "matroska", "flac", "avi")
"""Containers whose stated length is exact; for others libav may guess it from the bit rate."""

_NO_PROTOCOLS = {"protocol_whitelist": "none"}
_UNKNOWN_RIFF_SIZE = 0x7FFF0000
"""Writers into a pipe state a size from here up, because they can't know it."""

# What matters reaches the user as an error; nothing is printed by the decoders themselves.
av.logging.set_level(None)
logging.getLogger("PIL").addHandler(logging.NullHandler())


@contextmanager
def opened(source: Source) -> Generator[tuple[BinaryIO, str]]:
    """Yield a seekable file at its start and the name under which errors speak of it.

    Raises MediaError for a path that can't be read, an empty source, and a file cut short.
    """
    if isinstance(source, bytes):
        file, name = cast(BinaryIO, io.BytesIO(source)), "the given data"
    elif isinstance(source, str | os.PathLike):
        file, name = _open_path(source), os.fspath(source)
    else:
        file, name = _rewound(source), str(getattr(source, "name", "the given data"))
    try:
        _refuse_cut(file, name)
        yield file, name
    finally:
        if isinstance(source, str | os.PathLike):
            file.close()


@contextmanager
def demuxed(source: Source, kind: str) -> Generator[tuple[InputContainer, str]]:
    """Open `source` with libav; `kind` ("sound", "video") is what an error says was looked for.

    Raises MediaError, also for any error of libav inside the `with` block.
    """
    with opened(source) as (file, name):
        try:
            with av.open(file, "r", options=_NO_PROTOCOLS, metadata_errors="replace") as container:
                yield container, name
        except (av.error.FFmpegError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise MediaError(
                f"{name} can't be read as {kind}: {str(reason).lower()}",
                fix="check that the file plays elsewhere, or convert it to wav or mp4",
            ) from error


def _open_path(path: str | os.PathLike[str]) -> BinaryIO:
    name = os.fspath(path)
    try:
        return Path(name).open("rb")
    except FileNotFoundError as error:
        raise MediaError(f"there is no file {name}", fix="check the path") from error
    except IsADirectoryError as error:
        raise MediaError(f"{name} is a folder", fix="name one file in it") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        reason = getattr(error, "strerror", None) or str(error)
        raise MediaError(f"{name} can't be opened: {str(reason).lower()}") from error


def _rewound(file: BinaryIO) -> BinaryIO:
    """The file itself at its start, or its bytes in memory when it can't be rewound."""
    if not file.seekable():
        return io.BytesIO(file.read())
    file.seek(0)
    return file


def _refuse_cut(file: BinaryIO, name: str) -> None:
    """Raise MediaError for an empty file, and for a RIFF file (wav, avi, webp) that is cut.

    libav plays a cut wav file without a word; the four bytes after "RIFF" tell.
    """
    head = file.read(8)
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if size == 0:
        raise MediaError(f"{name} is empty", fix="give a file with something in it")
    stated = int.from_bytes(head[4:8], "little")
    if head[:4] == b"RIFF" and size < stated + 8 and stated < _UNKNOWN_RIFF_SIZE:
        raise cut_off(name, f"{size:,} of {stated + 8:,} bytes are there")


def refuse_unknown_codec(stream: Stream, name: str) -> None:
    """Raise MediaError for a stream that libav has no decoder for."""
    if getattr(stream, "codec_context", None) is None:  # what PyAV leaves for an unknown codec
        raise MediaError(
            f"{name} is compressed in a way that is not known here", fix="convert it to wav or mp4"
        )


def cut_off(name: str, what: str) -> MediaError:
    """The error for a file that ends before its own header says it does."""
    return MediaError(f"{name} is cut off: {what}", fix="copy or download it again")
