"""Graphs with their weights as ONNX Runtime's kernels want them, kept with the user's caches.

ONNX Runtime packs most matrices whenever it opens a graph, which takes seconds and memory of its
own. Where no kernel of ours reads them from the bundle instead, it writes what it packed once, and
maps the file from then on. Such a copy fits one graph, one processor and one ONNX Runtime.

A damaged copy would crash the process or change its answers, so the copy's content is checked when
it is first used after the machine has started, or after a file has changed. To read gigabytes
at every start would cost much of what a copy gains. Within one run of the machine only a write can
change a file, and a write changes its time; what a power failure or a failing disk spoils is found
after the next start of the machine.
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
"""Bytes of a graph below which it opens so fast that a copy gains nothing."""

LARGER = 3
"""A copy holds the weights as they were and as they are packed: at most so many times a graph's
bytes. Measured: 1.9 to 2.4."""

LEFT_FREE = 8 * 2**30
"""Bytes of the disk that copies never take."""

UNUSED = 30 * 24 * 3600.0
UNFINISHED = 3600.0
"""Seconds after which a copy that nobody opened goes, and one that was never finished."""

Settings = Callable[[], Any]
"""Makes ONNX Runtime's options, whose types it does not tell."""

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
    """Where the copies are."""
    return machine.cache_folder() / "packed"


def size() -> int | None:
    """Bytes of all copies; None where there are none."""
    try:
        files = [path for path in folder().rglob("*") if path.is_file()]
        return sum(file.stat().st_size for file in files) if files else None
    except (OSError, OmniError):  # one just went, or there is no folder for caches
        return None


def place(manifest: Manifest, file: Path, graph: str, native: KernelLibrary) -> Path | None:
    """The folder of a graph's copy, be it there or not; None where there is none to have.

    `file` is the graph's within the bundle; `native` the kernels of ours that run.
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
    """A session of a graph from its copy; where there is none it is written.

    Where it can't be, for want of room or of a right, the session is as good, but opens as slowly
    the next time. Raises what ONNX Runtime raises for a graph that it can't load.
    """
    if _whole(copy):
        packed = settings()
        packed.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # it was done
        with suppress(OSError):
            os.utime(copy)
        with suppress(Exception):  # a copy that can't be loaded is made anew
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
    """A session on the CPU."""
    return ort.InferenceSession(file, settings, providers=["CPUExecutionProvider"])


def _room(copy: Path, size: int) -> Path | None:
    """A fresh folder to write a copy in, None where it would fill the disk. Old copies go."""
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
