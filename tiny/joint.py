"""Stage 7b: the Thinker learns spoken questions, also about images, and videos with audio.

    python -m tiny.joint

Continues the training of the Thinker, on written and spoken questions in turn. Ears and eyes come
from their own stages, which may still be running. They output embeddings of the Thinker, so the
Thinker need not follow their changes. A spoken question is a recording of stage 6a whose sentence
the question generators also produce, so its right reply is known.
"""

import random
from collections.abc import Callable

import torch

from tiny import questions, scenes, thinker
from tiny.audio import Recordings
from tiny.hearing import HEARING, NUMBERS
from tiny.paths import WORK, Corpus, Utterance
from tiny.thinker import Batch, Conversation
from tiny.training import Plan, Trainer
from tiny.weights import committed

PLAN = Plan(steps=700, rate=2e-4, warmup=40, average=0.995)
"""Of the last run: 2,550 steps at 3e-4 to 5e-4 came before; from stage 7 it takes as many."""
ORDER = (
    "spoken", "text", "picture", "spoken scene", "text", "spoken", "heard film", "picture", "text",
    "spoken scene", "spoken",
)  # fmt: skip
REFRESH = 150
"""Steps after which the latest ears and eyes are loaded."""
MIX = {"spoken": 12, "spoken scene": 8, "heard film": 6}


class Asker:
    """Samples conversations with audio."""

    def __init__(self, part: str) -> None:
        self._part = part
        self._numbers = Recordings(Corpus(NUMBERS), part)
        self._asked: dict[str, list[Utterance]] = {}
        self._said: dict[str, list[Utterance]] = {}
        self._recordings = Recordings(Corpus(HEARING), part)
        for item in self._recordings.items:
            self._asked.setdefault(item.text, []).append(item)
        for item in self._numbers.items:
            self._said.setdefault(item.text, []).append(item)

    def _recorded(self, draw: Callable[[], scenes.Asked]) -> scenes.Asked:
        """Return a conversation whose first question was recorded.

        Recorded questions keep their part, training or test; scenes are always new.
        """
        while True:
            asked = draw()
            if asked.turns[0].question in self._asked:
                return asked

    def about_nothing(self, rng: random.Random) -> scenes.Asked:
        return self._recorded(lambda: scenes.Asked([], questions.ask(rng, typed=False), 0))

    def about_scene(self, rng: random.Random) -> scenes.Asked:
        exchanges = rng.choice(thinker.EXCHANGES) if self._part == "train" else 1
        if rng.random() < 0.6:
            return self._recorded(lambda: scenes.picture(rng, exchanges))
        seconds = rng.choice((2, 2, 3, 4))
        return self._recorded(lambda: scenes.film(rng, seconds, exchanges))

    def question(
        self, text: str, rng: random.Random, noise: torch.Generator | None
    ) -> torch.Tensor:
        """Return one of the recordings of a question, (128, frames)."""
        return self._recordings.clip(rng.choice(self._asked[text]), noise)

    def number(self, text: str, rng: random.Random, noise: torch.Generator | None) -> torch.Tensor:
        return self._numbers.clip(rng.choice(self._said[text]), noise)

    def conversation(
        self, kind: str, rng: random.Random, noise: torch.Generator | None
    ) -> Conversation:
        """Return a conversation of a key of MIX; without `noise` its recordings are clean."""
        one = Conversation()
        sound = spoken = None
        if kind == "heard film":
            word = rng.choice(list(self._said))
            asked = thinker.scene("film", self._part, rng, word)
            sound = self.number(word, rng, noise)
        else:
            draw = self.about_nothing if kind == "spoken" else self.about_scene
            asked = draw(rng)
            spoken = self.question(asked.turns[0].question, rng, noise)
        sight = scenes.look_at(asked) if asked.frames else None
        first, *rest = asked.turns
        one.turn(first, sight=sight, sound=sound, spoken=spoken)
        for turn in rest:
            one.turn(turn)
        return one

    def batch(
        self, kind: str, rng: random.Random, noise: torch.Generator | None, count: int
    ) -> Batch:
        return thinker.collate([self.conversation(kind, rng, noise) for _ in range(count)])


def starting_point() -> dict[str, torch.Tensor]:
    """Return the weights of the Thinker; `better_senses` replaces its ears and eyes."""
    path = WORK / "thinker.pt"
    if path.exists():
        state: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["average"]
        return state
    return committed("thinker.")


def better_senses(*models: thinker.Model) -> None:
    """Load the latest ears and eyes into the models, where work/ has them."""
    for stage, inside in (("ears", "tower."), ("eyes", "")):
        path = WORK / f"{stage}.pt"
        if path.exists():
            found = torch.load(path, weights_only=True)["average"]
            tower = {k.removeprefix(inside): v for k, v in found.items() if k.startswith(inside)}
            for model in models:
                (model.audio_tower if stage == "ears" else model.visual).load_state_dict(tower)


def held_out_score(model: thinker.Model, unseen: Asker) -> dict[str, float]:
    scores = thinker.held_out_score(model)
    with torch.no_grad():
        for kind in MIX:
            batch = unseen.batch(kind, random.Random(0), None, 60)  # noqa: S311
            scores[kind] = thinker.answer_loss(model, batch)[1]
    return scores


def main() -> None:
    model = thinker.network()
    model.load_state_dict(starting_point())
    model.audio_tower.requires_grad_(False)
    model.visual.requires_grad_(False)
    trainer = Trainer("joint", model, PLAN)
    asker, unseen = Asker("train"), Asker("test")
    begin = trainer.step
    for step, rng in trainer.steps():
        if step % REFRESH == 0 or step == begin:
            better_senses(trainer.model, trainer.average)
        source = random.Random(int(torch.randint(1 << 30, (1,), generator=rng)))  # noqa: S311
        kind = ORDER[step % len(ORDER)]
        if kind in MIX:
            batch = asker.batch(kind, source, rng, MIX[kind])
        else:
            batch = thinker.make_batch(kind, "train", source)
        loss, exact = thinker.answer_loss(trainer.model, batch)
        name = kind.replace(" ", "_")
        trainer.log(**{name: loss.item(), f"{name}_exact": exact})
        trainer.update(loss)
        if step % 300 == 299:
            print("held out", held_out_score(trainer.average, unseen), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
