"""Stage 7: the Thinker learns to answer questions about text, pictures and videos.

    python -m tiny.thinker

A sample is a complete conversation in the checkpoint's chat template. The loss covers the replies
and, with less weight, the questions. Some samples have several exchanges. Replies repeat words of
the question, so the head is initialized as a copy of the embedding. The model can then copy tokens
from the start, which speeds up training several times. A reply is right if every token has the
highest probability, as in greedy decoding.
"""

import random
from dataclasses import dataclass
from functools import cache

import torch
from torch.nn import functional
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import (
    Qwen2_5OmniThinkerForConditionalGeneration,
)

from omni_runtime.bundle.config import PositionConfig
from omni_runtime.inputs import positions
from omni_runtime.inputs.mel import audio_tokens
from tiny import questions, scenes, sizes, vocabulary
from tiny.audio import encode
from tiny.paths import WORK
from tiny.questions import Turn
from tiny.scenes import Sight
from tiny.training import Plan, Trainer, chosen, mixed
from tiny.weights import committed

PLAN = Plan(steps=2_900, rate=2e-3, warmup=100, average=0.998)
FURTHER = Plan(steps=2_900, rate=5e-4, warmup=150, average=0.998)
"""With --continue: at twice the rate the model forgets its sums in 300 steps."""
LENGTH = 240
"""Length in tokens after which a conversation without media gets no further exchange."""
CHAINED = 0.6
"""Share of the text batches with conversations of several exchanges."""
EASY = 0.05
"""Lowest weight of a reply token in the loss; the highest is 1."""
QUESTIONS = 0.2
"""Weight of question tokens in the loss."""
Model = Qwen2_5OmniThinkerForConditionalGeneration
IGNORED = -100
MIX = {"text": 12, "picture": 8, "film": 6}
"""Conversations in a batch of each kind; the kinds alternate."""
ORDER = ("picture", "text", "picture", "film", "picture", "text", "picture", "text")
EXCHANGES = (1, 4, 6, 8)
"""Exchanges per scene: one encoding of it trains many answers."""
RULES = PositionConfig(ids_per_second=25, seconds_per_chunk=2.0)
SECONDS = 2.0 / scenes.FRAMES_A_SECOND
"""Between two consecutive squares of a video."""


