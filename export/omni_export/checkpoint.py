"""The tensors of a checkpoint by name. Every tensor must be used or explicitly dropped.

`claim` marks a tensor as used and returns a handle that reads it on demand; `drop` marks tensors
that the graphs do not use, with the reason. `check_all_used` raises an error for any other tensor.
Names are those of a published checkpoint, whatever training wrapped around the model. A folder
with virtual random weights (`random_weights.py`) is read in the same way.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from omni_export import packed, random_weights, weight_files
from omni_export.adapter import Adapter
from omni_export.source import read_json
from omni_export.weight_files import TensorHandle, published, some
from omni_runtime.errors import OmniError

THINKER, SPEECH = "thinker.", ("talker.", "token2wav.")

# Of DataParallel and DistributedDataParallel, torch.compile, PEFT, and FSDP.
WRAPPERS = re.compile(
    r"^(?:module\.|base_model\.model\.)+"
    r"|(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
UNMERGED = re.compile(r"\.(lora_[A-Za-z_]+|base_layer)\.")


class Checkpoint:
    """The tensors of a checkpoint folder by name."""

    def __init__(
        self, folder: Path, *, adapter: Path | None = None, speech_from: Path | None = None
    ) -> None:
        """Read the headers, add the adapter, and take speech from another checkpoint if given.

        Raises OmniError for missing, truncated or unreadable shards, and for an adapter that does
        not belong to the checkpoint. `random`: the weights are virtual and random.
        """
        self._accounted: set[str] = set()
        self._claims: set[tuple[str, str]] = set()
        self.random = random_weights.described(folder)
        self._handles = _open(folder)
        if adapter is not None:
            Adapter(adapter).apply(self._handles)
        if speech_from is not None:
            own = {k: v for k, v in self._handles.items() if not k.startswith(SPEECH)}
            theirs = {k: v for k, v in _open(speech_from).items() if k.startswith(SPEECH)}
            self._handles = own | theirs

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
            raise OmniError(
                f"the checkpoint lacks the tensor {name}", fix="save the complete model"
            )
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
                f"the checkpoint has tensors that no graph uses: {some(extra)}",
                fix="use a checkpoint of the published architecture",
            )


def _open(folder: Path) -> dict[str, TensorHandle]:
    if random_weights.described(folder):
        weights = random_weights.RandomWeights(folder)
        return {
            name: TensorHandle(name, shape, partial(weights.get, name))
            for name, shape in weights.shapes.items()
        }
    found = weight_files.handles(folder)
    names = canonical(found)
    handles = {name: replace(found[raw], name=name) for raw, name in names.items()}
    return packed.unpacked(handles, packed.layout_of(read_json(folder / "config.json"), folder))


def canonical(names: Iterable[str]) -> dict[str, str]:
    """Map the names in the files to those of a published checkpoint.

    Wrappers are removed, modules have their published names, and `thinker.` is added to those of a
    Thinker that was saved alone. Raises OmniError for LoRA matrices, and if two names become one.
    """
    found = {raw: published(WRAPPERS.sub("", raw)) for raw in names}
    if unmerged := {raw for raw in found if UNMERGED.search(raw)}:
        raise OmniError(
            f"the checkpoint has an adapter that is not merged: {some(unmerged)}",
            fix="save the adapter alone and give it as --adapter, or merge it (merge_and_unload)",
        )
    if not any(name.startswith(THINKER) for name in found.values()):
        found = {
            raw: name if name.startswith(SPEECH) else THINKER + name for raw, name in found.items()
        }
    if len(set(found.values())) < len(found):
        twice = {raw for raw, name in found.items() if raw != name and name in found}
        raise OmniError(f"the checkpoint has tensors twice: {some(twice)}")
    return found
