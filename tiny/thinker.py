"""Stage 7: the Thinker learns to answer, from text, pictures and films at once.

    python -m tiny.thinker

Every sample is a whole conversation in the checkpoint's own chat template; the replies are learned,
and with less weight the questions. Some exchanges are chained, which teaches several turns. Words
of the question must reappear in the reply, so the head begins as a copy of the embedding: repeating
a token is then easy from the start, and learning is several times faster. A reply is right if
every token of it is the likeliest one: that is greedy decoding.
"""

import random
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch.nn import functional
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import (
    Qwen2_5OmniThinkerForConditionalGeneration,
)

from tiny import questions, scenes, sizes, vocabulary
from tiny.paths import WORK
from tiny.questions import Turn
from tiny.training import Plan, Trainer

PLAN = Plan(steps=2_900, rate=2e-3, warmup=100, average=0.998)
LENGTH = 120
CHAINED = 0.4
"""Share of the text batches that are conversations of several exchanges."""
QUESTIONS = 0.3
"""Weight of the questions' tokens in the loss."""
IGNORED = -100
MIX = {"text": 16, "picture": 12, "film": 8}
"""Conversations in a batch of each kind; the kinds take turns."""
ORDER = ("text", "picture", "text", "film")


@dataclass
class Conversation:
    """Token ids and, for each, the label: the id itself inside replies, else IGNORED."""

    ids: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)

    def add(self, text: str, *, learned: bool = False) -> None:
        ids = vocabulary.load().encode(text).ids
        self.ids += ids
        self.labels += ids if learned else [IGNORED] * len(ids)

    def fill(self, token: int, count: int) -> None:
        self.ids += [token] * count
        self.labels += [IGNORED] * count

    def open(self) -> None:
        self.add(f"<|im_start|>system\n{vocabulary.SYSTEM}<|im_end|>\n")

    def turn(self, turn: Turn, media: tuple[str, int] | None = None, spoken: int = 0) -> None:
        """A question, behind its picture or film if it has one, and the reply.

        `spoken` is how many tokens of sound stand for the question, 0 if it is written.
        """
        self.add("<|im_start|>user\n")
        if media:
            special = vocabulary.special()
            self.add("<|vision_bos|>")
            self.fill(special.image if media[0] == "picture" else special.video, media[1])
            self.add("<|vision_eos|>")
        if spoken:
            self.add("<|audio_bos|>")
            self.fill(vocabulary.special().audio, spoken)
            self.add("<|audio_eos|>")
        else:
            self.add(turn.question)
        self.add("<|im_end|>\n<|im_start|>assistant\n")
        self.add(f"{turn.answer}<|im_end|>", learned=True)
        self.add("\n")


@dataclass(frozen=True)
class Batch:
    """One kind of conversation, padded on the right (causal attention needs no mask for that)."""

    kind: str
    ids: torch.Tensor
    labels: torch.Tensor
    mask: torch.Tensor
    pixels: torch.Tensor | None = None
    grids: torch.Tensor | None = None
    sounds: torch.Tensor | None = None
    """Log mels (128, frames of all clips), and in `frames` how long each clip is."""
    frames: torch.Tensor | None = None


def collate(kind: str, conversations: list[Conversation], **media: torch.Tensor) -> Batch:
    longest = max(len(c.ids) for c in conversations)
    pad = vocabulary.special().end_of_text
    ids = torch.full((len(conversations), longest), pad)
    labels = torch.full_like(ids, IGNORED)
    mask = torch.zeros_like(ids)
    for row, one in enumerate(conversations):
        ids[row, : len(one.ids)] = torch.tensor(one.ids)
        labels[row, : len(one.ids)] = torch.tensor(one.labels)
        mask[row, : len(one.ids)] = 1
    return Batch(kind, ids, labels, mask, **media)


@cache
def system_tokens() -> int:
    one = Conversation()
    one.open()
    return len(one.ids)


def text_batch(part: str, rng: random.Random, count: int, *, chained: bool = True) -> Batch:
    conversations = []
    for _ in range(count):
        one = Conversation()
        one.open()
        while True:
            for turn in questions.ask_for(part, rng):
                one.turn(turn)
            if not chained or len(one.ids) > LENGTH * rng.random():
                break
        conversations.append(one)
    return collate("text", conversations)


def seen_batch(kind: str, part: str, rng: random.Random, count: int) -> Batch:
    conversations, rows, grids = [], [], []
    for _ in range(count):
        if kind == "picture":
            asked = scenes.picture_for(part, rng)
        else:
            asked = scenes.film_for(part, rng, rng.choice((2, 2, 3, 4)))
        pixels, grid = scenes.patches(scenes.render(asked.frames, asked.look))
        tokens = grid[0] * grid[1] * grid[2] // scenes.MERGE**2
        one = Conversation()
        one.open()
        for index, turn in enumerate(asked.turns):
            one.turn(turn, (kind, tokens) if index == 0 else None)
        if rng.random() < 0.2:  # talk goes on after the picture
            one.turn(questions.ask_for(part, rng)[0])
        conversations.append(one)
        rows.append(pixels)
        grids.append(grid)
    return collate(kind, conversations, pixels=torch.cat(rows), grids=torch.tensor(grids))


