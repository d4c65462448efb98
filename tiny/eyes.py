"""Stage 5: the vision tower learns to say, square by square, which thing it sees.

    python -m tiny.eyes

It says it in the Thinker's own words: the square that holds the middle of a red circle becomes the
sum of the embeddings of " red" and " circle", any other the embedding of " picture". That takes
minutes, and the Thinker can read it at once; questions alone would take hours to teach both.
"""

import random

import torch
from torch.nn import functional
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniVisionEncoder

from tiny import grammar as g
from tiny import scenes, sizes, thinker, vocabulary
from tiny.paths import WORK
from tiny.training import Plan, Trainer

PLAN = Plan(steps=3_000, rate=1.5e-3, average=0.998)
BATCH = 16
ACROSS = scenes.SIDE // (scenes.PATCH * scenes.MERGE)
EMPTY = 0.3
"""Weight of an empty square: most are."""


def tower() -> Qwen2_5OmniVisionEncoder:
    torch.manual_seed(0)
    config = sizes.omni(vocabulary.special()).thinker_config.vision_config
    return Qwen2_5OmniVisionEncoder._from_config(config, attn_implementation="sdpa")


def words() -> torch.Tensor:
    """What a square may say: the 24 things and, last, nothing; (25, width)."""
    model = thinker.network()
    path = WORK / "thinker.pt"
    if path.exists():
        model.load_state_dict(torch.load(path, weights_only=True)["average"])
    table: torch.Tensor = model.model.embed_tokens.weight.detach()

    def word(text: str) -> torch.Tensor:
        return table[vocabulary.load().encode(f" {text}").ids].mean(0)

    things = [word(color) + word(shape) for color, shape in g.THINGS]
    return torch.stack([*things, word("picture")])


def labels(asked: scenes.Asked) -> torch.Tensor:
    """For each square of the first frame the number of its thing."""
    marks = torch.full((ACROSS, ACROSS), len(g.THINGS))
    chance = scenes.Look.of(scenes.chance(asked.look))
    for index, item in enumerate(asked.frames[0]):
        x, y = (int(v / scenes.SIDE * ACROSS) for v in chance.centre(index, item))
        marks[min(y, ACROSS - 1), min(x, ACROSS - 1)] = g.THINGS.index(item.thing)
    return marks.ravel()


def draw(rng: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    source = random.Random(int(torch.randint(1 << 30, (1,), generator=rng)))  # noqa: S311
    rows, grids, marks = [], [], []
    for _ in range(BATCH):
        asked = scenes.picture_for("train", source)
        pixels, grid = scenes.patches(scenes.render(asked.frames, asked.look))
        rows.append(pixels)
        grids.append(grid)
        marks.append(labels(asked))
    return torch.cat(rows), torch.tensor(grids), torch.cat(marks)


def main() -> None:
    trainer = Trainer("eyes", tower(), PLAN)
    said = words()
    for _, rng in trainer.steps():
        rows, grids, marks = draw(rng)
        with torch.autocast("cpu", torch.bfloat16):
            told = trainer.model(rows, grids).float()
        full = marks < len(g.THINGS)
        weight = torch.where(full, 1.0, EMPTY).unsqueeze(1)
        loss = (weight * functional.mse_loss(told, said[marks], reduction="none")).mean()
        right = (torch.cdist(told, said).argmin(1) == marks)[full].float().mean()
        trainer.log(loss=loss.item(), right=right.item())
        trainer.update(loss)


if __name__ == "__main__":
    main()
