"""Stage 6c: the audio tower learns to predict embeddings of the Thinker from speech.

    python -m tiny.ears

The Thinker's embedding table is the fixed last layer. The tower's output for a word is then close
to the embedding of the word, which the Thinker can use almost at once. Each row is trained on the
token spoken at that time, by the alignment, and all rows together on the sentence (CTC). A second
head before the pooling is trained on the phone of every row; it is dropped afterwards.
"""

import math
import random
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniAudioEncoder

from tiny import grammar, sizes, thinker, vocabulary, whisper
from tiny.alignment import PHONES, SILENT, UNKNOWN, Track, aligned, plain, tracks
from tiny.audio import Recordings, changed, pooled, unpooled
from tiny.hearing import HEARING, sentence
from tiny.paths import Corpus, Utterance
from tiny.splicing import WordBank
from tiny.training import Plan, Trainer, mixed

PLAN = Plan(steps=3_000, rate=4e-4, warmup=200, average=0.995)
BATCH = 16
SPLICED = 0.6
"""Share of the clips that are joined from recorded words."""
NUMBERS = 0.15
"""Share of these that are a single number."""
FROZEN = ("conv1.", "conv2.", "layers.0.", "layers.1.")
"""Parts of Whisper's encoder that stay as they are."""


def spelled(text: str) -> list[int]:
    return vocabulary.load().encode(" " + plain(text)).ids


def tower() -> Qwen2_5OmniAudioEncoder:
    """Return the tower with the encoder of whisper-tiny.en, and a random projection."""
    torch.manual_seed(0)
    config = sizes.omni(vocabulary.special()).thinker_config.audio_config
    model = Qwen2_5OmniAudioEncoder._from_config(config, attn_implementation="sdpa")
    with torch.no_grad():
        model.proj.weight.normal_(0.0, config.d_model**-0.5)
    found = model.load_state_dict(whisper.encoder(), strict=False)
    assert not found.unexpected_keys
    for name, weight in model.named_parameters():
        weight.requires_grad_(not name.startswith(FROZEN))
    return model


class Ears(nn.Module):
    """The tower, the Thinker's frozen embedding table, and one learned row for silence."""

    def __init__(self, table: torch.Tensor) -> None:
        super().__init__()
        self.tower = tower()
        self.table: torch.Tensor
        self.register_buffer("table", table)
        self.silence = nn.Parameter(torch.randn(1, table.shape[1]) * 0.1)
        self.scale = nn.Parameter(torch.tensor(math.log(5.0)))
        self.phones = nn.Linear(self.tower.config.d_model, len(PHONES))

    def spell(self, heard: torch.Tensor) -> torch.Tensor:
        """Return log probabilities of each token of the vocabulary, silence last."""
        rows = torch.cat([self.table, self.silence])
        scores = functional.linear(heard, functional.normalize(rows, dim=1))
        return (scores * self.scale.exp()).log_softmax(-1)


@dataclass(frozen=True)
class Heard:
    """An augmented clip (128, frames), its text, and the phone and token of its frames."""

    mel: torch.Tensor
    text: str
    phones: torch.Tensor
    tokens: torch.Tensor


@dataclass(frozen=True)
class Clip:
    """A recording, its corpus, and its alignment."""

    recordings: Recordings
    item: Utterance
    track: Track


class Listening:
    """The corpus with its alignment; for training also sentences from its words."""

    def __init__(self, part: str) -> None:
        spoken, marks = Recordings(Corpus(HEARING), part), tracks()
        self.items = [Clip(spoken, item, marks[item.start]) for item in spoken.items]
        self._bank = WordBank(spoken, aligned())

    def sample(self, rng: torch.Generator) -> Heard:
        """Return an augmented clip: a recording, or a sentence from recorded words."""
        source = random.Random(int(torch.randint(1 << 30, (1,), generator=rng)))  # noqa: S311
        if source.random() < SPLICED:
            alone = source.random() < NUMBERS
            text = source.choice(grammar.NUMBERS) if alone else sentence("train", source)
            joined = self._bank.speak(text, source)
            if joined is not None:
                log, track = joined
                return _heard(*changed(log, rng), text, track)
        return self.hear(source.choice(self.items), rng)

    def hear(self, clip: Clip, rng: torch.Generator | None) -> Heard:
        mel, source = clip.recordings.traced(clip.item, rng)
        return _heard(mel, source, clip.item.text, clip.track)


