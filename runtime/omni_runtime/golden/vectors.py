"""The folder of golden vectors: file format and comparison.

The cases are in `text_cases.py` and `graph_cases.py`. Arrays of floats or bytes are files of raw
little-endian, row-major numbers; everything else is JSON. Any language can read both without a
library. docs/bundle.md describes the format.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from omni_runtime.errors import OmniError, UsageError

FORMAT = 1
INDEX = "golden.json"
OTHER_FOLDER = "name another folder"

Values = dict[str, Any]
"""Nested JSON values, Tensors and Files by name. Arrays of integers are lists."""


@dataclass(frozen=True)
class Tensor:
    """An array of float32, float64 or uint8.

    `tolerance` is the largest allowed error, relative to the largest magnitude in the array.
    """

    values: npt.NDArray[Any]
    tolerance: float = 0.0


@dataclass(frozen=True)
class File:
    """An audio or image file."""

    name: str
    data: bytes


@dataclass(frozen=True)
class Case:
    """Inputs and outputs of one part of the model."""

    inputs: Values
    outputs: Values


class _Index(msgspec.Struct):
    format: int
    cases: dict[str, dict[str, Any]]


def write(folder: Path, bundle: Mapping[str, str], cases: Mapping[str, Case]) -> None:
    """Write vectors to a folder, the index last.

    Raises UsageError when the folder is not empty, OmniError when it cannot be written.
    """
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UsageError(
                f"{folder} exists and is not empty", fix=OTHER_FOLDER, code="golden_folder"
            )
        folder.mkdir(parents=True, exist_ok=True)
        lines = [
            f"{json.dumps(name)}: "
            + _compact(
                {
                    "inputs": _stored(case.inputs, f"{name}.inputs", folder),
                    "outputs": _stored(case.outputs, f"{name}.outputs", folder),
                }
            )
            for name, case in cases.items()
        ]
        head = f'{{"format": {FORMAT}, "bundle": {_compact(dict(bundle))}, "cases": {{\n'
        (folder / INDEX).write_text(head + ",\n".join(lines) + "\n}}\n", "utf-8", newline="\n")
    except OSError as error:
        raise OmniError(
            f"{folder} cannot be written: {error.strerror}",
            fix=OTHER_FOLDER,
            code="golden_folder",
        ) from None


def read(folder: Path) -> dict[str, Case]:
    """Read the vectors in a folder. Raises OmniError when they are missing or damaged."""
    try:
        index = msgspec.json.decode((folder / INDEX).read_bytes(), type=_Index)
        if index.format != FORMAT:
            raise _invalid(f"{folder} has format {index.format}, but this runtime reads {FORMAT}")
        return {
            name: Case(_loaded(case["inputs"], folder), _loaded(case["outputs"], folder))
            for name, case in index.cases.items()
        }
    except FileNotFoundError as error:
        missing = Path(str(error.filename)).name
        raise _invalid(f"{folder} has no {missing}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise _invalid(f"{folder} holds no golden vectors: {reason}") from None


def _invalid(message: str) -> OmniError:
    return OmniError(message, fix="write the golden vectors again", code="invalid_vectors")


def differences(name: str, recorded: Any, found: Any) -> Iterator[str]:
    """Yield a line for each value that differs; a tensor has one line at most."""
    if isinstance(recorded, Tensor):
        yield from _tensor_difference(name, recorded, found)
    elif isinstance(recorded, dict) and isinstance(found, dict):
        for key in {**recorded, **found}:
            if key in recorded and key in found:
                yield from differences(f"{name}.{key}", recorded[key], found[key])
            else:
                where = "the vectors" if key in recorded else "this bundle"
                yield f"{name}.{key} is only in {where}"
    elif isinstance(recorded, list) and isinstance(found, list) and len(recorded) == len(found):
        for place, (one, other) in enumerate(zip(recorded, found, strict=True)):
            yield from differences(f"{name}[{place}]", one, other)
    elif isinstance(recorded, list) and isinstance(found, list):
        yield f"{name} has {len(found)} values instead of {len(recorded)}"
    elif recorded != found:
        yield f"{name} is {_short(found)} instead of {_short(recorded)}"


def _tensor_difference(name: str, recorded: Tensor, found: Any) -> Iterator[str]:
    wanted = recorded.values
    values = np.asarray(found.values if isinstance(found, Tensor) else found)
    if values.shape != wanted.shape or values.dtype != wanted.dtype:
        yield f"{name} is {values.dtype} {values.shape} instead of {wanted.dtype} {wanted.shape}"
        return
    finite = np.abs(wanted[np.isfinite(wanted)].astype(np.float64))
    allowed = recorded.tolerance * (finite.max() if finite.size else 0.0)
    with np.errstate(invalid="ignore"):  # infinity - infinity
        error = np.abs(values.astype(np.float64) - wanted.astype(np.float64))
    error[values == wanted] = 0.0
    wrong = ~(error <= allowed)  # also true for NaN
    if wrong.any():
        error[np.isnan(error)] = np.inf
        place = np.unravel_index(int(error.argmax()), error.shape)
        where = ", ".join(map(str, place))
        yield (
            f"{name}[{where}] is {values[place]:.6g} instead of {wanted[place]:.6g} "
            f"({int(wrong.sum())} of {wrong.size} differ by more than {allowed:.2g})"
        )


def _stored(value: Any, path: str, folder: Path) -> Any:
    """Return the value as JSON. Tensors and files are written to the folder."""
    if isinstance(value, Tensor):
        name = f"{path}.bin"
        array = np.ascontiguousarray(value.values)
        (folder / name).write_bytes(array.astype(array.dtype.newbyteorder("<")).tobytes())
        return {
            "file": name,
            "dtype": array.dtype.name,
            "shape": list(array.shape),
            "tolerance": value.tolerance,
        }
    if isinstance(value, File):
        (folder / value.name).write_bytes(value.data)
        return {"file": value.name}
    if isinstance(value, dict):
        return {key: _stored(one, f"{path}.{key}", folder) for key, one in value.items()}
    if isinstance(value, list):
        return [_stored(one, f"{path}.{place}", folder) for place, one in enumerate(value)]
    return value


def _loaded(value: Any, folder: Path) -> Any:
    if isinstance(value, dict) and "file" in value:
        data = (folder / Path(value["file"]).name).read_bytes()
        if "dtype" not in value:
            return File(value["file"], data)
        dtype = np.dtype(value["dtype"])
        array = np.frombuffer(data, dtype.newbyteorder("<")).astype(dtype)
        return Tensor(array.reshape(value["shape"]), float(value["tolerance"]))
    if isinstance(value, dict):
        return {key: _loaded(one, folder) for key, one in value.items()}
    return [_loaded(one, folder) for one in value] if isinstance(value, list) else value


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(", ", ": "), allow_nan=False)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=lambda other: type(other).__name__)
    return text if len(text) <= 60 else f"{text[:57]}..."
