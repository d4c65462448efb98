"""Stage 7b: the Thinker learns to be asked aloud, also about what it sees.

    python -m tiny.joint

Starts from the Thinker and the ears, and goes on training both (and the eyes) on written and on
spoken questions in turn. A spoken question is a recording of stage 6a whose sentence the question
generators happen to draw, so its right reply is known.
"""

import random

import torch

from tiny import questions, scenes, thinker
from tiny.ears import Recordings, tokens
from tiny.paths import WORK, Utterance
from tiny.training import Plan, Trainer
from tiny.weights import committed

PLAN = Plan(steps=3_000, rate=5e-4, warmup=100, average=0.998)
ORDER = ("spoken", "text", "spoken", "picture", "spoken picture", "film")
BATCH = 12


class Asker:
    """Draws conversations whose first question was recorded."""

    def __init__(self, part: str) -> None:
        self._part = part
        self._recordings = Recordings(part)
        self._by_text: dict[str, list[Utterance]] = {}
        for item in self._recordings.items:
            self._by_text.setdefault(item.text, []).append(item)

    def _exchange(self, kind: str, rng: random.Random) -> scenes.Asked:
        """Recorded questions stay on their side of the held-out line; scenes are always new."""
        while True:
            if kind == "spoken":
                asked = scenes.Asked([], questions.ask(rng, typed=False), 0)
            else:
                asked = scenes.picture(rng)
            first = asked.turns[0]
            if first.question in self._by_text:
                return asked

    def batch(
        self, kind: str, rng: random.Random, noise: torch.Generator | None, count: int = BATCH
    ) -> thinker.Batch:
        """`kind` is "spoken" or "spoken picture"; without `noise` the recordings are clean."""
        conversations, clips, rows, grids = [], [], [], []
        for _ in range(count):
            asked = self._exchange(kind, rng)
            clip = self._recordings.clip(rng.choice(self._by_text[asked.turns[0].question]), noise)
            media = None
            if asked.frames:
                pixels, grid = scenes.patches(scenes.render(asked.frames, asked.look))
                rows.append(pixels)
                grids.append(grid)
                media = ("picture", grid[0] * grid[1] * grid[2] // scenes.MERGE**2)
            one = thinker.Conversation()
            one.open()
            for index, turn in enumerate(asked.turns):
                spoken = tokens(clip.shape[1]) if index == 0 else 0
                one.turn(turn, media if index == 0 else None, spoken)
            conversations.append(one)
            clips.append(clip)
        sound = {
            "sounds": torch.cat(clips, 1),
            "frames": torch.tensor([clip.shape[1] for clip in clips]),
        }
        if not rows:
            return thinker.collate("spoken", conversations, **sound)
        seen = {"pixels": torch.cat(rows), "grids": torch.tensor(grids)}
        return thinker.collate("picture", conversations, **sound, **seen)


def starting_point() -> dict[str, torch.Tensor]:
    """The Thinker with the ears of their own stage in place of its untrained ones."""
    path = WORK / "thinker.pt"
    if path.exists():
        state = torch.load(path, weights_only=True)["average"]
    else:
        state = committed("thinker.")
    ears = WORK / "ears.pt"
    if ears.exists():
        found = torch.load(ears, weights_only=True)["average"]
        towers = {k: v for k, v in found.items() if k.startswith("tower.")}
        state |= {k.replace("tower.", "audio_tower.", 1): v for k, v in towers.items()}
    return state


def main() -> None:
    model = thinker.network()
    model.load_state_dict(starting_point())
    trainer = Trainer("joint", model, PLAN)
    asker, unseen = Asker("train"), Asker("test")
    for step, rng in trainer.steps():
        source = random.Random(int(torch.randint(1 << 30, (1,), generator=rng)))  # noqa: S311
        kind = ORDER[step % len(ORDER)]
        if kind.startswith("spoken"):
            batch = asker.batch(kind, source, rng)
        else:
            batch = thinker.make_batch(kind, "train", source)
        loss, exact = thinker.answer_loss(trainer.model, batch)
        name = kind.replace(" ", "_")
        trainer.log(**{name: loss.item(), f"{name}_exact": exact})
        trainer.update(loss)
        if step % 500 == 499:
            with torch.no_grad():
                scores = thinker.held_out_score(trainer.average)
                for kind in ("spoken", "spoken picture"):
                    batch = unseen.batch(kind, random.Random(0), None, 48)  # noqa: S311
                    scores[kind] = thinker.answer_loss(trainer.average, batch)[1]
            print("held out", scores, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
