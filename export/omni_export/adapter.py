"""A LoRA adapter in PEFT's format, merged into the weights of its checkpoint while they are read.

The merged weight is W + s B A, with s = alpha / r, or alpha / sqrt(r) for rank-stabilized LoRA;
DoRA scales each row of it to a learned norm. All of it is per row, so any rows can be merged alone.
Adapters may also replace complete tensors (`modules_to_save`, biases). The sums are in float32.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import torch
from msgspec import Struct

from omni_export import weight_files
from omni_export.source import read_json
from omni_export.weight_files import Get, TensorHandle, published, some
from omni_runtime.errors import OmniError, UsageError

CONFIG = "adapter_config.json"
PREFIX = "base_model.model."
MATRIX = re.compile(r"(.+)\.(lora_A|lora_B|lora_embedding_A|lora_embedding_B)(?:\.weight)?")
MAGNITUDE = re.compile(r"(.+)\.lora_magnitude_vector(?:\.weight)?")
WRAPPED = re.compile(r"\.(?:base_layer|modules_to_save)(?=\.)")
MERGE = (
    "merge it (merge_and_unload) with the releases of PEFT and transformers that trained it, "
    "and export the result"
)

CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Initializations that also change the weights of the base model."""


class Settings(Struct, frozen=True):
    """The keys of adapter_config.json that merging depends on."""

    peft_type: str
    lora_alpha: float
    use_rslora: bool = False
    fan_in_fan_out: bool = False
    alpha_pattern: dict[str, float] | None = None
    init_lora_weights: bool | str | None = True


@dataclass(frozen=True)
class Delta:
    """Low-rank update of one weight: `left` (rows, r) times `right` (r, others), times `scale`.

    `magnitude`, (rows,), are the norms of DoRA.
    """

    left: torch.Tensor
    right: torch.Tensor
    scale: float
    magnitude: torch.Tensor | None

    def merged(self, get: Get, rows: slice | None) -> torch.Tensor:
        """Return rows of the merged weight, float32."""
        base = get(rows).to(torch.float32)
        part = rows or slice(None)
        found = base + (self.scale * (self.left[part] @ self.right)).reshape(base.shape)
        if self.magnitude is None:
            return found
        norms = found.flatten(1).norm(dim=1)
        return found * (self.magnitude[part] / norms).reshape(-1, *[1] * (found.ndim - 1))


class Adapter:
    """The tensors of an adapter folder."""

    def __init__(self, folder: Path) -> None:
        """Read the configuration and the headers.

        Raises UsageError for a kind of adapter that cannot be merged exactly, OmniError for a
        folder that is not an adapter, or damaged.
        """
        if not (folder / CONFIG).is_file():
            raise UsageError(
                f"{folder} has no {CONFIG}, so it is not an adapter of PEFT",
                fix="give --adapter the folder that PEFT's save_pretrained wrote",
            )
        self.folder = folder
        try:
            self.settings = msgspec.convert(read_json(folder / CONFIG), Settings)
        except msgspec.ValidationError as error:
            raise OmniError(f"{folder / CONFIG}: {error}", fix=MERGE) from None
        kind, init = self.settings.peft_type, str(self.settings.init_lora_weights).lower()
        if kind != "LORA":
            raise UsageError(f"{folder} is an adapter of type {kind}, not LoRA", fix=MERGE)
        if init.startswith(CHANGES_BASE):
            raise UsageError(
                f"{folder} is a LoRA initialized by {init}, which also changes the base model",
                fix=MERGE,
            )
        if self.settings.fan_in_fan_out:
            raise UsageError(f"{folder} is a LoRA with fan_in_fan_out", fix=MERGE)
        self._tensors = {
            raw.removeprefix(PREFIX): handle
            for raw, handle in weight_files.handles(folder, weight_files.ADAPTER).items()
        }

    def apply(self, handles: dict[str, TensorHandle]) -> None:
        """Replace the handles of the weights that the adapter changes by merged ones.

        Raises OmniError for a tensor that does not belong to the checkpoint, or has another shape.
        """
        targets: dict[str, dict[str, TensorHandle]] = {}
        whole: dict[str, TensorHandle] = {}
        for name, handle in self._tensors.items():
            if match := MATRIX.fullmatch(name):
                targets.setdefault(match[1], {})[match[2].removeprefix("lora_")] = handle
            elif match := MAGNITUDE.fullmatch(name):
                targets.setdefault(match[1], {})["magnitude"] = handle
            else:
                whole[WRAPPED.sub("", name)] = handle
        for raw, handle in whole.items():  # first: an adapter of a table is saved with the table
            name = self._name_in(handles, raw)
            if handle.shape != handles[name].shape:
                raise self._foreign(f"{name} has shape {handles[name].shape}, not {handle.shape}")
            handles[name] = replace(handle, name=name)
        for module, parts in targets.items():
            name = self._name_in(handles, f"{WRAPPED.sub('', module)}.weight")
            delta = self._delta(module, parts, handles[name].shape)
            get = partial(delta.merged, handles[name].get)
            handles[name] = replace(handles[name], get=get, packed=None)

    def _name_in(self, handles: Mapping[str, Any], name: str) -> str:
        """Return the checkpoint's name of a weight of the model, or of its Thinker alone."""
        name = published(name)
        found = next((one for one in (name, f"thinker.{name}") if one in handles), None)
        if found is None:
            raise self._foreign(f"it changes {some({name})}, which the checkpoint lacks")
        return found

    def _delta(
        self, module: str, parts: Mapping[str, TensorHandle], shape: tuple[int, ...]
    ) -> Delta:
        embedding = "embedding_A" in parts
        first, second = ("embedding_A", "embedding_B") if embedding else ("A", "B")
        if missing := {first, second} - set(parts):
            raise self._foreign(f"{module} lacks lora_{missing.pop()}")
        right, left = (torch.from_numpy(parts[name].read()).flatten(1) for name in (first, second))
        rank = len(right)
        if embedding and "magnitude" in parts:  # it has a norm for each column of the whole table
            raise UsageError(f"{self.folder} is a DoRA of an embedding, {module}", fix=MERGE)
        if embedding:  # stored transposed: A is (r, rows), B is (columns, r)
            left, right = right.T, left.T
        if (len(left), right.shape[1]) != (shape[0], math.prod(shape[1:])):
            raise self._foreign(
                f"{module} changes a weight of shape {(len(left), right.shape[1])}, not {shape}"
            )
        magnitude = parts.get("magnitude")
        return Delta(
            left.contiguous(),
            right.contiguous(),
            self._alpha(module) / (math.sqrt(rank) if self.settings.use_rslora else rank),
            magnitude and torch.from_numpy(magnitude.read()).flatten(),
        )

    def _alpha(self, module: str) -> float:
        for pattern, alpha in (self.settings.alpha_pattern or {}).items():
            if re.fullmatch(rf"(.*\.)?({pattern})", module):
                return alpha
        return self.settings.lora_alpha

    def _foreign(self, what: str) -> OmniError:
        return OmniError(
            f"the adapter {self.folder} does not belong to this checkpoint: {what}",
            fix="give --model the checkpoint that the adapter was trained on",
        )
