"""Graphs with their weights as ONNX Runtime's kernels want them, kept with the user's caches.

ONNX Runtime packs most matrices whenever it opens a graph, which takes seconds and memory of its
own. Where no kernel of ours reads them from the bundle instead, it writes what it packed once, and
maps the file from then on. Such a copy fits one graph, one processor and one ONNX Runtime.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import time
from typing import Any

import onnxruntime as ort

from omni_runtime import machine, processor_features
from omni_runtime.bundle.manifest import Manifest
from omni_runtime.engine.kernels import KernelLibrary

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

GRAPH, WEIGHTS = "model.onnx", "weights.bin"


def folder() -> Path:
    """Where the copies are."""
    return machine.caches() / "packed"


def size() -> int | None:
    """Bytes of all copies; None where there are none."""
    try:
        files = [path for path in folder().rglob("*") if path.is_file()]
        return sum(file.stat().st_size for file in files) if files else None
    except (OSError, RuntimeError):  # one just went, or there is no home
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
    features = sorted(processor_features.found())
    library = native.library and native.library.name
    key.update(repr((ort.__version__, machine.processor(), features, library)).encode())
    with suppress(RuntimeError):  # there is no home
        return folder() / key.hexdigest()[:16]
    return None


def opened(file: Path, copy: Path, settings: Settings) -> ort.InferenceSession:
    """A session of a graph from its copy; where there is none it is written.

    Where it can't be, for want of room or of a right, the session is as good, but opens as slowly
    the next time. Raises what ONNX Runtime raises for a graph that it can't load.
    """
    if (copy / GRAPH).is_file():
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
        with suppress(OSError):  # another process was faster
            unfinished.replace(copy)
    except Exception:  # the disk, or the graph, which then tells
        return load(file, settings())
    else:
        return session
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


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
