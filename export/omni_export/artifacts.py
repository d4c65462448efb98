"""Artifacts of an unfinished bundle: kept when an export is killed, and reused by the next one.

An artifact is a set of files of the bundle. A finished artifact has a record with the hashes of its
files. The next export of the same request hashes the files again and reuses them if the hashes
match. Files without a record are removed. The manifest is written last, so that an unfinished
folder is never mistaken for a bundle.
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
"""Bytes. Smaller files of a checkpoint are identified by their content, larger ones by size and
modification time."""


@dataclass(frozen=True)
class Written:
    """The result of an artifact: its files, relative to the bundle, and its manifest entry."""

    files: tuple[str, ...]
    graph: GraphEntry | None = None
    table: TableEntry | None = None


@dataclass(frozen=True)
class Artifact:
    """A part of the bundle to write. `write` takes the bundle folder and a progress callback.

    `weights` is the number of weights of the checkpoint that it reads.
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
        """Open the store, and clear it if `request` differs from that of the last export.

        `request` is everything that the artifacts depend on. `bundle` receives their files. No
        other process may use `folder` and `bundle`.
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
        """Return the named artifacts that are finished and unchanged. Remove all other files."""
        valid = {name: record for name in names if (record := self._verified(name))}
        for path in self._records.iterdir():
            if path.stem not in valid:
                path.unlink()
        kept = {file for record in valid.values() for file in record.files}
        for path in self.bundle.rglob("*"):
            if path.is_file() and path.relative_to(self.bundle).as_posix() not in kept:
                path.unlink()
        return valid

    def finish(self, name: str, written: Written) -> Finished:
        """Record that an artifact is finished. Return the record."""
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
            entries = {file: file_entry(self.bundle / file) for file in record.files}
        except (OSError, msgspec.DecodeError):
            return None
        return record if entries == record.files else None


def finished_artifacts(folder: Path) -> int:
    """Return the number of finished artifacts of an unfinished export."""
    return len(list((folder / "artifacts").glob("*.json")))


def file_entry(path: Path) -> FileEntry:
    """Return the size and SHA-256 of a file."""
    return FileEntry(bytes=path.stat().st_size, sha256=sha256_of(path))


def digest_of_files(folder: Path, pattern: str, skip: Iterable[Path] = ()) -> str:
    """Return a digest of the matching files outside `skip`. Large files are not read."""
    digest, folder = hashlib.sha256(), folder.resolve()
    skipped = [path.resolve() for path in skip]
    for path in sorted(folder.rglob(pattern)):
        if path.is_file() and not any(map(path.is_relative_to, skipped)):
            state = path.stat()
            content = sha256_of(path) if state.st_size <= SMALL else str(state.st_mtime_ns)
            name = path.relative_to(folder).as_posix()
            digest.update(f"{name} {state.st_size} {content}\n".encode())
    return digest.hexdigest()