def _heard(mel: torch.Tensor, source: torch.Tensor, text: str, track: Track) -> Heard:
    """Return the clip with the marks of its track, read at the source frame of each frame."""
    length = len(track.phones)
    inside = (source >= 0) & (source < length)
    source = source.clamp(0, length - 1)
    known = bool((track.phones != UNKNOWN).any())

    def played(marks: torch.Tensor, silent: int) -> torch.Tensor:
        return torch.where(inside, marks[source], silent if known else UNKNOWN)

    phones = played(track.phones, PHONES.index("SIL"))
    return Heard(mel, text, phones, played(track.tokens, SILENT))


@dataclass(frozen=True)
class Result:
    sentence: torch.Tensor
    """CTC loss per token."""
    words: torch.Tensor
    """Cross entropy of the aligned token of each row."""
    phones: torch.Tensor
    """Cross entropy of the phone of each row."""
    right: float
    """Share of sentences whose most probable transcript is right."""
    named: float
    """Share of rows whose most probable phone is right."""

    @property
    def loss(self) -> torch.Tensor:
        return self.sentence + self.words + self.phones


def listen(model: Ears, clips: list[Heard]) -> Result:
    with mixed():
        rows = unpooled(model.tower, [c.mel for c in clips])
        heard = pooled(model.tower, rows)
    lengths = [len(h) for h in heard]
    every = model.spell(torch.cat(heard).float())
    blank = every.shape[1] - 1
    texts = [spelled(c.text) for c in clips]
    sentence = functional.ctc_loss(
        nn.utils.rnn.pad_sequence([*every.split(lengths)]),
        torch.cat([torch.tensor(t) for t in texts]),
        torch.tensor(lengths),
        torch.tensor([len(t) for t in texts]),
        blank=blank,
        zero_infinity=True,
    )
    marks = torch.cat([c.tokens[2::4][:n] for c, n in zip(clips, lengths, strict=True)])
    marks = torch.where(marks == SILENT, blank, marks)
    words = functional.nll_loss(every, marks, ignore_index=UNKNOWN)
    right = 0
    for log, text in zip(every.split(lengths), texts, strict=True):
        best = torch.unique_consecutive(log.argmax(1)).tolist()
        right += [t for t in best if t != blank] == text
    scores = model.phones(torch.cat(rows).float())
    wanted = torch.cat([c.phones[::2] for c in clips])  # a row is every second frame
    phones = functional.cross_entropy(scores, wanted, ignore_index=UNKNOWN)
    named = (scores.argmax(1) == wanted)[wanted != UNKNOWN].float().mean().item()
    return Result(sentence, words, phones, right / len(texts), named)


def main() -> None:
    corpus, unseen = Listening("train"), Listening("test")
    table = thinker.embeddings()
    trainer = Trainer("ears", Ears(table), PLAN)
    for step, rng in trainer.steps():
        found = listen(trainer.model, [corpus.sample(rng) for _ in range(BATCH)])
        trainer.log(
            sentence=found.sentence.item(),
            words=found.words.item(),
            phones=found.phones.item(),
            named=found.named,
            right=found.right,
        )
        trainer.update(found.loss)
        if step % 300 == 299:
            with torch.no_grad():
                result = listen(
                    trainer.average, [unseen.hear(item, None) for item in unseen.items[:120]]
                )
            print(  # noqa: T201
                f"unseen voices sentence {result.sentence:.3f} phones {result.phones:.3f} "
                f"named {result.named:.3f} right {result.right:.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
