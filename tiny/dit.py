"""Stage 4: the DiT learns to predict a mel spectrogram from codes and a reference voice.

    python -m tiny.dit

Flow matching: at time t the network gets (1 - t) noise + t mel and predicts mel - noise. One crop
in ten has neither codes nor voice: the unconditional branch of classifier-free guidance. The voice
is given as at run time: a reference clip, encoded by ECAPA, and a fixed vector.
"""

from typing import Any

import torch
from torch.nn import functional
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniToken2WavDiTModel

from tiny import sizes
from tiny.codec import Sentence, encoded
from tiny.speech import SPEAKERS
from tiny.training import Plan, Trainer, mixed

PLAN = Plan(steps=4_600, rate=1e-3, warmup=400, average=0.9995)
BATCH = 8
FRAMES = 192
REFERENCE = 300


def speaker_vector(voice: str) -> torch.Tensor:
    """Return the fixed vector of a voice. Any vector works that is unique to the voice."""
    rng = torch.Generator().manual_seed(1 + SPEAKERS.index(voice))
    return torch.randn(1, sizes.DIT["enc_emb_dim"], generator=rng)


class Streams:
    """All sentences of each voice end to end, so a crop may begin and end anywhere."""

    def __init__(self, sentences: list[Sentence]) -> None:
        self._mels: dict[str, torch.Tensor] = {}
        self._codes: dict[str, torch.Tensor] = {}
        self._starts: dict[str, torch.Tensor] = {}
        for voice in SPEAKERS:
            own = [s for s in sentences if s.voice == voice and not s.held_out]
            self._mels[voice] = torch.cat([s.mels for s in own])
            self._codes[voice] = torch.cat([s.codes for s in own]).long()
            lengths = torch.tensor([len(s.codes) for s in own])
            self._starts[voice] = lengths.cumsum(0) - lengths

    def crop(self, voice: str, rng: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mels and codes; half of the crops start with a sentence, as at run time."""
        last = len(self._codes[voice]) - FRAMES // 2
        start = int(torch.randint(last, (1,), generator=rng))
        if torch.rand(1, generator=rng) < 0.5:
            starts = self._starts[voice]
            start = min(last, int(starts[torch.randint(len(starts), (1,), generator=rng)]))
        mels = self._mels[voice][2 * start : 2 * start + FRAMES].float()
        return mels, self._codes[voice][start : start + FRAMES // 2]

    def reference(self, voice: str, rng: torch.Generator, frames: int = REFERENCE) -> torch.Tensor:
        start = int(torch.randint(len(self._mels[voice]) - frames, (1,), generator=rng))
        return self._mels[voice][start : start + frames].float()


def flow_loss(
    model: Qwen2_5OmniToken2WavDiTModel, streams: Streams, rng: torch.Generator
) -> torch.Tensor:
    mels, codes, vectors, references = [], [], [], []
    for index in range(BATCH):
        voice = SPEAKERS[index % len(SPEAKERS)]
        target, code = streams.crop(voice, rng)
        mels.append(target)
        codes.append(code)
        vectors.append(speaker_vector(voice).expand(FRAMES, -1))
        references.append(streams.reference(voice, rng))
    clean, code = torch.stack(mels), torch.stack(codes)
    vector, reference = torch.stack(vectors), torch.stack(references)
    blind = torch.rand(BATCH, generator=rng) < 0.1
    code[blind], vector[blind], reference[blind] = 0, 0.0, 0.0
    noise = torch.randn(clean.shape, generator=rng)
    time = torch.rand(BATCH, generator=rng)
    between = noise + time[:, None, None] * (clean - noise)
    with mixed():
        painted = model(between, reference, vector, code, time, apply_cfg=False)
    return functional.mse_loss(painted.float(), clean - noise)


def network() -> Qwen2_5OmniToken2WavDiTModel:
    torch.manual_seed(0)
    config = sizes.token2wav().dit_config
    model = Qwen2_5OmniToken2WavDiTModel._from_config(config, attn_implementation="sdpa")
    with torch.no_grad():  # every block starts as the identity, as is usual for a DiT
        blocks: Any = model.transformer_blocks
        for block in blocks:
            block.attn_norm.linear.weight.zero_()
            block.attn_norm.linear.bias.zero_()
        model.proj_out.weight.zero_()
    return model


def main() -> None:
    streams = Streams(encoded())
    trainer = Trainer("dit", network(), PLAN)
    for _, rng in trainer.steps():
        loss = flow_loss(trainer.model, streams, rng)
        trainer.log(flow=loss.item())
        trainer.update(loss)


if __name__ == "__main__":
    main()