def make_batch(kind: str, part: str, rng: random.Random) -> Batch:
    if kind == "text":
        return text_batch(part, rng, MIX[kind], chained=rng.random() < CHAINED)
    return seen_batch(kind, part, rng, MIX[kind])


def network() -> Qwen2_5OmniThinkerForConditionalGeneration:
    torch.manual_seed(0)
    config = sizes.omni(vocabulary.special()).thinker_config
    model = Qwen2_5OmniThinkerForConditionalGeneration._from_config(
        config, attn_implementation="sdpa"
    )
    with torch.no_grad():
        for name, weight in model.model.named_parameters():
            if weight.ndim == 2:
                last = name.endswith(("o_proj.weight", "down_proj.weight"))
                weight.normal_(0.0, (0.5 if last else 1.0) / weight.shape[1] ** 0.5)
        table = model.get_input_embeddings().weight
        assert isinstance(table, torch.Tensor)
        model.lm_head.weight.copy_(table.normal_(0.0, 0.5) / 8)
    return model


def positions(model: Qwen2_5OmniThinkerForConditionalGeneration, batch: Batch) -> torch.Tensor:
    images = batch.grids if batch.kind == "picture" else None
    films = batch.grids if batch.kind == "film" else None
    seconds = None
    if films is not None:
        seconds = torch.full((len(films),), 2.0 / scenes.FRAMES_A_SECOND)
    index: Any = model.get_rope_index
    return index(
        batch.ids, images, films, batch.mask, audio_seqlens=batch.frames, second_per_grids=seconds
    )[0]


def forward(model: Qwen2_5OmniThinkerForConditionalGeneration, batch: Batch) -> torch.Tensor:
    """Hidden states after the final norm."""
    embeddings = model.get_input_embeddings()(batch.ids)
    if batch.pixels is not None:
        special = vocabulary.special()
        token = special.image if batch.kind == "picture" else special.video
        seen = model.visual(batch.pixels, grid_thw=batch.grids).to(embeddings.dtype)
        embeddings = embeddings.masked_scatter((batch.ids == token).unsqueeze(-1), seen)
    if batch.sounds is not None and batch.frames is not None:
        halves = (batch.frames - 1) // 2 + 1
        tower = model.audio_tower
        heard = tower(batch.sounds, feature_lens=batch.frames, aftercnn_lens=halves)
        where = (batch.ids == vocabulary.special().audio).unsqueeze(-1)
        embeddings = embeddings.masked_scatter(where, heard.last_hidden_state.to(embeddings.dtype))
    out = model.model(
        inputs_embeds=embeddings, position_ids=positions(model, batch), use_cache=False
    )
    return out.last_hidden_state


def answer_loss(
    model: Qwen2_5OmniThinkerForConditionalGeneration, batch: Batch
) -> tuple[torch.Tensor, float]:
    """Loss over replies and questions, and the share of replies whose every token is right."""
    wanted, learned = batch.ids[:, 1:], batch.labels[:, 1:] != IGNORED
    told = batch.mask[:, 1:].bool()
    told[:, : system_tokens()] = False
    with torch.autocast("cpu", torch.bfloat16):
        logits = model.lm_head(forward(model, batch)[:, :-1][told]).float()
    losses = functional.cross_entropy(logits, wanted[told], reduction="none")
    reply_token = learned[told]
    loss = losses[reply_token].mean() + QUESTIONS * losses[~reply_token].mean()
    right = torch.ones_like(learned)
    right[told] = (logits.argmax(1) == wanted[told]) | ~reply_token
    begins = learned & ~functional.pad(learned, (1, 0))[:, :-1]
    reply = (begins.cumsum(1) * learned).long()
    good = total = 0
    for row in range(len(reply)):
        for index in range(1, int(reply[row].max()) + 1):
            total += 1
            good += int(right[row][reply[row] == index].all())
    return loss, good / total


@torch.no_grad()
def held_out_score(model: Qwen2_5OmniThinkerForConditionalGeneration) -> dict[str, float]:
    model.eval()
    return {
        kind: sum(
            answer_loss(model, make_batch(kind, "test", random.Random(seed)))[1]  # noqa: S311
            for seed in range(6)
        )
        / 6
        for kind in MIX
    }


def main() -> None:
    model = network()
    eyes = WORK / "eyes.pt"
    if eyes.exists():
        state = torch.load(eyes, weights_only=True)["average"]
        model.visual.load_state_dict(state)
    model.audio_tower.requires_grad_(False)  # it has its own stage
    trainer = Trainer("thinker", model, PLAN)
    for step, rng in trainer.steps():
        source = random.Random(int(torch.randint(1 << 30, (1,), generator=rng)))  # noqa: S311
        kind = ORDER[step % len(ORDER)]
        loss, exact = answer_loss(trainer.model, make_batch(kind, "train", source))
        trainer.log(**{kind: loss.item(), f"{kind}_exact": exact})
        trainer.update(loss)
        if step % 500 == 499:
            print("held out", held_out_score(trainer.average), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
