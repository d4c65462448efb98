"""Where the weights of each stage are in the checkpoint, and how a stage starts from them.

work/ has the state of a running stage, with its optimizer. The checkpoint has the final weights in
16 bits. `--continue` needs only the committed weights.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from safetensors.torch import load_file
from torch import nn

from tiny.paths import CHECKPOINT

PARTS = {
    "audio": ("thinker.audio_tower.",),
    "vision": ("thinker.visual.",),
    "thinker": ("thinker.model.", "thinker.lm_head."),
    "talker": ("talker.",),
    "token2wav": ("token2wav.",),
}


@dataclass(frozen=True)
class Source:
    """A stage's file in work/ and the place of its weights; later sources take precedence."""

    stage: str
    inside: str
    outside: str


SOURCES = (
    Source("eyes", "", "thinker.visual."),
    Source("thinker", "", "thinker."),
    Source("ears", "tower.", "thinker.audio_tower."),  # the Thinker's copy of the ears is frozen
    Source("joint", "", "thinker."),
    Source("talker", "", "talker."),
    Source("dit", "", "token2wav.code2wav_dit_model."),
    Source("vocoder", "", "token2wav.code2wav_bigvgan_model."),
)


def shard(part: str) -> str:
    return f"model-{part}.safetensors"


def stored(prefix: str) -> dict[str, torch.Tensor]:
    """Return the weights of the checkpoint under `prefix`, in the stored precision."""
    found: dict[str, torch.Tensor] = {}
    for part in PARTS:
        path = CHECKPOINT / shard(part)
        if path.exists():
            found |= {k: v for k, v in load_file(path).items() if k.startswith(prefix)}
    return found


def committed(prefix: str) -> dict[str, torch.Tensor]:
    """Return the weights under `prefix` as float32, without the prefix in their names."""
    return {key.removeprefix(prefix): value.float() for key, value in stored(prefix).items()}


def deepened(weights: dict[str, torch.Tensor], layers: int) -> dict[str, torch.Tensor]:
    """Return the weights of a decoder with more layers and the same output.

    Copies of the layers are inserted at even distances. They add nothing to the residual stream
    until they are trained (LLaMA Pro, arXiv 2401.02415).
    """
    names = [re.match(r"model\.layers\.(\d+)\.(.*)", name) for name in weights]
    had = layers_of(weights)
    found = {name: value for name, value in weights.items() if not name.startswith("model.layers.")}
    for layer in range(layers):
        source = layer * had // layers
        copied = layer > 0 and (layer - 1) * had // layers == source
        for name in names:
            if name and int(name[1]) == source:
                value = weights[name[0]]
                silent = copied and name[2] in ("self_attn.o_proj.weight", "mlp.down_proj.weight")
                found[f"model.layers.{layer}.{name[2]}"] = value * 0 if silent else value.clone()
    return found


def layers_of(weights: Iterable[str]) -> int:
    """Return the number of layers of a decoder, 0 for other networks."""
    found = (re.match(r"model\.layers\.(\d+)\.", name) for name in weights)
    return max((1 + int(match[1]) for match in found if match), default=0)


def continue_from(stage: str, model: nn.Module) -> None:
    """Load the committed weights of a stage; weights used only in training keep their start.

    A decoder may have more layers than the committed one.
    """
    layers = layers_of(model.state_dict())
    for source in SOURCES:
        weights = committed(source.outside) if source.stage == stage else {}
        if weights:
            weights = deepened(weights, layers) if layers else weights
            model.load_state_dict(
                {source.inside + key: value for key, value in weights.items()},
                strict=not source.inside,
            )
