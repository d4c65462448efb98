"""Atomic writes of output files: a path holds the old content or the complete new content.

Symbolic links are followed. FIFOs and devices cannot be replaced, so they are written as streams.
"""

import os
import shutil
import stat
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import BinaryIO


def is_stream(path: Path) -> bool:
    """Return whether the path is a FIFO, a device or a socket."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


class AtomicFile:
    """A regular file that is written as FILE.partial and renamed by `commit`."""

    def __init__(self, path: Path) -> None:
        """Create the partial file. Raises OSError."""
        self._target = Path(os.path.realpath(path))
        if self._target.is_dir():
            raise IsADirectoryError(None, "Is a directory", str(path))
        self._partial, self.file = _fresh(self._target)

    def commit(self) -> None:
        """Sync and close the file, and replace the target. Raises OSError."""
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        if self._target.exists():
            shutil.copymode(self._target, self._partial)
        self._partial.replace(self._target)

    def discard(self) -> None:
        """Remove the partial file. Does nothing after `commit`."""
        with suppress(OSError):  # closing may fail to flush data that is discarded anyway
            self.file.close()
        with suppress(OSError):
            self._partial.unlink()


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically, or write into a FIFO or a device. Raises OSError."""
    if is_stream(path):
        with path.open("wb") as stream:
            stream.write(data)
        return
    output = AtomicFile(path)
    try:
        output.file.write(data)
        output.commit()
    finally:
        output.discard()


def _fresh(target: Path) -> tuple[Path, BinaryIO]:
    """Create a new file. An existing FILE.partial may belong to the user and is not overwritten."""
    for number in count(1):
        partial = target.with_name(f"{target.name}{'' if number == 1 else f'-{number}'}.partial")
        with suppress(FileExistsError):
            return partial, partial.open("xb")
    raise AssertionError
