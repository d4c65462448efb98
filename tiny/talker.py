"""Stage 8: the Talker learns to predict codes from the Thinker's reply rows.

    python -m tiny.talker

The Thinker is frozen, but its own training may still be running: its latest weights are loaded now
and then. Its rows (hidden state plus embedding) are computed exactly as at run time:
one row per reply token, then one end row, then padding. Each row is added to the embedding of the
last code. A tenth of the code history is corrupted: at run time the history is the Talker's own
output, which has errors.
"""

import random
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import (
    Qwen2_5OmniTalkerForConditionalGeneration,
)

from tiny import questions, scenes, sizes, thinker, vocabulary
from tiny.codec import encoded, load_book
from tiny.questions import Turn
from tiny.speech import SPEAKERS
from tiny.training import Plan, Trainer, chosen, mixed

PLAN = Plan(steps=6_000, rate=2e-3, warmup=150, decay=0.05, average=0.998)
FURTHER = Plan(steps=2_200, rate=8e-4, warmup=100, decay=0.05, average=0.998)
"""With --continue."""
REFRESH = 200
"""Steps after which the latest Thinker is loaded."""
BATCH = 12
CORRUPTED = 0.10
DROPOUT = 0.1
NEIGHBOURS = 8


class LineInput:
    """Recorded replies, and conversations that end in one of them."""

    def __init__(self, part: str) -> None:
        rows = [s for s in encoded() if s.voice == "Joe" and s.held_out == (part == "test")]
        self.codes = {s.text: s.codes.long() for s in rows}
        self.texts = list(self.codes)

    def draw(self, rng: random.Random) -> tuple[Turn, scenes.Asked | None]:
        """Return a question with its own reply, or (half the time) with any recorded reply."""
        kind = rng.random()
        for _ in range(20):
            if kind < 0.25:
                asked = scenes.picture_for("train", rng)
                if asked.turns[0].answer in self.codes:
                    return asked.turns[0], asked
            elif kind < 0.5:
                turn = questions.ask_for("train", rng)[0]
                if turn.answer in self.codes:
                    return turn, None
            else:
                break
        question = questions.ask_for("train", rng)[0].question
        return Turn(question, rng.choice(self.texts)), None


@dataclass(frozen=True)
class Script:
    """One sample of speech: the conversation, the position of its reply, and its codes."""

    conversation: thinker.Conversation
    reply: range
    codes: torch.Tensor
    voice: str


def script(turn: Turn, codes: torch.Tensor, voice: str, asked: scenes.Asked | None) -> Script:
    one = thinker.Conversation()
    one.turn(turn, sight=scenes.look_at(asked) if asked else None)
    learned = [i for i, label in enumerate(one.labels) if label != thinker.IGNORED]
    return Script(one, range(learned[0], learned[-1]), codes, voice)


@dataclass(frozen=True)
class Rows:
    """The Talker's inputs for a batch: rows to project, positions, and the codes to predict."""

    rows: torch.Tensor
    positions: torch.Tensor
    history: torch.Tensor
    labels: torch.Tensor


