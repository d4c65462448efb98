"""Stage 5: the vision tower learns to say, square by square, which thing it sees.

    python -m tiny.eyes

A dense label for each of the 16 squares of a picture teaches in minutes what answers to questions
would teach in hours; the heads that read the labels are thrown away afterwards.
"""

import random

import torch
from torch import nn
from torch.nn import functional
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniVisionEncoder

from tiny import grammar as g
from tiny import scenes, sizes, vocabulary
from tiny.training import Plan, Trainer

PLAN = Plan(steps=1_800, rate=1.5e-3, average=0.998)
BATCH = 16
ACROSS = scenes.SIDE // (scenes.PATCH * scenes.MERGE)


def tower() -> Qwen2_5OmniVisionEncoder:
    torch.manual_seed(0)
    config = sizes.omni(vocabulary.special()).thinker_config.vision_config
    return Qwen2_5OmniVisionEncoder._from_config(config, attn_implementation="sdpa")


class Eyes(nn.Module):
    """The tower and one reader of it: 24 things or nothing in each square."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = tower()
        self.thing = nn.Linear(sizes.WIDTH, len(g.THINGS) + 1)

    def forward(self, rows: torch.Tensor, grids: torch.Tensor) -> torch.Tensor:
        return self.thing(self.tower(rows, grids))


def labels(frame: list[scenes.Placed]) -> torch.Tensor:
    """For each square the thing whose centre is nearest to it, or 0 where none is near."""
    marks = torch.zeros(ACROSS, ACROSS, dtype=torch.long)
    nearest = torch.full((ACROSS, ACROSS), 0.67)
    middles = torch.arange(ACROSS) + 0.5
    for item in frame:
        x, y = ((v + 0.5) / 3 * ACROSS for v in (item.x, item.y))
        away = ((middles[None, :] - x) ** 2 + (middles[:, None] - y) ** 2).sqrt()
        closer = away < nearest
        nearest[closer] = away[closer]
        marks[closer] = 1 + g.THINGS.index(item.thing)
    return marks.ravel()


def draw(rng: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    source = random.Random(int(torch.randint(1 << 30, (1,), generator=rng)))  # noqa: S311
    rows, grids, marks = [], [], []
    for _ in range(BATCH):
        asked = scenes.picture_for("train", source)
        pixels, grid = scenes.patches(scenes.render(asked.frames, asked.look))
        rows.append(pixels)
        grids.append(grid)
        marks.append(labels(asked.frames[0]))
    return torch.cat(rows), torch.tensor(grids), torch.cat(marks)


def main() -> None:
    trainer = Trainer("eyes", Eyes(), PLAN)
    weight = torch.ones(len(g.THINGS) + 1)
    weight[0] = 0.3  # most squares are empty
    for _, rng in trainer.steps():
        rows, grids, marks = draw(rng)
        with torch.autocast("cpu", torch.bfloat16):
            told = trainer.model(rows, grids).float()
        loss = functional.cross_entropy(told, marks, weight)
        full = marks > 0
        right = (told.argmax(1) == marks)[full].float().mean()
        trainer.log(loss=loss.item(), right=right.item())
        trainer.update(loss)


if __name__ == "__main__":
    main()
