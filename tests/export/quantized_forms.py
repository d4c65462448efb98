"""Checkpoints with 4-bit weights, packed as AutoAWQ and GPTQModel do.

The packers and the dequantizer follow the formats by themselves, one integer after the other.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from export.saved_forms import edit_json, rewritten

LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
Tensors = dict[str, torch.Tensor]


def layers(tensors: Tensors) -> list[str]:
    """The linear layers of the Thinker, the ones that Qwen's own quantized checkpoints have."""
    return [
        name.removesuffix(".weight")
        for name in tensors
        if name.startswith("thinker.model.layers.") and name.split(".")[-2] in LAYERS
        and name.endswith(".weight")
    ]  # fmt: skip


def along(values: np.ndarray, axis: int, order: tuple[int, ...] = tuple(range(8))) -> torch.Tensor:
    """Pack 8 neighbours along an axis: the value at `order[i]` at bits 4 i ... 4 i + 3."""
    moved = np.moveaxis(values, axis, -1).astype(np.uint32)
    groups = moved.reshape(*moved.shape[:-1], -1, 8)
    packed = np.zeros(groups.shape[:-1], np.uint32)
    for i, place in enumerate(order):
        packed |= groups[..., place] << np.uint32(4 * i)
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(packed, -1, axis)).view(np.int32))


class Quantizer:
    """Quantizes the Thinker's layers as one of the tools does; `weights` are the true values."""

    def __init__(self, *, awq: bool = False, v2: bool = False, act_order: bool = False,
                 symmetric: bool = False, group: int = 128) -> None:  # fmt: skip
        self.awq, self.v2, self.act_order = awq, v2, act_order
        self.symmetric, self.group = symmetric, group
        self.random = np.random.default_rng([group + 1, v2, act_order])
        self.orders: dict[int, np.ndarray] = {}
        self.weights: dict[str, np.ndarray] = {}

    @property
    def settings(self) -> dict[str, Any]:
        if self.awq:
            return {"quant_method": "awq", "bits": 4, "group_size": self.group, "version": "gemm",
                    "zero_point": True, "modules_to_not_convert": ["visual"]}  # fmt: skip
        return {"quant_method": "gptq", "bits": 4, "group_size": self.group,
                "desc_act": self.act_order, "sym": self.symmetric,
                "checkpoint_format": "gptq_v2" if self.v2 else "gptq"}  # fmt: skip

    def __call__(self, tensors: Tensors) -> Tensors:
        found = dict(tensors)
        for name in layers(tensors):
            found |= self._layer(name, found.pop(f"{name}.weight").numpy())
        return found

    def _layer(self, name: str, weight: np.ndarray) -> Tensors:
        outputs, inputs = weight.shape
        size = inputs if self.group == -1 else min(self.group, inputs)
        index = np.arange(inputs) // size
        if self.act_order:
            order = self.orders.setdefault(inputs, self.random.permutation(inputs))
            index = index[order]
        groups = inputs // size
        scales = self.random.uniform(0.004, 0.02, (groups, outputs)).astype(np.float16)
        low = 8 if self.symmetric else 0
        zeros = self.random.integers(low, low + 1 if self.symmetric else 16, (groups, outputs))
        steps = np.rint(weight.T / scales[index].astype(np.float32)) + zeros[index]
        integers = np.clip(steps, 0, 15).astype(np.uint32)
        true = np.zeros((inputs, outputs), np.float32)
        for i in range(inputs):  # the plain dequantizer of both formats
            difference = integers[i].astype(np.float32) - zeros[index[i]].astype(np.float32)
            true[i] = scales[index[i]].astype(np.float32) * difference
        self.weights[f"{name}.weight"] = true.T
        parts = {"scales": torch.from_numpy(scales)}
        if self.awq:
            parts["qweight"] = along(integers, 1, (0, 2, 4, 6, 1, 3, 5, 7))
            parts["qzeros"] = along(zeros, 1, (0, 2, 4, 6, 1, 3, 5, 7))
        else:
            parts["qweight"] = along(integers, 0)
            parts["qzeros"] = along(zeros, 1)
            if not self.v2:  # as GPTQModel: from each int32 as one number
                less = parts["qzeros"].numpy().view(np.uint32) - np.uint32(0x11111111)
                parts["qzeros"] = torch.from_numpy(less.view(np.int32))
            parts["g_idx"] = torch.from_numpy(index.astype(np.int32))
        return {f"{name}.{part}": tensor for part, tensor in parts.items()}


def quantized(source: Path, folder: Path, quantizer: Quantizer) -> Path:
    rewritten(source, folder, quantizer)
    edit_json(folder / "config.json", lambda c: c.update(quantization_config=quantizer.settings))
    return folder
