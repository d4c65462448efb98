"""Replace a folder at once: a new version is staged beside it and takes its name when it is whole.

The staging folder `.NAME.partial` holds the new version and, for the moment between two renames,
the old one. It carries a marker file, the first thing written and the last one removed, so that
nothing is ever deleted that we did not write. A process may be killed, and the power may fail, at
any time: afterwards `recover` finds the old version or the new one, whole.
"""

import os
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

from omni_runtime.errors import UsageError

MARKER = "pocket-omni-staging"
NEW, OLD = "new", "old"
AWAY = "move it away, or give another name"


class StagedFolder:
    """The staging folder of `target`, which is `path` with all links followed."""

    def __init__(self, path: Path) -> None:
        self.target = Path(os.path.realpath(path))
        self.folder = self.target.with_name(f".{self.target.name}.partial")
        self.new = self.folder / NEW
        self._old = self.folder / OLD
        self._marker = self.folder / MARKER

    def check(self) -> None:
        """Raise UsageError when the target cannot be replaced, or the staging name is taken."""
        here = Path.cwd().resolve()
        if self.target == here or self.target in here.parents:
            raise UsageError(
                f"{self.target} is the current folder or holds it, and cannot be replaced",
                fix="give the name of a new folder",
            )
        if self.target.is_mount():
            raise UsageError(
                f"{self.target} is a mount point, and cannot be replaced",
                fix="give the name of a folder inside it",
            )
        if os.path.lexists(self.folder) and not self._ours():
            raise UsageError(f"{self.folder} exists and was not written by pocket-omni", fix=AWAY)

    def prepare(self) -> None:
        """Create the staging folder, or take over ours. Raises as `check` does."""
        self.check()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._marker.touch()

    def open(self) -> None:
        """Prepare, and recover what a killed process left: `new` may hold its files."""
        self.prepare()
        self.recover()
        _remove(self._old)

    def recover(self) -> None:
        """Give the old version its name back if a process was killed before the new one had it."""
        if not os.path.lexists(self.target) and self._marker.is_file() and self._old.is_dir():
            self._old.rename(self.target)
            _sync(self.target.parent)

    def commit(self) -> None:
        """Put the new version in the place of the target. On failure the target is as it was."""
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
        """Remove the staging folder, its marker last. It stays if the old version is only there."""
        self.recover()
        for path in self.folder.iterdir():
            if path != self._marker:
                _remove(path)
        self._marker.unlink(missing_ok=True)
        self.folder.rmdir()

    def _ours(self) -> bool:
        """Whether we made the folder. An empty one loses nothing."""
        if self.folder.is_symlink() or not self.folder.is_dir():
            return False
        return self._marker.is_file() or not any(self.folder.iterdir())


def recover(path: Path) -> None:
    """Finish what a killed process left of the replacement of a folder; does nothing otherwise."""
    StagedFolder(path).recover()


def strangers(folder: Path, listed: Collection[str]) -> Iterator[Path]:
    """Everything in a folder, links not followed, that is no folder and not among the listed names.

    Names are relative to the folder, with forward slashes.
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
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    windows = os.name == "nt"
    if windows and path.is_dir():
        return  # there is no such call for folders
    handle = os.open(path, os.O_RDWR if windows else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
