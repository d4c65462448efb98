"""Tensors in the weight files of a folder: safetensors, or pickles of torch.

Only headers are read. No file stays open, since pages of a mapped file count as memory of the
process until it is unmapped. A pickle is read with `weights_only`, so it cannot run code.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch._subclasses.fake_tensor import FakeTensorMode

from omni_export.source import read_json
from omni_runtime.arrays import FloatArray
from omni_runtime.errors import OmniError

MODEL = ("model.safetensors", "pytorch_model.bin")
ADAPTER = ("adapter_model.safetensors", "adapter_model.bin")
COMPLETE = "complete the folder: copy all files, or finish the download with the hub id as --model"
NAMES_SHOWN = 5
IN_MEMORY = re.compile(r"^(thinker\.)?model\.(language_model\.|(?=audio_tower\.|visual\.))")
"""Names of the Thinker's modules in transformers 5, which PEFT and GPTQModel save as they are."""

Get = Callable[[slice | None], torch.Tensor]
"""Reads some rows of a tensor, or all of it (None), in its own dtype."""


@dataclass(frozen=True)
class TensorHandle:
    """A tensor that is read as float32 by each call of `read`. Nothing is cached."""

    name: str
    shape: tuple[int, ...]
    get: Get
    packed: object = None
    """The same weight in 4 bits, if the checkpoint has it so (`packed.Linear`)."""

    def read(self) -> FloatArray:
        """Read the complete tensor."""
        return self._float32(lambda: self.get(None))

    def rows(self, start: int, stop: int) -> FloatArray:
        """Read the rows start ... stop only."""
        return self._float32(lambda: self.get(slice(start, stop)))

    def _float32(self, get: Callable[[], torch.Tensor]) -> FloatArray:
        try:
            found = get()
        except (SafetensorError, OSError) as error:
            raise OmniError(f"tensor {self.name} cannot be read: {error}", fix=COMPLETE) from None
        if not found.isfinite().all():
            raise OmniError(
                f"tensor {self.name} has NaN or infinite values",
                fix="give --model a checkpoint from before its training diverged",
            )
        return found.to(torch.float32).numpy()


def published(name: str) -> str:
    """Return a published checkpoint's name for one of transformers 5, other names unchanged."""
    return IN_MEMORY.sub(lambda m: (m[1] or "") + ("model." if m[2] else ""), name)


def handles(folder: Path, files: tuple[str, ...] = MODEL) -> dict[str, TensorHandle]:
    """Return the tensors of a folder by the names in its files. `files`: the unsharded names.

    Raises OmniError for missing, truncated or unreadable files.
    """
    found: dict[str, TensorHandle] = {}
    for path, names in _shards(folder, files).items():
        tensors = _header(path)
        if names is not None and (missing := names - set(tensors)):
            raise OmniError(f"{path.name} lacks {some(missing)}, which its index lists")
        found.update(tensors)
    return found


def index_of(folder: Path) -> tuple[dict[str, str], int | None] | None:
    """Return the weight map of a sharded checkpoint and its stated bytes; None without an index."""
    for file in MODEL:
        if (path := folder / f"{file}.index.json").is_file():
            index = read_json(path)
            weight_map, total = index.get("weight_map"), index.get("metadata", {}).get("total_size")
            if not isinstance(weight_map, dict) or not weight_map:
                raise OmniError(f"{path} has no weight_map", fix=COMPLETE)
            return {str(k): str(v) for k, v in weight_map.items()}, total and int(total)
    return None


def some(names: set[str]) -> str:
    """Format a few names for a message."""
    shown = sorted(names)[:NAMES_SHOWN]
    rest = len(names) - len(shown)
    return ", ".join(shown) + (f" and {rest} more" if rest else "")


def _shards(folder: Path, files: tuple[str, ...]) -> dict[Path, set[str] | None]:
    """Return the shards and the tensors that the index lists for each (None: no index)."""
    if files == MODEL and (index := index_of(folder)) is not None:
        shards: dict[Path, set[str] | None] = {}
        for name, file in index[0].items():
            if Path(file).name != file:
                raise OmniError(f"the index of {folder} points outside its folder: {file}")
            names = shards.setdefault(folder / file, set())
            assert names is not None
            names.add(name)
        return shards
    for file in files:
        if (folder / file).exists():
            return {folder / file: None}
    indexes = [f"{file}.index.json" for file in files] if files == MODEL else []
    raise OmniError(f"{folder} has none of {', '.join([*files, *indexes])}", fix=COMPLETE)


def _header(path: Path) -> dict[str, TensorHandle]:
    read = _pickle_header if path.suffix == ".bin" else _safetensors_header
    try:
        return read(path)
    except FileNotFoundError:
        raise OmniError(f"the checkpoint lacks {path.name}", fix=COMPLETE) from None
    except OmniError:
        raise
    except Exception as error:  # pickle may raise any exception
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise OmniError(f"{path} is damaged or truncated: {reason}", fix=COMPLETE) from None


def _safetensors_header(path: Path) -> dict[str, TensorHandle]:
    with safe_open(path, framework="pt") as shard:
        shapes = {name: tuple(shard.get_slice(name).get_shape()) for name in shard.keys()}  # noqa: SIM118
    return {
        name: TensorHandle(name, shape, partial(_safetensor, path, name))
        for name, shape in shapes.items()
    }


def _safetensor(path: Path, name: str, rows: slice | None) -> torch.Tensor:
    with safe_open(path, framework="pt") as shard:
        return shard.get_tensor(name) if rows is None else shard.get_slice(name)[rows]


def _pickle_header(path: Path) -> dict[str, TensorHandle]:
    """Read the index of a file that `torch.save` wrote; the data stay in the file."""
    with FakeTensorMode():
        found = torch.load(path, weights_only=True)
    if not isinstance(found, dict):
        raise OmniError(f"{path} is not a dictionary of tensors", fix="save the state_dict")
    tensors: dict[str, TensorHandle] = {}
    for name, tensor in found.items():
        if not isinstance(tensor, torch.Tensor) or not tensor.is_contiguous():
            raise OmniError(
                f"{path}: {name} is not a plain tensor", fix="save it with save_pretrained"
            )
        base = getattr(tensor.untyped_storage(), "_checkpoint_offset", None)
        if base is None:
            raise OmniError(
                f"{path} has the format before torch 1.6", fix="save it with a later torch"
            )
        offset = int(base) + int(tensor.storage_offset()) * tensor.element_size()
        shape = tuple(tensor.shape)
        get = partial(_pickled, path, offset, tensor.dtype, shape)
        tensors[str(name)] = TensorHandle(str(name), shape, get)
    return tensors


def _pickled(
    path: Path, offset: int, dtype: torch.dtype, shape: tuple[int, ...], rows: slice | None
) -> torch.Tensor:
    start, stop, _ = (rows or slice(None)).indices(shape[0]) if shape else (0, 1, 1)
    row = math.prod(shape[1:]) * dtype.itemsize
    with path.open("rb") as file:
        file.seek(offset + start * row)
        data = bytearray(file.read((stop - start) * row))
    if len(data) < (stop - start) * row:
        raise OSError(f"{path} is truncated")
    return torch.frombuffer(data, dtype=dtype).reshape((stop - start, *shape[1:]) if shape else ())
