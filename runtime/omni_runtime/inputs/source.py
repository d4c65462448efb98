"""Media sources: a path, bytes or an open file, always read as local bytes.

Not a decoder (`media.py`, `video.py`) and not a downloader. Every failure of a file or of libav
becomes a `MediaError` here. libav gets a Python file object and an empty list of protocols, so it
opens nothing itself: neither a URL nor a playlist can make it read other files.
"""

import io
import logging
import os
import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import av
import av.error
import av.logging
import numpy as np
from av.container import InputContainer
from av.frame import Frame
from av.stream import Stream
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from omni_runtime.errors import MediaError
from omni_runtime.inputs.truncation import require_complete

Source = str | os.PathLike[str] | bytes | BinaryIO
"""A local path, the bytes of a file, or a binary file object (read from its start)."""

MAX_PIPE_BYTES = 2**30
"""A pipe is kept in memory, and may never end."""

_ADDRESS = re.compile(r"(https?|ftps?|rtsps?|rtmps?|wss?):/", re.IGNORECASE)
MAX_FRAME_PIXELS = 8192 * 4320
"""Pixels of an 8K frame; a header that states more is damaged."""

_OPTIONS = {"protocol_whitelist": "none", "max_pixels": str(MAX_FRAME_PIXELS)}
# Failures are raised as errors; the decoders must not print.
av.logging.set_level(None)
logging.getLogger("PIL").addHandler(logging.NullHandler())


class NamedBytes(io.BytesIO):
    """Bytes in memory with the name of the file that they came from."""

    name: str


@contextmanager
def open_source(source: Source) -> Generator[tuple[BinaryIO, str]]:
    """Yield a seekable file at its start, and its name for error messages.

    Raises MediaError for a path that cannot be read, an empty source or a truncated file.
    """
    if isinstance(source, bytes):
        file, name = cast(BinaryIO, io.BytesIO(source)), "the given data"
    elif isinstance(source, str | os.PathLike):
        file, name = _open_path(source), os.fspath(source)
    else:
        name = str(getattr(source, "name", "the given data"))
        file = _rewound(source, name)
    try:
        require_complete(file, name)
        yield file, name
    except OSError as error:
        if isinstance(error, av.error.FFmpegError):
            raise
        raise _unreadable(name, error) from error
    finally:
        if isinstance(source, str | os.PathLike):
            file.close()


@contextmanager
def open_container(source: Source, kind: str) -> Generator[tuple[InputContainer, str]]:
    """Open `source` with libav. `kind` ("audio", "video") is named in error messages.

    Raises MediaError, also for any error of libav inside the `with` block.
    """
    with open_source(source) as (file, name):
        try:
            with av.open(file, "r", options=_OPTIONS, metadata_errors="replace") as container:
                yield container, name
        except (av.error.FFmpegError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise MediaError(
                f"{name} cannot be read as {kind}: {str(reason).lower()}",
                fix="check that the file plays elsewhere, or convert it to wav or mp4",
            ) from error


def require_local(name: str) -> None:
    """Raise MediaError for the address of another machine. `Path` reduces // to /."""
    if _ADDRESS.match(name):
        raise MediaError(
            f"{name} is a URL, and nothing is downloaded", fix="download it, and give its path"
        )


def read_pipe(path: Path) -> BinaryIO:
    """Read a pipe or a device to its end. Raises MediaError, also for more than MAX_PIPE_BYTES."""
    with _open_path(path) as file:
        data = NamedBytes(file.read())
    data.name = str(path)
    return data


def _open_path(path: str | os.PathLike[str]) -> BinaryIO:
    name = os.fspath(path)
    require_local(name)
    try:
        file = Path(name).open("rb")  # noqa: SIM115 - the caller closes it
    except FileNotFoundError as error:
        raise MediaError(f"there is no file {name}", fix="check the path") from error
    except IsADirectoryError as error:
        raise MediaError(f"{name} is a folder", fix="give the path of a file") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        reason = getattr(error, "strerror", None) or str(error)
        raise MediaError(
            f"{name} cannot be opened: {str(reason).lower()}", fix="check the path"
        ) from error
    try:
        opened = _rewound(file, name)
    except MediaError:
        file.close()
        raise
    if opened is not file:
        file.close()
    return opened


def _rewound(file: BinaryIO, name: str) -> BinaryIO:
    """Return the file at its start, or a copy in memory when it is not seekable."""
    if isinstance(file, io.TextIOBase):
        raise MediaError(f"{name} is open as text", fix='open it with mode "rb"')
    try:
        if not file.seekable():
            data = file.read(MAX_PIPE_BYTES + 1)
            if len(data) > MAX_PIPE_BYTES:
                raise MediaError(f"{name} is longer than {MAX_PIPE_BYTES:,} bytes", fix="cut it")
            return io.BytesIO(data)
        file.seek(0)
    except (OSError, ValueError) as error:  # ValueError: the file is closed
        raise _unreadable(name, error) from error
    return file


def _unreadable(name: str, error: Exception) -> MediaError:
    reason = str(getattr(error, "strerror", None) or error).lower()
    return MediaError(f"{name} cannot be read: {reason}", fix="copy it to this machine")


def can_decode(stream: Stream) -> bool:
    """Return whether libav has a decoder for a stream."""
    return getattr(stream, "codec_context", None) is not None  # PyAV: unknown codec


def require_decoder(stream: Stream, name: str) -> None:
    """Raise MediaError for a stream that libav has no decoder for."""
    if not can_decode(stream):
        raise MediaError(f"{name} has an unsupported codec", fix="convert it to wav or mp4")


def decoded(container: InputContainer, stream: Stream, name: str) -> Iterator[Frame]:
    """Decode frames and skip damaged packets, as players do. Raises MediaError for too many."""
    good, bad = 0, 0
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.error.InvalidDataError:
            bad += 1
            continue
        good += 1
        yield from cast(list[Frame], frames)
    if bad > 1 + good // 20:
        raise MediaError(
            f"{name} is damaged: {bad} of {good + bad} packets cannot be decoded",
            fix="copy or download it again",
        )


def upright(frame: VideoFrame) -> NDArray[np.uint8]:
    """Return a frame as uint8 (h, w, 3), rotated by the display matrix of the file."""
    image = cast(NDArray[np.uint8], frame.to_ndarray(format="rgb24"))
    return np.ascontiguousarray(np.rot90(image, round(frame.rotation / 90)))
