"""Stage 3: BigVGAN learns to convert mel spectrograms to waveforms.

    python -m tiny.vocoder

The first part has only a multi-resolution spectral loss. The second part adds a small
discriminator, without which the speech buzzes. It also blurs some of the mels, because the DiT's
mels at run time are never quite sharp.
"""

import torch
from torch import nn
from torch.nn import functional
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import (
    Qwen2_5OmniToken2WavBigVGANModel,
)

from tiny import mel, sizes
from tiny.paths import Corpus
from tiny.speech import SPEECH
from tiny.training import Plan, Trainer

PLAN = Plan(steps=4_200, rate=1.2e-3, final=0.1, betas=(0.8, 0.98))
JUDGE_FROM = 3_000
BATCH = 4
FRAMES = 48
RESOLUTIONS = ((256, 64), (512, 128), (1024, 240), (2048, 480))


class Clips:
    """Random crops of the training sentences, as 24 kHz samples."""

    def __init__(self) -> None:
        corpus = Corpus(SPEECH)
        self._corpus = corpus
        need = FRAMES * mel.HOP
        self._items = [i for i in corpus.utterances if not i.held_out and i.length > need]

    def draw(self, rng: torch.Generator, count: int = BATCH) -> torch.Tensor:
        need, clips = FRAMES * mel.HOP, []
        for index in torch.randint(len(self._items), (count,), generator=rng).tolist():
            samples = torch.from_numpy(self._corpus.samples(self._items[index]))
            start = int(torch.randint(len(samples) - need, (1,), generator=rng))
            clips.append(samples[start : start + need])
        return torch.stack(clips)


class Judge(nn.Module):
    """Discriminator of real and generated spectra, by patches, at three resolutions."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.resolutions = RESOLUTIONS[1:]
        self.stacks = nn.ModuleList(self._stack(channels) for _ in self.resolutions)

    @staticmethod
    def _stack(channels: int) -> nn.Sequential:
        weight = nn.utils.parametrizations.weight_norm
        first = weight(nn.Conv2d(1, channels, (3, 9), padding=(1, 4)))
        layers: list[nn.Module] = [first, nn.LeakyReLU(0.2)]
        for _ in range(3):
            inner = nn.Conv2d(channels, channels, (3, 9), stride=(1, 2), padding=(1, 4))
            layers += [weight(inner), nn.LeakyReLU(0.2)]
        return nn.Sequential(*layers, weight(nn.Conv2d(channels, 1, (3, 3), padding=1)))

    def forward(self, samples: torch.Tensor) -> list[torch.Tensor]:
        verdicts = []
        for (window, hop), stack in zip(self.resolutions, self.stacks, strict=True):
            verdicts.append(stack(mel.spectrum(samples, window, hop).unsqueeze(1)))
        return verdicts


def spectral_loss(made: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """Return the distance of log amplitudes, amplitudes (four resolutions) and log mels."""
    total = functional.l1_loss(mel.log_mel(made), mel.log_mel(real))
    for window, hop in RESOLUTIONS:
        a, b = mel.spectrum(made, window, hop), mel.spectrum(real, window, hop)
        total = total + functional.l1_loss((a + 1e-5).log(), (b + 1e-5).log()) / 2
        total = total + (a - b).norm() / (b.norm() + 1e-3) / 2
    return total


def blurred(mels: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Smooth three in ten mels over neighbouring bins and frames, by a random amount."""
    soft = functional.avg_pool2d(mels.unsqueeze(1), 3, 1, 1, count_include_pad=False).squeeze(1)
    chosen = torch.rand(len(mels), 1, 1, generator=rng) < 0.3
    amount = torch.rand(len(mels), 1, 1, generator=rng) * chosen
    return mels + amount * (soft - mels)


def generator() -> Qwen2_5OmniToken2WavBigVGANModel:
    torch.manual_seed(0)
    model = Qwen2_5OmniToken2WavBigVGANModel(sizes.token2wav().bigvgan_config)
    with torch.no_grad():  # at a higher level the clamp at +-1 saturates and training stalls
        model.conv_post.weight.mul_(0.3)
    return model


def main() -> None:
    clips = Clips()
    trainer = Trainer("vocoder", generator(), PLAN)
    judge_plan = Plan(steps=PLAN.steps - JUDGE_FROM, rate=5e-4, betas=(0.8, 0.98))
    judge = Trainer("vocoder_judge", Judge(), judge_plan)
    trainer.companions.append(judge)
    for step, rng in trainer.steps():
        real = clips.draw(rng)
        mels = mel.log_mel(real).transpose(1, 2)
        judged = step >= JUDGE_FROM
        made = trainer.model(blurred(mels, rng) if judged else mels)
        loss = spectral_loss(made, real)
        trainer.log(spectra=loss.item())
        if judged:
            told = sum(
                ((1 - a) ** 2).mean() + (b**2).mean()
                for a, b in zip(judge.model(real), judge.model(made.detach()), strict=True)
            )
            assert isinstance(told, torch.Tensor)
            judge.update(told)
            fooled = sum(((1 - verdict) ** 2).mean() for verdict in judge.model(made))
            trainer.log(told=told.item(), fooled=float(fooled))
            loss = loss + 0.1 * fooled
        trainer.update(loss)


if __name__ == "__main__":
    main()
