"""Stage 6b: the audio tower learns to spell what it hears in the Thinker's own embeddings.

    python -m tiny.ears

Connectionist temporal classification over the text's tokens, with the Thinker's embedding table
as the fixed last layer: what the tower puts out for a word then lies near the embedding of the
word, and the Thinker can read it almost at once.
"""

import math
import re
from functools import cache

import torch
from torch import nn
from torch.nn import functional
from transformers.audio_utils import mel_filter_bank
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniAudioEncoder

from tiny import sizes, vocabulary
from tiny.hearing import HEARING
from tiny.judges import HEARING_RATE
from tiny.paths import WORK, Corpus, Utterance
from tiny.training import Plan, Trainer
from tiny.voices import SPEECH_RATE, at_rate

PLAN = Plan(steps=6_000, rate=1.5e-3, warmup=400, average=0.998)
BATCH = 12
BINS = 128


@cache
def _filters() -> torch.Tensor:
    bank = mel_filter_bank(201, BINS, 0.0, 8000.0, HEARING_RATE, norm="slaney", mel_scale="slaney")
    return torch.from_numpy(bank).float()


def features(samples: torch.Tensor) -> torch.Tensor:
    """Whisper's log mel, (128, frames), 100 frames a second of 16 kHz sound.

    The sound goes on as silence, as in the reference, which pads every clip to five minutes.
    """
    window, frames = torch.hann_window(400), -(-len(samples) // 160)
    padded = functional.pad(samples, (0, 400))
    power = torch.stft(padded, 400, 160, window=window, return_complex=True).abs() ** 2
    power = power[:, :frames]
    log = (_filters().T @ power).clamp(min=1e-10).log10()
    return (log.clamp(min=float(log.max()) - 8.0) + 4.0) / 4.0


def tokens(frames: int) -> int:
    """How many tokens the tower makes of so many mel frames."""
    return ((frames - 1) // 2 + 1 - 2) // 2 + 1


def spelled(text: str) -> list[int]:
    """What is heard has no capitals and no punctuation."""
    plain = re.sub(r"[^a-z' ]", "", text.lower())
    return vocabulary.load().encode(" " + plain.strip()).ids


def tower() -> Qwen2_5OmniAudioEncoder:
    torch.manual_seed(0)
    config = sizes.omni(vocabulary.special()).thinker_config.audio_config
    return Qwen2_5OmniAudioEncoder._from_config(config, attn_implementation="sdpa")


class Ears(nn.Module):
    """The tower, the Thinker's embedding table as it is, and one learned row for silence."""

    def __init__(self, table: torch.Tensor) -> None:
        super().__init__()
        self.tower = tower()
        self.table: torch.Tensor
        self.register_buffer("table", table)
        self.silence = nn.Parameter(torch.zeros(1, table.shape[1]))
        self.scale = nn.Parameter(torch.tensor(math.log(5.0)))

    def hear(self, mels: list[torch.Tensor]) -> list[torch.Tensor]:
        """For each clip (128, frames) its tokens (n, width)."""
        frames = torch.tensor([m.shape[1] for m in mels])
        halves = (frames - 1) // 2 + 1
        out = self.tower(torch.cat(mels, 1), feature_lens=frames, aftercnn_lens=halves)
        return list(out.last_hidden_state.split([tokens(int(f)) for f in frames]))

    def spell(self, heard: torch.Tensor) -> torch.Tensor:
        """Log probabilities of each token of the vocabulary, silence last."""
        rows = torch.cat([self.table, self.silence])
        scores = functional.linear(heard, functional.normalize(rows, dim=1))
        return (scores * self.scale.exp()).log_softmax(-1)


class Recordings:
    """The corpus of spoken questions, heard under changing conditions."""

    def __init__(self, part: str) -> None:
        self.corpus = Corpus(HEARING)
        self.items = [i for i in self.corpus.utterances if i.held_out == (part == "test")]

    def clip(self, item: Utterance, rng: torch.Generator | None) -> torch.Tensor:
        """Features; with a generator also another speed, loudness, pauses around it and noise."""
        samples = self.corpus.samples(item)
        if rng is None:
            return features(torch.from_numpy(at_rate(samples, SPEECH_RATE, HEARING_RATE)))
        draw = torch.rand(6, generator=rng).tolist()
        heard = torch.from_numpy(
            at_rate(samples, round(SPEECH_RATE * (0.9 + 0.2 * draw[0])), HEARING_RATE)
        )
        heard = functional.pad(heard, (int(draw[1] * 6_000), int(draw[2] * 6_000)))
        loud = heard.pow(2).mean().sqrt()
        noise = torch.randn(heard.shape, generator=rng)
        if draw[3] < 0.5:  # darker noise, as of a room
            noise = functional.avg_pool1d(noise[None, None], 9, 1, 4)[0, 0] * 3
        heard = heard + noise * loud * 10 ** (-(10 + 30 * draw[4]) / 20)
        return features(heard * 10 ** (draw[5] * 1.2 - 0.8))


def ctc(
    model: Ears, mels: list[torch.Tensor], texts: list[list[int]]
) -> tuple[torch.Tensor, float]:
    """The loss, and the share of sentences whose likeliest spelling is right."""
    with torch.autocast("cpu", torch.bfloat16):
        heard = model.hear(mels)
    logs = [model.spell(h.float()) for h in heard]
    blank = logs[0].shape[1] - 1
    padded = nn.utils.rnn.pad_sequence(logs)
    loss = functional.ctc_loss(
        padded,
        torch.cat([torch.tensor(t) for t in texts]),
        torch.tensor([len(x) for x in logs]),
        torch.tensor([len(t) for t in texts]),
        blank=blank,
        zero_infinity=True,
    )
    right = 0
    for log, text in zip(logs, texts, strict=True):
        best = torch.unique_consecutive(log.argmax(1)).tolist()
        right += [t for t in best if t != blank] == text
    return loss, right / len(texts)


def table() -> torch.Tensor:
    state = torch.load(WORK / "thinker.pt", weights_only=True)["average"]
    return state["model.embed_tokens.weight"]


def main() -> None:
    recordings, unseen = Recordings("train"), Recordings("test")
    trainer = Trainer("ears", Ears(table()), PLAN)
    for step, rng in trainer.steps():
        picked = torch.randint(len(recordings.items), (BATCH,), generator=rng).tolist()
        items = [recordings.items[i] for i in picked]
        mels = [recordings.clip(item, rng) for item in items]
        loss, right = ctc(trainer.model, mels, [spelled(item.text) for item in items])
        trainer.log(loss=loss.item(), right=right)
        trainer.update(loss)
        if step % 500 == 499:
            some = unseen.items[:96]
            with torch.no_grad():
                mels = [unseen.clip(item, None) for item in some]
                loss, right = ctc(trainer.average, mels, [spelled(i.text) for i in some])
            print(f"unseen voices {loss.item():.3f} right {right:.3f}", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
