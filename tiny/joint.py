"""Stage 7b: the Thinker learns spoken questions, also about images, and videos with audio.

    python -m tiny.joint

Continues the training of the Thinker, on written and spoken questions in turn. Ears and eyes come
from their own stages, which may still be running. They output embeddings of the Thinker, so the
Thinker need not follow their changes. A spoken question is a recording of stage 6a, or joined from
its words (splicing.py). What the model answers wrongly, or what is no question at all, it learns
to refuse.
"""

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch

from tiny import grammar, phrases, questions, scenes, sizes, thinker, vocabulary
from tiny.alignment import aligned
from tiny.audio import FLOOR, Recordings, changed, scaled
from tiny.hearing import HEARING, NUMBERS
from tiny.paths import WORK, Corpus, Utterance
from tiny.questions import Turn
from tiny.splicing import WordBank
from tiny.thinker import Batch, Conversation
from tiny.training import Plan, Trainer
from tiny.weights import committed, deepened

PLAN = Plan(steps=3_200, rate=8e-4, warmup=150, average=0.998)
ORDER = (
    "spoken", "text", "picture", "text", "spoken scene", "text", "spoken", "text", "heard film",
    "text", "spoken", "picture", "text", "number",
)  # fmt: skip
REFRESH = 150
"""Steps after which the latest ears and eyes are loaded."""
MIX = {"spoken": 12, "spoken scene": 8, "heard film": 6, "number": 12}
SPLICED = 0.5
"""Share of the spoken questions that are joined from recorded words."""
NONSENSE = 0.3
"""Share of the conversations of the kind "number" with sound that is no question."""
DOUBT_FROM = 1_500
"""Step from which questions that were answered wrongly are asked again, to be refused."""


@dataclass(frozen=True)
class Drawn:
    """A conversation with sound: what is seen, heard and asked."""

    turns: list[Turn]
    sight: scenes.Sight | None = None
    sound: torch.Tensor | None = None
    spoken: torch.Tensor | None = None

    def conversation(self) -> Conversation:
        one = Conversation()
        first, *rest = self.turns
        one.turn(first, sight=self.sight, sound=self.sound, spoken=self.spoken)
        for turn in rest:
            one.turn(turn)
        return one


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
        self._bank = WordBank(self._recordings, aligned()) if part == "train" else None

    def _recorded(
        self, draw: Callable[[], scenes.Asked], rng: random.Random, noise: torch.Generator | None
    ) -> tuple[scenes.Asked, torch.Tensor]:
        """Return a conversation and its first question as log mel (bins, frames).

        Recorded questions keep their part, training or test; scenes are always new.
        """
        splice = self._bank is not None and noise is not None and rng.random() < SPLICED
        while True:
            asked = draw()
            text = asked.turns[0].question
            if splice and self._bank and noise:
                joined = None if grammar.held_out(text) else self._bank.speak(text, rng)
                if joined is not None:
                    return asked, changed(joined[0], noise)[0]
            elif text in self._asked:
                return asked, self._recordings.clip(rng.choice(self._asked[text]), noise)

    def _question(self, rng: random.Random, noise: torch.Generator | None) -> Drawn:
        asked, mel = self._recorded(
            lambda: scenes.Asked([], questions.ask(rng, typed=False), 0), rng, noise
        )
        return Drawn(asked.turns, spoken=mel)

    def _about_scene(self, rng: random.Random, noise: torch.Generator | None) -> Drawn:
        exchanges = rng.choice(thinker.EXCHANGES) if self._part == "train" else 1
        if rng.random() < 0.6:
            asked, mel = self._recorded(lambda: scenes.picture(rng, exchanges), rng, noise)
        else:
            seconds = rng.choice((2, 2, 3, 4))
            asked, mel = self._recorded(lambda: scenes.film(rng, seconds, exchanges), rng, noise)
        return Drawn(asked.turns, scenes.look_at(asked), spoken=mel)

    def _heard_film(self, rng: random.Random, noise: torch.Generator | None) -> Drawn:
        word = rng.choice(list(self._said))
        asked = thinker.scene("film", self._part, rng, word)
        mel = self._numbers.clip(rng.choice(self._said[word]), noise)
        return Drawn(asked.turns, scenes.look_at(asked), sound=mel)

    def _number(self, rng: random.Random, noise: torch.Generator | None) -> Drawn:
        """Return a number, mostly before a written question; or nonsense."""
        if noise is not None and rng.random() < NONSENSE:
            return self._nonsense(rng, noise)
        word = rng.choice(list(self._said))
        log = self._numbers.power(rng.choice(self._said[word]))
        joined = self._bank.speak(word, rng) if self._bank and rng.random() < 0.5 else None
        log = joined[0] if joined else log
        if noise is not None:
            edges = [torch.full((len(log), rng.randint(0, 60)), FLOOR) for _ in range(2)]
            log = torch.cat([edges[0], log, edges[1]], 1)
        mel = scaled(log) if noise is None else changed(log, noise)[0]
        written = questions.with_manner(rng.choice(phrases.SAID), rng, typed=True)
        turn = Turn(written, grammar.you_said(word))
        return Drawn([turn], sound=mel) if rng.random() < 0.6 else Drawn([turn], spoken=mel)

    def _nonsense(self, rng: random.Random, noise: torch.Generator) -> Drawn:
        """Return sound that is no question: words in random order, speech backwards, or noise."""
        kind = rng.random()
        log = self._recordings.power(rng.choice(self._recordings.items))
        if kind < 0.6 and self._bank:
            log = self._bank.babble(rng.randint(3, 14), rng)
        elif kind < 0.8:
            log = log.flip(1)
        else:
            hiss = torch.empty(len(log), rng.randint(20, 400)).exponential_(generator=noise)
            log = hiss.log10() - rng.uniform(1, 6)
        return Drawn([Turn("", grammar.UNCLEAR)], spoken=changed(log, noise)[0])

    def draw(self, kind: str, rng: random.Random, noise: torch.Generator | None) -> Drawn:
        """Return a conversation of a key of MIX; without `noise` its recordings are clean."""
        made = {
            "spoken": self._question,
            "spoken scene": self._about_scene,
            "heard film": self._heard_film,
            "number": self._number,
        }
        return made[kind](rng, noise)

    def batch(
        self, kind: str, rng: random.Random, noise: torch.Generator | None, count: int
    ) -> Batch:
        return collate([self.draw(kind, rng, noise) for _ in range(count)])


