"""Write a file that the user named: its name means the old content or the whole new one.

Links are followed and stay. What is no regular file (a FIFO, a device) cannot be replaced: it is
written to directly, as a stream.
"""

import os
import shutil
import stat
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import BinaryIO


def is_stream(path: Path) -> bool:
    """Whether a FIFO, a device or a socket has that name."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


class AtomicFile:
    """A regular file, written under another name beside it, FILE.partial."""

    def __init__(self, path: Path) -> None:
        """Raises OSError when it cannot be written there."""
        self._target = Path(os.path.realpath(path))
        if self._target.is_dir():
            raise IsADirectoryError(None, "Is a directory", str(path))
        self._partial, self.file = _fresh(self._target)

    def commit(self) -> None:
        """Close the file and give it its name. Raises OSError when that fails."""
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        if self._target.exists():
            shutil.copymode(self._target, self._partial)
        self._partial.replace(self._target)

    def discard(self) -> None:
        """Remove what has no name yet; does nothing after `commit`."""
        with suppress(OSError):  # what could not be written is not wanted any more
            self.file.close()
        with suppress(OSError):
            self._partial.unlink()


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file, or into a FIFO or a device. Raises OSError."""
    if is_stream(path):
        with path.open("wb") as stream:
            stream.write(data)
        return
    made = AtomicFile(path)
    try:
        made.file.write(data)
        made.commit()
    finally:
        made.discard()


def _fresh(target: Path) -> tuple[Path, BinaryIO]:
    """A file that was not there before: another FILE.partial may be somebody's."""
    for number in count(1):
        partial = target.with_name(f"{target.name}{'' if number == 1 else f'-{number}'}.partial")
        with suppress(FileExistsError):
            return partial, partial.open("xb")
    raise AssertionError