def thinker_rows(model: thinker.Model, scripts: list[Script]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return hidden state + embedding of every token (media: hidden state only), and positions."""
    batch = thinker.collate([s.conversation for s in scripts])
    embeddings = model.get_input_embeddings()(batch.ids)
    special = vocabulary.special()
    media = torch.tensor([special.image, special.video, special.audio])
    blank = torch.isin(batch.ids, media).unsqueeze(-1)
    return thinker.forward(model, batch) + embeddings.masked_fill(blank, 0.0), batch.positions


class Teacher:
    """Converts scripts into the Talker's batches with the frozen Thinker."""

    def __init__(self) -> None:
        self.refresh()
        book = load_book()
        self._near = torch.cdist(book, book).topk(NEIGHBOURS + 1, largest=False).indices[:, 1:] + 1

    def refresh(self) -> None:
        """Load the latest Thinker."""
        self._thinker = thinker.trained().requires_grad_(False)
        special = vocabulary.special()
        table: Any = self._thinker.get_input_embeddings().weight
        self._end, self._pad = table[special.tts_end], table[special.tts_pad]
        self._voice = {name: table[special.voices[name]] for name in SPEAKERS}

    def _corrupt(self, codes: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        """Replace some codes of the history by similar codes, and fewer by arbitrary codes."""
        kind = torch.rand(codes.shape, generator=rng)
        pick = torch.randint(NEIGHBOURS, codes.shape, generator=rng)
        any_ = torch.randint(1, sizes.CODES + 1, codes.shape, generator=rng)
        similar = self._near[codes - 1, pick]
        mixed = torch.where(kind < CORRUPTED, similar, codes)
        return torch.where(kind < CORRUPTED * 0.3, any_, mixed)

    @torch.no_grad()
    def rows(self, scripts: list[Script], rng: torch.Generator | None) -> Rows:
        """Return a batch; without a generator the history is not corrupted."""
        known, where = thinker_rows(self._thinker, scripts)
        lengths = [s.reply.start + 1 + len(s.codes) + 1 for s in scripts]
        size = (len(scripts), max(lengths))
        rows = torch.zeros(*size, known.shape[-1])
        positions = torch.zeros(3, *size, dtype=torch.long)
        history = torch.full(size, -1)
        labels = torch.full(size, thinker.IGNORED)
        for index, item in enumerate(scripts):
            start, reply, total = item.reply.start, known[index][item.reply], lengths[index]
            rows[index, :start] = known[index, :start]
            rows[index, start] = self._voice[item.voice]
            speech = rows[index, start + 1 : total]
            speech[:] = self._pad
            spoken = torch.cat([reply, self._end[None]])[: len(speech)]
            speech[: len(spoken)] = spoken
            positions[:, index, :start] = where[:, index, :start]
            after = int(where[:, index, :start].max()) + 1
            positions[:, index, start:] = after + torch.arange(size[1] - start)
            past = item.codes if rng is None else self._corrupt(item.codes, rng)
            history[index, start] = sizes.CODEC_PAD
            history[index, start + 1] = sizes.CODEC_BOS
            history[index, start + 2 : total] = past
            labels[index, start + 1 : total - 1] = item.codes
            labels[index, total - 1] = sizes.CODEC_EOS
        return Rows(rows, positions, history, labels)


def network(dropout: float = 0.0) -> Qwen2_5OmniTalkerForConditionalGeneration:
    torch.manual_seed(0)
    config = sizes.omni(vocabulary.special()).talker_config
    config.attention_dropout = dropout
    model = Qwen2_5OmniTalkerForConditionalGeneration._from_config(
        config, attn_implementation="sdpa"
    )
    with torch.no_grad():  # larger than the default, from which attention is slow to learn
        for name, weight in model.named_parameters():
            if weight.ndim == 2:
                last = name.endswith(("o_proj.weight", "down_proj.weight"))
                weight.normal_(0.0, (0.5 if last else 1.0) / weight.shape[1] ** 0.5)
        model.codec_head.weight.mul_(0.25)
        model.model.embed_tokens.weight.mul_(8.0)
    return model


def code_loss(
    model: Qwen2_5OmniTalkerForConditionalGeneration, batch: Rows
) -> tuple[torch.Tensor, float]:
    """Return the loss over the codes, and the share of codes that greedy decoding gets right."""
    codes = model.get_input_embeddings()(batch.history.clamp(min=0))
    codes = codes * (batch.history >= 0).unsqueeze(-1)
    with mixed():
        rows = model.thinker_to_talker_proj(batch.rows + codes)
        out = model.model(inputs_embeds=rows, position_ids=batch.positions, use_cache=False)
        spoken = batch.labels != thinker.IGNORED
        logits = model.codec_head(out.last_hidden_state[spoken]).float()
    wanted = batch.labels[spoken]
    right = (logits.argmax(1) == wanted).float().mean().item()
    return functional.cross_entropy(logits, wanted), right


def scripts(lines: LineInput, rng: random.Random, count: int = BATCH) -> list[Script]:
    drawn: list[Script] = []
    for index in range(count):
        turn, asked = lines.draw(rng)
        drawn.append(script(turn, lines.codes[turn.answer], SPEAKERS[index % 2], asked))
    return drawn


def main() -> None:
    teacher = Teacher()
    lines, unseen = LineInput("train"), LineInput("test")
    trainer = Trainer("talker", network(DROPOUT), chosen(PLAN, FURTHER))
    for step, rng in trainer.steps():
        if step % REFRESH == 0:
            teacher.refresh()
        source = random.Random(int(torch.randint(1 << 30, (1,), generator=rng)))  # noqa: S311
        loss, right = code_loss(trainer.model, teacher.rows(scripts(lines, source), rng))
        trainer.log(loss=loss.item(), right=right)
        trainer.update(loss)
        if step % 250 == 249:
            fixed = scripts(unseen, random.Random(0), 48)  # noqa: S311
            with torch.no_grad():
                held, right = code_loss(trainer.average, teacher.rows(fixed, None))
            print(f"held out {held.item():.3f} right {right:.3f}", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
