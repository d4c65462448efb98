"""Artifacts of an unfinished bundle, kept when an export is killed and reused by the next one.

An artifact is some files of the bundle. When it is finished, its files are hashed and recorded
on disk; the next export of the same request reads the record, hashes the files again and
takes them over if nothing has changed. Files without such a record are removed. The folder holds
no manifest until all artifacts are there, so it never looks like a bundle.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec
from msgspec import Struct

from omni_runtime.bundle.manifest import FileEntry, GraphEntry, TableEntry
from omni_runtime.checksums import sha256_of

SMALL = 2**24
"""Files of a checkpoint up to this size are told apart by their content, larger ones by their
size and their time of change."""


@dataclass(frozen=True)
class Written:
    """The result of an artifact: its files, relative to the bundle, and its manifest entry."""

    files: tuple[str, ...]
    graph: GraphEntry | None = None
    table: TableEntry | None = None


@dataclass(frozen=True)
class Artifact:
    """Something to be written: `write` takes the bundle's folder and whom to tell how far it is.

    `weights` is how many weights of the checkpoint it takes.
    """

    name: str
    weights: int
    write: Callable[[Path, Callable[[int], None]], Written]


class Finished(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The record of a finished artifact."""

    files: dict[str, FileEntry]
    graph: GraphEntry | None
    table: TableEntry | None


class ArtifactStore:
    """The folder of an unfinished export."""

    def __init__(self, folder: Path, request: str, bundle: Path) -> None:
        """`request` is everything the artifacts depend on; a different one starts from nothing.

        `folder` and `bundle`, where the files of the artifacts go, are ours alone.
        """
        self.bundle = bundle
        self._records = folder / "artifacts"
        stamp = folder / "request"
        if not stamp.is_file() or stamp.read_text("utf-8") != request:
            for path in (self.bundle, self._records):
                shutil.rmtree(path, ignore_errors=True)
        for path in (self.bundle, self._records):
            path.mkdir(exist_ok=True)
        stamp.write_text(request, "utf-8")

    def finished(self, names: Iterable[str]) -> dict[str, Finished]:
        """The named artifacts that are there and unchanged; all other files are removed."""
        found = {name: record for name in names if (record := self._verified(name))}
        for path in self._records.iterdir():
            if path.stem not in found:
                path.unlink()
        kept = {file for record in found.values() for file in record.files}
        for path in self.bundle.rglob("*"):
            if path.is_file() and path.relative_to(self.bundle).as_posix() not in kept:
                path.unlink()
        return found

    def finish(self, name: str, written: Written) -> Finished:
        """Record that a artifact is finished."""
        record = Finished(
            files={file: file_entry(self.bundle / file) for file in written.files},
            graph=written.graph,
            table=written.table,
        )
        path = self._path(name)
        path.with_suffix(".new").write_bytes(msgspec.json.encode(record))
        path.with_suffix(".new").replace(path)
        return record

    def _path(self, name: str) -> Path:
        return self._records / f"{name}.json"

    def _verified(self, name: str) -> Finished | None:
        try:
            record = msgspec.json.decode(self._path(name).read_bytes(), type=Finished)
            found = {file: file_entry(self.bundle / file) for file in record.files}
        except (OSError, msgspec.DecodeError):
            return None
        return record if found == record.files else None


def finished_artifacts(folder: Path) -> int:
    """How many artifacts a stopped export has left in its folder."""
    return len(list((folder / "artifacts").glob("*.json")))


def file_entry(path: Path) -> FileEntry:
    """Size and digest of a file."""
    return FileEntry(bytes=path.stat().st_size, sha256=sha256_of(path))


def digest_of_files(folder: Path, pattern: str) -> str:
    """A digest that changes when a file that matches does. Large files are not read."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob(pattern)):
        if path.is_file():
            state = path.stat()
            known = sha256_of(path) if state.st_size <= SMALL else str(state.st_mtime_ns)
            name = path.relative_to(folder).as_posix()
            digest.update(f"{name} {state.st_size} {known}\n".encode())
    return digest.hexdigest()
