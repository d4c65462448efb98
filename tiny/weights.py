"""Where each stage's weights stand in the checkpoint, and how a stage starts from them.

The one idea: work/ holds what a stage is doing (optimizer and all), the checkpoint what it has
done (16 bits), so `--continue` trains a committed part further without anything but the repository.
"""

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
    """A stage's file in work/ and where its weights go; later ones win."""

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
    """The weights under `prefix` of the checkpoint as it stands, in the bits that they have."""
    found: dict[str, torch.Tensor] = {}
    for part in PARTS:
        path = CHECKPOINT / shard(part)
        if path.exists():
            found |= {k: v for k, v in load_file(path).items() if k.startswith(prefix)}
    return found


def committed(prefix: str) -> dict[str, torch.Tensor]:
    """The same without the prefix and in float32, for a stage to start from."""
    return {key.removeprefix(prefix): value.float() for key, value in stored(prefix).items()}


def continue_from(stage: str, model: nn.Module) -> None:
    """Loads the committed weights of a stage; what only training needs keeps its start."""
    for source in SOURCES:
        weights = committed(source.outside) if source.stage == stage else {}
        if weights:
            model.load_state_dict(
                {source.inside + key: value for key, value in weights.items()},
                strict=not source.inside,
            )