class Conversation:
    """A prompt with its replies: tokens, which of them are learned, and its media."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.labels: list[int] = []
        """The token itself inside replies, else IGNORED."""
        self.sights: list[Sight] = []
        self.sounds: list[torch.Tensor] = []
        """Log mels (bins, frames)."""
        self._runs: list[positions.TokenRun] = []
        self.add(f"<|im_start|>system\n{vocabulary.SYSTEM}<|im_end|>\n")

    def add(self, text: str, *, learned: bool = False) -> None:
        ids = vocabulary.load().encode(text).ids
        self._put(ids, positions.SequentialRun(len(ids)))
        if learned:
            self.labels[-len(ids) :] = ids

    def _put(self, ids: list[int], run: positions.TokenRun) -> None:
        self.ids += ids
        self.labels += [IGNORED] * len(ids)
        self._runs.append(run)

    def hear(self, mel: torch.Tensor) -> None:
        count = audio_tokens(mel.shape[1])
        self.add("<|audio_bos|>")
        self._put([vocabulary.special().audio] * count, positions.SequentialRun(count))
        self.add("<|audio_eos|>")
        self.sounds.append(mel)

    def see(self, sight: Sight, mel: torch.Tensor | None = None) -> None:
        """Add a picture or video; `mel` is the audio of a video, interleaved with its squares."""
        special = vocabulary.special()
        picture = positions.VisionRun(sight.tokens, SECONDS)
        self.sights.append(sight)
        if mel is None:
            self.add("<|vision_bos|>")
            self._put([special.video if sight.film else special.image] * picture.tokens, picture)
            self.add("<|vision_eos|>")
            return
        self.sounds.append(mel)
        both = positions.VideoWithAudioRun(picture, audio_tokens(mel.shape[1]))
        tokens = {"video": special.video, "audio": special.audio}
        ids = [
            tokens[track]
            for track, start, stop in positions.interleave(both, RULES)
            for _ in range(start, stop)
        ]
        self._put([special.vision_bos, special.audio_bos], positions.SharedRun(2))
        self._put(ids, both)
        self._put([special.audio_eos, special.vision_eos], positions.SharedRun(2))

    def turn(
        self,
        turn: Turn,
        *,
        sight: Sight | None = None,
        sound: torch.Tensor | None = None,
        spoken: torch.Tensor | None = None,
    ) -> None:
        """Add a question, after its picture or video if it has one, and the reply.

        `sound` is the audio of the video, or a recording before the question. `spoken` is a
        recording in place of the question's text.
        """
        self.add("<|im_start|>user\n")
        if sight:
            self.see(sight, sound)
        elif sound is not None:
            self.hear(sound)
        if spoken is None:
            self.add(turn.question)
        else:
            self.hear(spoken)
        self.add("<|im_end|>\n<|im_start|>assistant\n")
        self.add(f"{turn.answer}<|im_end|>", learned=True)
        self.add("\n")

    @property
    def positions(self) -> torch.Tensor:
        """Return the TMRoPE positions, (3, tokens), as the runtime computes them."""
        return torch.from_numpy(positions.token_positions(self._runs, RULES)[0].copy())


@dataclass(frozen=True)
class Batch:
    """Conversations padded on the right, which needs no mask under causal attention."""

    ids: torch.Tensor
    labels: torch.Tensor
    told: torch.Tensor
    """True where a token is neither padding nor the system prompt."""
    positions: torch.Tensor
    sights: list[Sight]
    sounds: list[torch.Tensor]


def collate(conversations: list[Conversation]) -> Batch:
    size = (len(conversations), max(len(c.ids) for c in conversations))
    ids = torch.full(size, vocabulary.special().end_of_text)
    labels = torch.full(size, IGNORED)
    told = torch.zeros(size, dtype=torch.bool)
    places = torch.zeros(3, *size, dtype=torch.long)
    for row, one in enumerate(conversations):
        length = len(one.ids)
        ids[row, :length] = torch.tensor(one.ids)
        labels[row, :length] = torch.tensor(one.labels)
        told[row, system_tokens() : length] = True
        places[:, row, :length] = one.positions
    sights = [s for one in conversations for s in one.sights]
    sounds = [s for one in conversations for s in one.sounds]
    return Batch(ids, labels, told, places, sights, sounds)


@cache
def system_tokens() -> int:
    return len(Conversation().ids)


def text_batch(part: str, rng: random.Random, count: int, *, chained: bool = True) -> Batch:
    conversations = []
    for _ in range(count):
        one = Conversation()
        while True:
            for turn in questions.ask_for(part, rng):
                one.turn(turn)
            if not chained or len(one.ids) > LENGTH * rng.random():
                break
        conversations.append(one)
    return collate(conversations)


def scene(kind: str, part: str, rng: random.Random, word: str | None = None) -> scenes.Asked:
    exchanges = rng.choice(EXCHANGES) if part == "train" else 1
    if kind == "picture":
        return scenes.picture_for(part, rng, exchanges)
    return scenes.film_for(part, rng, rng.choice((2, 2, 3, 4)), exchanges, word)


def seen_batch(kind: str, part: str, rng: random.Random, count: int) -> Batch:
    conversations = []
    for _ in range(count):
        asked = scene(kind, part, rng)
        one = Conversation()
        for index, turn in enumerate(asked.turns):
            one.turn(turn, sight=scenes.look_at(asked) if index == 0 else None)
        if rng.random() < 0.2:  # the conversation continues without the picture
            one.turn(questions.ask_for(part, rng)[0])
        conversations.append(one)
    return collate(conversations)


def make_batch(kind: str, part: str, rng: random.Random) -> Batch:
    if kind == "text":
        return text_batch(part, rng, MIX[kind], chained=rng.random() < CHAINED)
    return seen_batch(kind, part, rng, MIX[kind])


def network() -> Model:
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


def state() -> dict[str, torch.Tensor]:
    """Return the weights of the latest Thinker in work/, else of the committed one."""
    for stage in ("joint", "thinker"):
        path = WORK / f"{stage}.pt"
        if path.exists():
            found: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["average"]
            return found
    return committed("thinker.")


def trained() -> Model:
    """Return the latest Thinker."""
    model = network()
    model.load_state_dict(state())
    return model.eval()


def embeddings() -> torch.Tensor:
    """Return the embedding table of `trained`, (tokens, width)."""
    return state()["model.embed_tokens.weight"]


def forward(model: Model, batch: Batch) -> torch.Tensor:
    """Return the hidden states after the final norm."""
    embeddings = model.get_input_embeddings()(batch.ids)
    special = vocabulary.special()
    if batch.sights:
        rows = torch.cat([s.rows for s in batch.sights])
        seen = model.visual(rows, grid_thw=torch.tensor([s.grid for s in batch.sights]))
        where = (batch.ids == special.image) | (batch.ids == special.video)
        embeddings = embeddings.masked_scatter(where.unsqueeze(-1), seen.to(embeddings.dtype))
    if batch.sounds:
        heard = torch.cat(encode(model.audio_tower, batch.sounds)).to(embeddings.dtype)
        where = (batch.ids == special.audio).unsqueeze(-1)
        embeddings = embeddings.masked_scatter(where, heard)
    out = model.model(inputs_embeds=embeddings, position_ids=batch.positions, use_cache=False)
    return out.last_hidden_state


def answer_loss(model: Model, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the loss over replies and questions, and whether each reply is fully right."""
    wanted, learned = batch.ids[:, 1:], batch.labels[:, 1:] != IGNORED
    told = batch.told[:, 1:]
    with mixed():
        logits = model.lm_head(forward(model, batch)[:, :-1][told]).float()
    losses = functional.cross_entropy(logits, wanted[told], reduction="none")
    reply_token = learned[told]
    # Most reply tokens follow from the tokens before them, so uncertain tokens get more weight.
    weight = (1 - (-losses.detach()).exp()).clamp(min=EASY)[reply_token]
    loss = (weight * losses[reply_token]).sum() / weight.sum()
    loss = loss + QUESTIONS * losses[~reply_token].mean()
    wrong = (logits.argmax(1) != wanted[told])[reply_token]
    begins = learned & ~functional.pad(learned, (1, 0))[:, :-1]
    reply = begins.ravel().cumsum(0)[learned.ravel()] - 1  # reply index of each learned token
    mistakes = torch.zeros(int(begins.sum())).index_add_(0, reply, wrong.float())
    return loss, mistakes == 0


