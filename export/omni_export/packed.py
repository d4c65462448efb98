"""Linear layers that AWQ or GPTQ has quantized to 4 bits, as their checkpoints store them.

A weight is (q - z) s: an integer of 4 bits, a zero point and a scale for each output and each group
of inputs. The groups of GPTQ with `desc_act` are not contiguous; sorted by group they are. Both are
read without loss. Eight integers share an int32:

- AWQ (gemm): neighbouring outputs, in the order 0 2 4 6 1 3 5 7. `qweight` (inputs, outputs / 8).
- GPTQ: neighbouring inputs. `qweight` (inputs / 8, outputs), zero points of neighbouring outputs.
  Format v2 stores z; v1 has 1 less in each of the 8, subtracted from the int32 as one number.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from omni_export import kinds
from omni_export.source import read_json
from omni_export.weight_files import TensorHandle
from omni_quantize.imported import MIDDLE, Codes, PackedColumns
from omni_runtime.arrays import FloatArray
from omni_runtime.errors import OmniError, UsageError

PARTS = ("qweight", "qzeros", "scales", "g_idx")
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
SETTINGS = ("quantize_config.json", "quant_config.json")
"""Files of AutoGPTQ and AutoAWQ, where config.json has no quantization_config."""

Layout = Literal["awq", "gptq", "gptq_v2"]
Integers = npt.NDArray[np.uint8]


def layout_of(config: Mapping[str, Any], folder: Path) -> Layout | None:
    """Return the layout of a quantized checkpoint, None if it is not quantized.

    Raises UsageError for every form that is not read exactly.
    """
    found = kinds.quantization_config(config)
    if found is None:
        file = next((folder / name for name in SETTINGS if (folder / name).is_file()), None)
        if file is None:
            return None
        found = read_json(file)
        found.setdefault("quant_method", "gptq" if file.name == SETTINGS[0] else "awq")
    method = kinds.method_of(found)
    bits = found.get("bits", found.get("w_bit"))
    version = str(found.get("checkpoint_format", found.get("version", method))).lower()
    form = {"gemm": "awq", "awq": "awq", "gptq": "gptq", "gptq_v2": "gptq_v2"}.get(version)
    dynamic = found.get("dynamic")  # GPTQModel's settings of some layers
    layers = dynamic.values() if isinstance(dynamic, dict) else ()
    mixed = {str(one.get("bits", 4)) for one in layers if isinstance(one, dict)} - {"4"}
    readable = method in ("awq", "gptq") and bits == 4 and form is not None and not mixed
    if not readable or not str(form).startswith(str(method)):
        what = kinds.QUANTIZED.get(method, f"a checkpoint quantized by {method}")
        detail = f" of {bits} bits" if bits not in (None, 4) else ""
        detail += f" with layers of {min(mixed)} bits" if mixed else ""
        detail += f" ({version})" if form is None and version != method else ""
        raise UsageError(
            f"{folder} is {what}{detail}, which cannot be converted without loss",
            fix="give --model the unquantized checkpoint that it was made from; "
            "AWQ (gemm) and GPTQ of 4 bits can be exported",
        )
    return "awq" if form == "awq" else "gptq_v2" if form == "gptq_v2" else "gptq"


def weight_names(names: Iterable[str]) -> dict[str, str]:
    """Map names to those of the weights that they are parts of; other names to themselves."""
    known = set(names)
    found: dict[str, str] = {}
    for name in known:
        module, _, part = name.rpartition(".")
        packed = part in PARTS and f"{module}.qweight" in known
        found[name] = f"{module}.weight" if packed else name
    return found


def unpacked(handles: Mapping[str, TensorHandle], layout: Layout | None) -> dict[str, TensorHandle]:
    """Replace the parts of each quantized layer by the handle of its weight, (outputs, inputs).

    Raises OmniError for parts that do not fit each other, or without a known layout.
    """
    modules = [name.removesuffix(".qweight") for name in handles if name.endswith(".qweight")]
    if modules and layout is None:
        raise OmniError(
            "the checkpoint has quantized weights (qweight), but no quantization_config",
            fix="use the config.json or quantize_config.json that was saved with them",
        )
    found = dict(handles)
    for module in modules:
        parts = {part: found.pop(f"{module}.{part}", None) for part in PARTS}
        name = f"{module}.weight"
        if name in found or any(parts[part] is None for part in PARTS[:3]):
            raise OmniError(f"{module} does not have qweight, qzeros and scales, or a weight too")
        assert layout is not None
        present = {part: handle for part, handle in parts.items() if handle is not None}
        found[name] = _linear(name, present, layout)
    return found


def _linear(name: str, parts: Mapping[str, TensorHandle], layout: Layout) -> TensorHandle:
    rows, columns = parts["qweight"].shape
    inputs, outputs = (rows, 8 * columns) if layout == "awq" else (8 * rows, columns)
    groups = parts["scales"].shape[0]
    fits = {"scales": (groups, outputs), "qzeros": (groups, outputs // 8), "g_idx": (inputs,)}
    if inputs % groups or any(fits.get(k, h.shape) != h.shape for k, h in parts.items()):
        raise OmniError(f"the parts of {name} have shapes that do not fit each other")
    layer = Linear(name, parts, layout, inputs, outputs, groups)
    return TensorHandle(name, (outputs, inputs), layer.dequantized, packed=layer)


@dataclass(frozen=True)
class Linear:
    """One quantized layer. Everything is read on demand."""

    name: str
    parts: Mapping[str, TensorHandle]
    layout: Layout
    inputs: int
    outputs: int
    groups: int

    @property
    def group(self) -> int:
        """Inputs that share a scale."""
        return self.inputs // self.groups

    def order(self) -> npt.NDArray[np.int64] | None:
        """Return the inputs sorted by group, or None if they are. Raises OmniError."""
        if "g_idx" not in self.parts:
            return None
        index = self._raw("g_idx").numpy()
        whole = np.arange(self.inputs) // self.group
        if np.array_equal(index, whole):
            return None
        order = np.argsort(index, kind="stable")
        if not np.array_equal(index[order], whole):
            raise OmniError(f"{self.name}: the groups of g_idx have different sizes")
        return order

    def scales(self) -> FloatArray:
        """Return float32 (groups, outputs)."""
        return self._raw("scales").to(torch.float32).numpy()

    def zeros(self) -> Integers:
        """Return uint8 (groups, outputs)."""
        stored = self._raw("qzeros").numpy()
        if self.layout == "gptq":
            stored = (stored.view(np.uint32) + np.uint32(0x11111111)).view(np.int32)
        return _along_columns(stored, AWQ_ORDER if self.layout == "awq" else None)

    def codes(self, start: int, stop: int) -> Codes:
        """Return integers, scales and zero points of outputs start .. stop, inputs as stored."""
        whole = self._raw("qweight").numpy()
        if self.layout == "awq":
            first = start // 8
            unpacked = _along_columns(whole[:, first : -(-stop // 8)], AWQ_ORDER)
            integers = unpacked[:, start - 8 * first : stop - 8 * first].T
        else:
            integers = _along_columns(np.ascontiguousarray(whole[:, start:stop].T), None)
        scales, zeros = self.scales()[:, start:stop], self.zeros()[:, start:stop]
        return Codes(
            np.ascontiguousarray(integers),
            np.ascontiguousarray(scales.T),
            np.ascontiguousarray(zeros.T),
        )

    def dequantized(self, rows: slice | None) -> torch.Tensor:
        """Return rows of the weight, float32 (rows, inputs). The products are exact."""
        start, stop, _ = (rows or slice(None)).indices(self.outputs)
        codes = self.codes(start, stop)
        index = self._raw("g_idx").numpy() if "g_idx" in self.parts else None
        index = np.arange(self.inputs) // self.group if index is None else index
        values = codes.integers.astype(np.float32) - codes.zeros[:, index]
        return torch.from_numpy(values * codes.scales[:, index])

    def _raw(self, part: str) -> torch.Tensor:
        return self.parts[part].get(None)


def _along_columns(packed: npt.NDArray[np.int32], order: tuple[int, ...] | None) -> Integers:
    """Unpack the 8 integers of each int32, (rows, n) to (rows, 8 n)."""
    nibbles = packed.view(np.uint32)[..., None] >> np.arange(0, 32, 4, dtype=np.uint32) & 15
    columns = nibbles.astype(np.uint8)
    if order is not None:
        columns = columns[..., np.argsort(order)]
    return columns.reshape(len(packed), -1)


def joined(handles: Iterable[TensorHandle]) -> PackedColumns | None:
    """Return the layers as one weight (inputs, all outputs); None if none is quantized.

    Raises OmniError if only some are, or if they group their inputs differently.
    """
    parts = list(handles)
    layers = [handle.packed for handle in parts if isinstance(handle.packed, Linear)]
    if not layers:
        return None
    natural = np.arange(layers[0].inputs)
    orders = [natural if (own := layer.order()) is None else own for layer in layers]
    same = all(
        layer.group == layers[0].group and np.array_equal(order, orders[0])
        for layer, order in zip(layers, orders, strict=True)
    )
    first = None if np.array_equal(orders[0], natural) else orders[0]
    if len(layers) < len(parts) or not same:
        names = ", ".join(handle.name for handle in parts)
        raise OmniError(
            f"{names} have one input, but are not quantized alike",
            fix="give --model the unquantized checkpoint",
        )

    def read(start: int, stop: int) -> Codes:
        found: list[Codes] = []
        begin = 0
        for layer in layers:
            low, high = max(start - begin, 0), min(stop - begin, layer.outputs)
            if low < high:
                found.append(layer.codes(low, high))
            begin += layer.outputs
        integers, scales, zeros = (
            np.concatenate([getattr(codes, name) for codes in found])
            for name in ("integers", "scales", "zeros")
        )
        return Codes(integers if first is None else integers[:, first], scales, zeros)

    scales = np.concatenate([layer.scales().reshape(-1) for layer in layers])
    return PackedColumns(
        layers[0].group,
        first,
        symmetric=all((layer.zeros() == MIDDLE).all() for layer in layers),
        half=np.array_equal(scales.astype(np.float16).astype(np.float32), scales),
        read=read,
    )
