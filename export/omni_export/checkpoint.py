"""Tensors of a checkpoint, read one at a time. Every tensor must be used or explicitly dropped.

Opening a checkpoint reads only the headers. No file stays open, since pages of a mapped file count
as memory of the process until it is unmapped. `claim` marks a tensor as used and returns a handle
that reads it on demand; `drop` marks tensors that the graphs do not use, with the reason.
`check_all_used` raises an error for any other tensor. A folder with virtual random weights
(`random_weights.py`) is read in the same way.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from omni_export import random_weights
from omni_export.source import read_json
from omni_runtime.arrays import FloatArray
from omni_runtime.errors import OmniError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
REPAIR = "download the checkpoint again"
NAMES_SHOWN = 5


@dataclass(frozen=True)
class TensorHandle:
    """A tensor that is read as float32 by each call of `read`. Nothing is cached."""

    name: str
    shape: tuple[int, ...]
    _get: Callable[[slice | None], torch.Tensor]

    def read(self) -> FloatArray:
        """Read the complete tensor."""
        return self._float32(lambda: self._get(None))

    def rows(self, start: int, stop: int) -> FloatArray:
        """Read the rows start ... stop only."""
        return self._float32(lambda: self._get(slice(start, stop)))

    def _float32(self, get: Callable[[], torch.Tensor]) -> FloatArray:
        try:
            return get().to(torch.float32).numpy()
        except (SafetensorError, OSError) as error:
            raise OmniError(f"tensor {self.name} cannot be read: {error}", fix=REPAIR) from None


class Checkpoint:
    """The tensors of a checkpoint folder by name."""

    def __init__(self, folder: Path) -> None:
        """Read the headers. Raises OmniError for missing, truncated or unreadable shards.

        `random`: the weights are virtual and random.
        """
        self._handles: dict[str, TensorHandle] = {}
        self._accounted: set[str] = set()
        self._claims: set[tuple[str, str]] = set()
        self.random = random_weights.described(folder)
        if self.random:
            random = random_weights.RandomWeights(folder)
            for name, shape in random.shapes.items():
                self._handles[name] = TensorHandle(name, shape, partial(random.get, name))
        else:
            for path, names in _shards(folder).items():
                self._read_header(path, names)

    def _read_header(self, path: Path, names: set[str] | None) -> None:
        try:
            shapes = _shapes(path)
        except FileNotFoundError:
            raise OmniError(f"the checkpoint lacks {path.name}", fix=REPAIR) from None
        except (SafetensorError, OSError) as error:
            raise OmniError(f"{path} is damaged or truncated: {error}", fix=REPAIR) from None
        if names is not None and (missing := names - set(shapes)):
            raise OmniError(
                f"{path.name} lacks {_some(missing)}, which its index lists", fix=REPAIR
            )
        for name, shape in shapes.items():
            self._handles[name] = TensorHandle(name, shape, partial(_read, path, name))

    def __contains__(self, name: str) -> bool:
        return name in self._handles

    def shapes(self, prefix: str) -> dict[str, tuple[int, ...]]:
        """Return the names and shapes of all tensors with a prefix."""
        return {name: h.shape for name, h in self._handles.items() if name.startswith(prefix)}

    def claim(
        self, name: str, shape: tuple[int, ...] | None = None, part: str = ""
    ) -> TensorHandle:
        """Mark a tensor as used and check its shape. `part` names the part if several share it.

        Raises OmniError if there is no such tensor or it has another shape.
        """
        handle = self._handles.get(name)
        if handle is None:
            raise OmniError(f"the checkpoint lacks the tensor {name}", fix=REPAIR)
        if shape is not None and handle.shape != shape:
            raise OmniError(
                f"tensor {name} has shape {handle.shape}, but config.json requires {shape}",
                fix="use the config.json that belongs to these weights",
            )
        if (name, part) in self._claims:
            raise AssertionError(f"tensor {name} {part} is used twice")
        self._claims.add((name, part))
        self._accounted.add(name)
        return handle

    def drop(self, reasons: Mapping[str, str]) -> None:
        """Mark the tensors with each name or prefix as unused. The values are the reasons."""
        for prefix in reasons:
            self._accounted |= {name for name in self._handles if name.startswith(prefix)}

    def check_all_used(self) -> None:
        """Raise OmniError if a tensor was neither claimed nor dropped."""
        if extra := set(self._handles) - self._accounted:
            raise OmniError(
                f"the checkpoint has tensors that no graph uses: {_some(extra)}",
                fix="use a checkpoint of the published architecture, without adapters",
            )


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    with safe_open(path, framework="pt") as shard:
        return {name: tuple(shard.get_slice(name).get_shape()) for name in shard.keys()}  # noqa: SIM118


def _read(path: Path, name: str, rows: slice | None) -> torch.Tensor:
    with safe_open(path, framework="pt") as shard:
        return shard.get_tensor(name) if rows is None else shard.get_slice(name)[rows]


def _shards(folder: Path) -> dict[Path, set[str] | None]:
    """Return the shards and the tensors that the index lists for each (None: no index)."""
    if (folder / INDEX).exists():
        weight_map = read_json(folder / INDEX).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise OmniError(f"{folder / INDEX} has no weight_map", fix=REPAIR)
        shards: dict[Path, set[str] | None] = {}
        for name, file in weight_map.items():
            if Path(str(file)).name != file:
                raise OmniError(f"{folder / INDEX} points outside its folder: {file}", fix=REPAIR)
            names = shards.setdefault(folder / file, set())
            assert names is not None
            names.add(str(name))
        return shards
    if (folder / SINGLE).exists():
        return {folder / SINGLE: None}
    raise OmniError(f"{folder} has neither {INDEX} nor {SINGLE}", fix=REPAIR)


def _some(names: set[str]) -> str:
    shown = sorted(names)[:NAMES_SHOWN]
    rest = len(names) - len(shown)
    return ", ".join(shown) + (f" and {rest} more" if rest else "")