@torch.no_grad()
def held_out_score(model: Model) -> dict[str, float]:
    model.eval()
    return {
        kind: sum(
            share(answer_loss(model, make_batch(kind, "test", random.Random(seed)))[1])  # noqa: S311
            for seed in range(12)
        )
        / 12
        for kind in MIX
    }


def share(right: torch.Tensor) -> float:
    return right.float().mean().item()


def main() -> None:
    model = network()
    model.audio_tower.requires_grad_(False)  # trained by its own stage
    trainer = Trainer("thinker", model, chosen(PLAN, FURTHER))
    eyes = WORK / "eyes.pt"
    if eyes.exists() and trainer.step == 0:
        state = torch.load(eyes, weights_only=True)["average"]
        model.visual.load_state_dict(state)
        trainer.average.visual.load_state_dict(state)
    for step, rng in trainer.steps():
        source = random.Random(int(torch.randint(1 << 30, (1,), generator=rng)))  # noqa: S311
        kind = ORDER[step % len(ORDER)]
        loss, right = answer_loss(trainer.model, make_batch(kind, "train", source))
        trainer.log(**{kind: loss.item(), f"{kind}_exact": share(right)})
        trainer.update(loss)
        if step % 300 == 299:
            print("held out", held_out_score(trainer.average), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
