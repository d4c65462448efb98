"""Cache of prepacked weights: copies of graphs whose weights ONNX Runtime has packed already.

ONNX Runtime packs most matrices whenever it opens a graph, which costs seconds and memory. If our
kernels do not read the weights from the bundle, the packed weights are written once and mapped at
the next start. A copy is valid for one graph, one processor and one version of ONNX Runtime.

A damaged copy could crash the process or change its results. Its SHA-256 is therefore verified on
the first use after a boot, and whenever the modification time of a file has changed. Verifying
gigabytes at every start would cost much of the gain.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from time import time
from types import MappingProxyType
from typing import Any

import msgspec
import onnxruntime as ort
from msgspec import Struct

from omni_runtime import machine, processor_features
from omni_runtime.atomic_file import write_bytes
from omni_runtime.bundle.manifest import Manifest
from omni_runtime.engine.kernels import KernelLibrary
from omni_runtime.errors import OmniError

LEAST = 64 * 2**20
"""Graphs with fewer bytes open fast enough without a copy."""

LARGER = 3
"""Upper bound of the size of a copy relative to its graph. Measured: 1.9 to 2.4."""

LEFT_FREE = 8 * 2**30
"""Bytes of the disk that copies leave free."""

UNUSED = 30 * 24 * 3600.0
UNFINISHED = 3600.0
"""Seconds after which an unused copy, and an unfinished one, is deleted."""

Settings = Callable[[], Any]
"""Returns new session options of ONNX Runtime, which has no type annotations for them."""

GRAPH, WEIGHTS, RECORD = "model.onnx", "weights.bin", "checked.json"

PIECE = 2**24
"""Bytes that one thread hashes at a time."""


class _Part(Struct, frozen=True):
    """A file of a copy: bytes, time of change, and SHA-256 over those of its pieces."""

    size: int
    changed: int
    digest: str


class _Record(Struct, frozen=True):
    """The files of a copy, and the start of the machine after which they were last read."""

    started: int
    parts: dict[str, _Part]


def folder() -> Path:
    """Return the folder of all copies."""
    return machine.cache_folder() / "packed"


def size() -> int | None:
    """Return the bytes of all copies, or None if there are none."""
    try:
        files = [path for path in folder().rglob("*") if path.is_file()]
        return sum(file.stat().st_size for file in files) if files else None
    except (OSError, OmniError):  # one just went, or there is no folder for caches
        return None


def place(manifest: Manifest, file: Path, graph: str, native: KernelLibrary) -> Path | None:
    """Return the folder for the copy of a graph, or None if it would gain nothing.

    `file` is the graph in the bundle, `native` the library of our kernels.
    """
    if graph == "vocoder" or native.reads(graph) or manifest.graphs[graph].bytes < LEAST:
        return None  # of the vocoder's convolutions little is packed
    key = hashlib.sha256(file.name.encode())
    for part in sorted(file.parent.iterdir()):
        name = f"{Path(manifest.graphs[graph].file).parent.as_posix()}/{part.name}"
        written = part.stat().st_mtime_ns  # the same bundle, written again since it was damaged
        key.update(repr((name, manifest.files.get(name), written)).encode())
    features = sorted(processor_features.detect())
    library = native.library and native.library.name.rpartition("-")[0]  # its sources and flags
    key.update(repr((ort.__version__, machine.processor(), features, library)).encode())
    with suppress(OmniError):  # there is no folder for caches, as the doctor says
        return folder() / key.hexdigest()[:16]
    return None


def opened(file: Path, copy: Path, settings: Settings) -> ort.InferenceSession:
    """Open a graph from its copy, and write the copy if there is none.

    If the copy cannot be written, the session works, but the next start is slow, too. Raises what
    ONNX Runtime raises for a graph that it cannot load.
    """
    if _whole(copy):
        packed = settings()
        packed.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # it was done
        with suppress(OSError):
            os.utime(copy)
        with suppress(Exception):  # a copy that cannot be loaded is written again
            return load(copy / GRAPH, packed)
    try:
        unfinished = _room(copy, sum(part.stat().st_size for part in file.parent.iterdir()))
    except OSError:
        unfinished = None
    if unfinished is None:
        return load(file, settings())
    try:
        session = load(file, _writing(unfinished, settings()))
        _write_record(unfinished)
        with suppress(OSError):  # another process was faster
            unfinished.replace(copy)
    except Exception:  # the disk, or the graph, which then tells
        return load(file, settings())
    else:
        return session
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _whole(copy: Path) -> bool:
    """Whether there is a copy that is ours and as it was written; reads it once a machine start."""
    try:
        if not machine.is_private(copy):
            return False
        record = msgspec.json.decode((copy / RECORD).read_bytes(), type=_Record)
        if set(record.parts) != {path.name for path in copy.iterdir()} - {RECORD}:
            return False
        trusted = record.started == machine.boot_time()
        for name, part in record.parts.items():
            state = (copy / name).stat()
            if state.st_size != part.size:
                return False
            if trusted and state.st_mtime_ns == part.changed:
                continue
            trusted = False
            if _digest(copy / name) != part.digest:
                return False
        if not trusted:
            _write_record(copy, record.parts)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return False
    return True


def _write_record(copy: Path, known: Mapping[str, _Part] = MappingProxyType({})) -> None:
    """Record a copy's files as they are; what is `known` was just read."""
    parts: dict[str, _Part] = {}
    for path in copy.iterdir():
        if path.name != RECORD:
            state = path.stat()
            digest = known[path.name].digest if path.name in known else _digest(path)
            parts[path.name] = _Part(state.st_size, state.st_mtime_ns, digest)
    write_bytes(copy / RECORD, msgspec.json.encode(_Record(machine.boot_time(), parts)))


def _digest(path: Path) -> str:
    """SHA-256 over the SHA-256 of each piece of a file, on all cores."""

    def piece(start: int) -> bytes:
        with path.open("rb") as file:
            file.seek(start)
            return hashlib.sha256(file.read(PIECE)).digest()

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        pieces = pool.map(piece, range(0, path.stat().st_size, PIECE))
        return hashlib.sha256(b"".join(pieces)).hexdigest()


def load(file: Path, settings: Any) -> ort.InferenceSession:
    """Open a session on the CPU."""
    # Without a fallback, which would print an error of its own and fail once more.
    return ort.InferenceSession(
        file, settings, providers=["CPUExecutionProvider"], enable_fallback=0
    )


def _room(copy: Path, size: int) -> Path | None:
    """Return a new folder for a copy, or None if the disk is too full. Deletes old copies."""
    copy.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    for there in copy.parent.iterdir():
        limit = UNFINISHED if there.name.startswith(".") else UNUSED
        if there == copy or time() - there.stat().st_mtime > limit:
            shutil.rmtree(there, ignore_errors=True)
    if shutil.disk_usage(copy.parent).free < LARGER * size + LEFT_FREE:
        return None
    return Path(tempfile.mkdtemp(prefix=".", dir=copy.parent))


def _writing(where: Path, settings: Any) -> Any:
    settings.optimized_model_filepath = str(where / GRAPH)
    for key, value in (
        ("session.save_external_prepacked_constant_initializers", "1"),
        ("session.optimized_model_external_initializers_file_name", WEIGHTS),
        ("session.optimized_model_external_initializers_min_size_in_bytes", "1024"),
    ):
        settings.add_session_config_entry(key, value)
    return settings
