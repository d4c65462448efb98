"""Stage 5: the vision tower learns to name the shape in each image square.

    python -m tiny.eyes

The labels are embeddings of the Thinker. The square with the centre of a red circle must output
the sum of the embeddings of " red", " circle" and its place, " top" and " left". If the circle
moves between the two frames of a square, its direction replaces the place. Every other square must
output the embedding of " picture". This takes minutes, and the Thinker can use the output at once.
Training on questions alone would take hours.
"""

import random

import torch
from torch.nn import functional
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniVisionEncoder

from tiny import grammar as g
from tiny import scenes, sizes, thinker, vocabulary
from tiny.training import Plan, Trainer, chosen, mixed

PLAN = Plan(steps=3_600, rate=1.5e-3, average=0.998)
FURTHER = Plan(steps=7_000, rate=1e-3, average=0.998)
PICTURES, FILMS = 6, 14
ACROSS = scenes.SIDE // scenes.CELL
ROWS, COLUMNS = ("top", "", "bottom"), ("left", "", "right")
STATES = [
    *(f"{row} {column}".strip() or "middle" for row in ROWS for column in COLUMNS),
    *(move.split()[-1] for move in scenes.STEPS),
]
"""State of a shape: one of nine places, or one of four directions of movement."""
NOTHING = len(g.THINGS) * len(STATES)
EMPTY = 0.3
"""Weight of an empty square in the loss: most squares are empty."""


def tower() -> Qwen2_5OmniVisionEncoder:
    torch.manual_seed(0)
    config = sizes.omni(vocabulary.special()).thinker_config.vision_config
    return Qwen2_5OmniVisionEncoder._from_config(config, attn_implementation="sdpa")


def words() -> torch.Tensor:
    """Return the labels of a square (313, width): each shape in each state, then empty."""
    table = thinker.embeddings()

    def word(text: str) -> torch.Tensor:
        return table[vocabulary.load().encode(f" {text}").ids].mean(0)

    things = [word(color) + word(shape) for color, shape in g.THINGS]
    states = [torch.stack([word(w) for w in state.split()]).sum(0) for state in STATES]
    return torch.stack([*(thing + state for thing in things for state in states), word("picture")])


def state(early: scenes.Placed, late: scenes.Placed, square: int) -> int:
    """Return the index in STATES of a shape in one of the nine squares."""
    x, y = late.x - early.x, late.y - early.y
    step = ((x > 0) - (x < 0), (y > 0) - (y < 0))
    return square if step == (0, 0) else ACROSS**2 + list(scenes.STEPS.values()).index(step)


def labels(asked: scenes.Asked) -> torch.Tensor:
    """Return the label of each square of each pair of frames, -1 where the shape changes."""
    pairs = [(f, f) for f in asked.frames]
    if len(asked.frames) > 1:
        pairs = list(zip(asked.frames[::2], asked.frames[1::2], strict=True))
    marks = torch.full((len(pairs), ACROSS, ACROSS), NOTHING)
    chance = scenes.Look.of(scenes.chance(asked.look))
    for time, pair in enumerate(pairs):
        for index, (early, late) in enumerate(zip(*pair, strict=True)):
            places = [chance.centre(index, item) for item in (early, late)]
            x, y = (
                min(ACROSS - 1, int((a + b) / 2 / scenes.CELL))
                for a, b in zip(*places, strict=True)
            )
            marks[time, y, x] = -1
            if early.thing == late.thing:
                number = g.THINGS.index(early.thing) * len(STATES)
                marks[time, y, x] = number + state(early, late, y * ACROSS + x)
    return marks.ravel()


def draw(rng: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    source = random.Random(int(torch.randint(1 << 30, (1,), generator=rng)))  # noqa: S311
    asked = [scenes.picture_for("train", source) for _ in range(PICTURES)]
    asked += [scenes.film_for("train", source, source.choice((2, 3, 4))) for _ in range(FILMS)]
    seen = [scenes.look_at(a) for a in asked]
    rows, grids = torch.cat([s.rows for s in seen]), torch.tensor([s.grid for s in seen])
    return rows, grids, torch.cat([labels(a) for a in asked])


def main() -> None:
    trainer = Trainer("eyes", tower(), chosen(PLAN, FURTHER))
    said = words()
    for _, rng in trainer.steps():
        rows, grids, marks = draw(rng)
        with mixed():
            told = trainer.model(rows, grids).float()
        weight = torch.where(marks == NOTHING, EMPTY, 1.0) * (marks >= 0)
        error = functional.mse_loss(told, said[marks.clamp(min=0)], reduction="none").mean(1)
        loss = (weight * error).sum() / weight.sum()
        full = (marks >= 0) & (marks != NOTHING)
        right = (torch.cdist(told, said).argmin(1) == marks)[full].float().mean()
        trainer.log(loss=loss.item(), right=right.item())
        trainer.update(loss)


if __name__ == "__main__":
    main()
