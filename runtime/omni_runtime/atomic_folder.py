"""Replace a folder atomically: write the new version to a staging folder, then rename it.

The staging folder `.NAME.partial` holds the new version and, between two renames, the old one. A
marker file identifies it: it is written first and removed last, so that files of other programs are
never deleted. After a crash at any point, `recover` restores the complete old or new version.
"""

import os
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

from omni_runtime.errors import UsageError

MARKER = "pocket-omni-staging"
NEW, OLD = "new", "old"
MOVE_AWAY = "move it away, or give another name"


class StagedFolder:
    """The staging folder of `target`, which is `path` with symbolic links resolved."""

    def __init__(self, path: Path) -> None:
        self.target = Path(os.path.realpath(path))
        self.folder = self.target.with_name(f".{self.target.name}.partial")
        self.new = self.folder / NEW
        self._old = self.folder / OLD
        self._marker = self.folder / MARKER

    def check(self) -> None:
        """Raise UsageError when the target or the staging folder cannot be replaced."""
        here = Path.cwd().resolve()
        if self.target == here or self.target in here.parents:
            raise UsageError(
                f"{self.target} contains the current folder, so it cannot be replaced",
                fix="give the name of a new folder",
            )
        if self.target.is_mount():
            raise UsageError(
                f"{self.target} is a mount point, so it cannot be replaced",
                fix="give the name of a folder inside it",
            )
        if os.path.lexists(self.folder) and not self._is_ours():
            raise UsageError(
                f"{self.folder} exists and was not written by pocket-omni", fix=MOVE_AWAY
            )

    def prepare(self) -> None:
        """Create or reuse the staging folder. Raises UsageError as `check` does."""
        self.check()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._marker.touch()

    def open(self) -> None:
        """Prepare the folder and recover after a crash. `new` may hold files of that process."""
        self.prepare()
        self.recover()
        _remove(self._old)

    def recover(self) -> None:
        """Restore the old version if a process was killed between the two renames."""
        if not os.path.lexists(self.target) and self._marker.is_file() and self._old.is_dir():
            self._old.rename(self.target)
            _sync(self.target.parent)

    def commit(self) -> None:
        """Replace the target by the new version. On failure the target is unchanged."""
        for folder, _, files in os.walk(self.new):
            for name in files:
                _sync(Path(folder) / name)
            _sync(Path(folder))
        _sync(self.folder)
        if self.target.exists():
            self.target.rename(self._old)
        try:
            self.new.rename(self.target)
        except OSError:
            self.recover()
            raise
        _sync(self.folder)
        _sync(self.target.parent)

    def remove(self) -> None:
        """Recover, then remove the staging folder, its marker last."""
        self.recover()
        for path in self.folder.iterdir():
            if path != self._marker:
                _remove(path)
        self._marker.unlink(missing_ok=True)
        self.folder.rmdir()

    def _is_ours(self) -> bool:
        """Return whether the folder has the marker or is empty."""
        if self.folder.is_symlink() or not self.folder.is_dir():
            return False
        return self._marker.is_file() or not any(self.folder.iterdir())


def recover(path: Path) -> None:
    """Restore a folder after a process was killed while it replaced the folder."""
    StagedFolder(path).recover()


def unlisted_files(folder: Path, listed: Collection[str]) -> Iterator[Path]:
    """Yield the files and links below a folder that are not listed. Links are not followed.

    Listed names are relative to the folder, with forward slashes.
    """
    for root, folders, files in os.walk(folder):
        links = [name for name in folders if (Path(root) / name).is_symlink()]
        for name in sorted([*files, *links]):
            path = Path(root) / name
            if path.relative_to(folder).as_posix() not in listed:
                yield path


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Flush a file, or the entries of a folder, to disk."""
    windows = os.name == "nt"
    if windows and path.is_dir():
        return  # Windows cannot sync folders
    handle = os.open(path, os.O_RDWR if windows else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
