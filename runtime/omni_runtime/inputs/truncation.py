"""Truncated files, found by the sizes of their chunks: RIFF, AIFF, mp4 and Matroska.

Not a parser: only the chunk that holds the samples, or encloses them, is looked up. libav decodes
what is left of a truncated file without an error. The durations that headers state are no measure
of what must be there: edit lists, pauses and editors make files that are shorter.
"""

import os
from typing import BinaryIO, Literal

from omni_runtime.errors import MediaError

_SLACK = 8
"""Some programs state a size that includes the chunk's own header, or a byte of padding."""

_UNKNOWN_SIZE = 0x7FFF0000
"""Programs that write into a pipe do not know the size, and state one from this value up."""

_MAX_CHUNKS = 100_000
"""A long fragmented recording has as many; a file of more is left to libav."""

_SAMPLES = {b"WAVE": b"data", b"AVI ": b"movi", b"AIFF": b"SSND", b"AIFC": b"SSND"}
"""The chunk that holds the samples, for each type of RIFF and AIFF file."""

_BOXES = {b"mdat", b"moov", b"moof"}
_FIRST_BOXES = {*_BOXES, b"ftyp", b"styp", b"free", b"skip", b"wide", b"sidx", b"pnot"}
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"


def require_complete(file: BinaryIO, name: str) -> None:
    """Raise MediaError for an empty or truncated file, and rewind it."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if size == 0:
        raise MediaError(f"{name} is empty", fix="copy or download it again")
    head = file.read(12)
    end = 0
    if head[:4] in (b"RIFF", b"FORM"):
        end = _end_of_riff(file, head)
    elif head[4:8] in _FIRST_BOXES:
        end = _end_of_boxes(file, size)
    elif head[:4] == _EBML:
        end = _end_of_segment(file)
    file.seek(0)
    if end > size:
        raise truncated_error(name, f"it has {size:,} of {end:,} bytes")


def truncated_error(name: str, what: str) -> MediaError:
    """Return the error for a file that is shorter than it must be."""
    return MediaError(f"{name} is truncated: {what}", fix="copy or download it again")


def _end_of_riff(file: BinaryIO, head: bytes) -> int:
    """Return where the samples end; without a chunk of samples, where the whole file must end."""
    order: Literal["little", "big"] = "little" if head[:4] == b"RIFF" else "big"
    wanted, at = _SAMPLES.get(head[8:12]), 12
    for _ in range(_MAX_CHUNKS):
        file.seek(at)
        chunk = file.read(12)
        if wanted is None or len(chunk) < 8:
            break
        length = int.from_bytes(chunk[4:8], order)
        if wanted in (chunk[:4], chunk[8:12] if chunk[:4] == b"LIST" else b""):
            return at + 8 + length - _SLACK if length < _UNKNOWN_SIZE else 0
        at += 8 + length + length % 2
    stated = int.from_bytes(head[4:8], order)
    return max(12, stated + 8 - _SLACK if stated < _UNKNOWN_SIZE else 0)


def _end_of_boxes(file: BinaryIO, size: int) -> int:
    """Return the end of the last box of an mp4 file that holds samples or their index."""
    at = end = 0
    for _ in range(_MAX_CHUNKS):
        file.seek(at)
        box = file.read(16)
        length = int.from_bytes(box[:4], "big")
        if length == 1:  # the size has 64 bits
            length = int.from_bytes(box[8:16], "big")
        if length < 8:  # 0: up to the end of the file
            break
        at += length
        if box[4:8] in _BOXES:
            end = at
        if at >= size:
            break
    return end


def _end_of_segment(file: BinaryIO) -> int:
    """Return the end of the segment of a Matroska file; 0 if it is not stated, as in recordings."""
    file.seek(4)
    header = _variable_size(file)
    if header is None:
        return 0
    file.seek(header, os.SEEK_CUR)
    if file.read(4) != _SEGMENT:
        return 0
    length = _variable_size(file)
    return 0 if length is None else file.tell() + length


def _variable_size(file: BinaryIO) -> int | None:
    """Read the size of an EBML element; None when it is unknown or damaged."""
    first = file.read(1)
    width = 9 - first[0].bit_length() if first else 9
    rest = file.read(width - 1)
    if width > 8 or len(rest) < width - 1:
        return None
    value = int.from_bytes(first + rest, "big") - (1 << 7 * width)
    return None if value == (1 << 7 * width) - 1 else value
