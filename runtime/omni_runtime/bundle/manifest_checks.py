"""A manifest is a stranger's data: names stay inside, numbers in bounds, text is printable."""

import math
import unicodedata
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import msgspec

from omni_runtime.bundle.contracts import contracts
from omni_runtime.bundle.manifest import EXPORT_AGAIN, Manifest
from omni_runtime.errors import BundleError

LARGEST = 2**48
"""Bound of every whole number; sizes of files are the largest ones."""
BOUNDS = {
    "steps": 1000,
    "max_codes": 2**24,
    "max_context": 2**24,
    "padded_samples": 2**28,
    "block_frames": 2**20,
    "image_max_pixels": 2**28,
    "video_max_pixels": 2**28,
    "video_max_frames": 2**16,
    "sample_rate": 2**20,
    "n_fft": 2**16,
    "hop_length": 2**16,
    "n_mels": 2**12,
    "patch_size": 2**10,
    "temporal_patch_size": 2**6,
    "merge_size": 2**6,
    "window_size": 2**16,
    "head_dim": 2**12,
    "layers": 2**10,
    "hidden_size": 2**17,
    "input_size": 2**17,
    "heads": 2**10,
    "kv_heads": 2**10,
    "vocab_size": 2**24,
    "mel_dim": 2**12,
    "codes": 2**20,
    "samples_per_frame": 2**16,
    "context_frames": 2**16,
    "frames_per_code": 2**8,
    "ids_per_second": 2**12,
    "rows": 2**24,
    "columns": 2**20,
}
"""Of whole numbers from 1: far above every checkpoint, and too low to allocate absurd amounts."""
LEAST = {"context_frames": 0, "sample_rate": 1000}
"""Bounds from below that are not 1."""
LINES_ALLOWED = "system_prompt"
SPEECH_TABLES = ("talker_embedding", "dit_code")
ENCODINGS = ("float32", "bfloat16", "int8")


def check(manifest: Manifest, folder: Path) -> None:
    """Raise BundleError for a manifest that could do harm."""
    for where, value in _leaves(manifest, ""):
        problem = _problem(where.rpartition(".")[2], value)
        if problem:
            raise BundleError(f"{folder}: {where} {problem}", fix=EXPORT_AGAIN)
    for name in manifest.files:
        _check_name(name, folder)
    speech = manifest.model.speech
    if speech and speech.dit.block_frames % speech.dit.frames_per_code:
        raise BundleError(f"{folder}: a block is no whole number of codes", fix=EXPORT_AGAIN)
    tables = ("thinker_embedding", *(SPEECH_TABLES if speech else ()))
    missing = contracts(manifest.model).keys() - manifest.graphs.keys()
    for name in sorted(missing) or [name for name in tables if name not in manifest.tables]:
        raise BundleError(f"{folder} lacks {name}", fix=EXPORT_AGAIN)
    for where, name in _named(manifest):
        if name not in manifest.files:
            raise BundleError(
                f"{folder}: {where} names a file that is not listed", fix=EXPORT_AGAIN
            )
    for name, entry in manifest.tables.items():
        if entry.encoding not in ENCODINGS:
            raise BundleError(f"{folder}: {name} has an unknown encoding", fix=EXPORT_AGAIN)


def _leaves(value: Any, where: str) -> Iterator[tuple[str, Any]]:
    """Yield (path, value) of all numbers and strings, keys included."""
    if isinstance(value, msgspec.Struct):
        for field in msgspec.structs.fields(value):
            yield from _leaves(getattr(value, field.name), f"{where}.{field.name}".lstrip("."))
    elif isinstance(value, dict):
        for key, item in value.items():
            yield f"{where}.key", key
            yield from _leaves(item, f"{where}.{str(key)[:40]}")
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _leaves(item, where)
    elif isinstance(value, str | int | float) and not isinstance(value, bool):
        yield where, value


def _problem(name: str, value: str | float) -> str | None:
    if isinstance(value, str):
        allowed = "\n\t" if name == LINES_ALLOWED else ""
        if any(unicodedata.category(c) == "Cc" and c not in allowed for c in value):
            return "holds control characters"
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return "is not finite"
    least = LEAST.get(name, 1) if name in BOUNDS else -LARGEST
    if not least <= value <= BOUNDS.get(name, LARGEST):
        return f"is out of range: {value}"
    return None


def _check_name(name: str, folder: Path) -> None:
    """Refuse names that lead out of the folder, also by a link."""
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    outside = posix.is_absolute() or windows.drive or windows.root or ".." in windows.parts
    if outside or not posix.parts or not (folder / name).resolve().is_relative_to(folder.resolve()):
        raise BundleError(
            f"{folder}: the file name {name[:80]!r} leads out of the bundle", fix=EXPORT_AGAIN
        )


def _named(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Yield (where, file name) of all files that graphs and tables need."""
    for name, graph in manifest.graphs.items():
        yield name, graph.file
        if graph.int8_cache is not None:
            yield name, graph.int8_cache
    for name, table in manifest.tables.items():
        yield name, table.file
        if table.scales is not None:
            yield name, table.scales