def collate(drawn: list[Drawn]) -> Batch:
    return thinker.collate([one.conversation() for one in drawn])


class Doubts:
    """Spoken questions that were answered wrongly, to be asked again and refused."""

    def __init__(self) -> None:
        self._waiting: deque[Drawn] = deque(maxlen=64)

    def note(self, drawn: list[Drawn], right: torch.Tensor) -> None:
        """Take the conversations whose first reply was wrong; `right` has all their replies."""
        first = 0
        for one in drawn:
            if not right[first] and one.spoken is not None:
                again = Turn(one.turns[0].question, grammar.UNCLEAR)
                self._waiting.append(Drawn([again], one.sight, spoken=one.spoken))
            first += len(one.turns)

    def take(self, count: int) -> list[Drawn]:
        """Return at most `count` of them."""
        return [self._waiting.popleft() for _ in range(min(count, len(self._waiting)))]


def starting_point() -> dict[str, torch.Tensor]:
    """Return the weights of the Thinker; `better_senses` replaces its ears and eyes."""
    path = WORK / "thinker.pt"
    if path.exists():
        found: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["average"]
    else:
        found = committed("thinker.")
    config = sizes.omni(vocabulary.special()).thinker_config.text_config
    return deepened(found, config.num_hidden_layers)


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
            scores[kind] = thinker.share(thinker.answer_loss(model, batch)[1])
    return scores


def main() -> None:
    model = thinker.network()
    model.load_state_dict(starting_point())
    model.audio_tower.requires_grad_(False)
    model.visual.requires_grad_(False)
    trainer = Trainer("joint", model, PLAN)
    asker, unseen, doubts = Asker("train"), Asker("test"), Doubts()
    begin = trainer.step
    for step, rng in trainer.steps():
        if step % REFRESH == 0 or step == begin:
            better_senses(trainer.model, trainer.average)
        source = random.Random(int(torch.randint(1 << 30, (1,), generator=rng)))  # noqa: S311
        kind = ORDER[step % len(ORDER)]
        drawn: list[Drawn] = []
        if kind in MIX:
            drawn = [asker.draw(kind, source, rng) for _ in range(MIX[kind])]
            again = doubts.take(2) if kind == "spoken" else []
            batch = collate(drawn + again)
        else:
            batch = thinker.make_batch(kind, "train", source)
        loss, right = thinker.answer_loss(trainer.model, batch)
        if step >= DOUBT_FROM:
            doubts.note(drawn, right)
        name = kind.replace(" ", "_")
        trainer.log(**{name: loss.item(), f"{name}_exact": thinker.share(right)})
        trainer.update(loss)
        if step % 300 == 299:
            print("held out", held_out_score(trainer.average, unseen), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
