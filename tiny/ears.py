"""Stage 6b: the audio tower learns to spell what it hears in the Thinker's own embeddings.

    python -m tiny.ears

Connectionist temporal classification over the text's tokens, with the Thinker's embedding table
as the fixed last layer: what the tower puts out for a word then lies near the embedding of the
word, and the Thinker can read it almost at once. A second one over letters, before the tower's
pooling, is dropped afterwards: words alone are too many to be found by chance.
"""

import math
import re

import torch
from torch import nn
from torch.nn import functional
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniAudioEncoder

from tiny import sizes, thinker, vocabulary
from tiny.audio import Recordings, pooled, unpooled
from tiny.hearing import HEARING
from tiny.paths import Corpus
from tiny.training import Plan, Trainer, mixed

PLAN = Plan(steps=6_000, rate=1.5e-3, warmup=300, average=0.998)
BATCH = 16
LETTERS = "abcdefghijklmnopqrstuvwxyz' "
LAST = ("out_proj.weight", "fc2.weight")
"""What adds to the residual stream."""


def plain(text: str) -> str:
    """What is heard has no capitals and no punctuation."""
    return re.sub(r"[^a-z' ]", "", text.lower()).strip()


def spelled(text: str) -> list[int]:
    return vocabulary.load().encode(" " + plain(text)).ids


def tower() -> Qwen2_5OmniAudioEncoder:
    torch.manual_seed(0)
    config = sizes.omni(vocabulary.special()).thinker_config.audio_config
    model = Qwen2_5OmniAudioEncoder._from_config(config, attn_implementation="sdpa")
    with torch.no_grad():  # the library's start is so quiet that positions drown the sound
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                gain = 2.0 if "conv" in name else 0.25 if name.endswith(LAST) else 1.0
                weight.normal_(0.0, (gain / weight[0].numel()) ** 0.5)
    return model


class Ears(nn.Module):
    """The tower, the Thinker's embedding table as it is, and one learned row for silence."""

    def __init__(self, table: torch.Tensor) -> None:
        super().__init__()
        self.tower = tower()
        self.table: torch.Tensor
        self.register_buffer("table", table)
        self.silence = nn.Parameter(torch.randn(1, table.shape[1]) * 0.1)
        self.scale = nn.Parameter(torch.tensor(math.log(5.0)))
        self.letters = nn.Linear(self.tower.config.d_model, 1 + len(LETTERS))

    def spell(self, heard: torch.Tensor) -> torch.Tensor:
        """Log probabilities of each token of the vocabulary, silence last."""
        rows = torch.cat([self.table, self.silence])
        scores = functional.linear(heard, functional.normalize(rows, dim=1))
        return (scores * self.scale.exp()).log_softmax(-1)


def aligned(logs: list[torch.Tensor], texts: list[list[int]], blank: int) -> torch.Tensor:
    """The CTC loss of log probabilities (n, symbols) of each clip."""
    return functional.ctc_loss(
        nn.utils.rnn.pad_sequence(logs),
        torch.cat([torch.tensor(t) for t in texts]),
        torch.tensor([len(x) for x in logs]),
        torch.tensor([len(t) for t in texts]),
        blank=blank,
        zero_infinity=True,
    )


def ctc(model: Ears, mels: list[torch.Tensor], texts: list[str]) -> tuple[torch.Tensor, float]:
    """The loss, and the share of sentences whose likeliest spelling is right."""
    with mixed():
        clips = unpooled(model.tower, mels)
        heard = pooled(model.tower, clips)
    logs = [model.spell(h.float()) for h in heard]
    blank = logs[0].shape[1] - 1
    words = [spelled(text) for text in texts]
    letters = [[1 + LETTERS.index(c) for c in plain(text)] for text in texts]
    shapes = [model.letters(clip.float()).log_softmax(-1) for clip in clips]
    loss = aligned(logs, words, blank) + aligned(shapes, letters, 0)
    right = 0
    for log, text in zip(logs, words, strict=True):
        best = torch.unique_consecutive(log.argmax(1)).tolist()
        right += [t for t in best if t != blank] == text
    return loss, right / len(texts)


def main() -> None:
    corpus = Corpus(HEARING)
    recordings, unseen = Recordings(corpus, "train"), Recordings(corpus, "test")
    table: torch.Tensor = thinker.trained().get_input_embeddings().weight.detach()
    trainer = Trainer("ears", Ears(table), PLAN)
    for step, rng in trainer.steps():
        picked = torch.randint(len(recordings.items), (BATCH,), generator=rng).tolist()
        items = [recordings.items[i] for i in picked]
        mels = [recordings.clip(item, rng) for item in items]
        loss, right = ctc(trainer.model, mels, [item.text for item in items])
        trainer.log(loss=loss.item(), right=right)
        trainer.update(loss)
        if step % 300 == 299:
            some = unseen.items[:120]
            with torch.no_grad():
                mels = [unseen.clip(item, None) for item in some]
                loss, right = ctc(trainer.average, mels, [i.text for i in some])
            print(f"unseen voices {loss.item():.3f} right {right:.3f}", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
