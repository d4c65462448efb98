"""Word error rates of the original speech, the vocoder alone, and DiT with vocoder.

    python -m tiny.listen [sentences]

All sentences are held out. Writes the recordings and a spectrogram of each variant to work/listen.
"""

import sys
from collections.abc import Callable
from typing import Any

import soundfile as sf
import torch
from torch import nn

from tiny import dit, judges, vocoder
from tiny.codec import Sentence, encoded
from tiny.paths import WORK, Corpus, Samples
from tiny.speech import SPEAKERS, SPEECH
from tiny.voices import SPEECH_RATE

FOLDER = WORK / "listen"


def averaged(name: str, model: nn.Module) -> Any:
    state = torch.load(WORK / f"{name}.pt", weights_only=True)
    model.load_state_dict(state["average"])
    return model.eval()


class Renderer:
    """Convert codes or mels to samples with the latest trained weights."""

    def __init__(self, sentences: list[Sentence]) -> None:
        self._vocoder = averaged("vocoder", vocoder.generator())
        self._dit = averaged("dit", dit.network())
        streams = dit.Streams(sentences)
        rng = torch.Generator().manual_seed(7)
        self._reference = {voice: streams.reference(voice, rng) for voice in SPEAKERS}

    @torch.no_grad()
    def voiced(self, mels: torch.Tensor) -> Samples:
        return self._vocoder(mels.float().T[None]).numpy()

    @torch.no_grad()
    def painted(self, codes: torch.Tensor, voice: str) -> torch.Tensor:
        torch.manual_seed(3)
        reference = self._reference[voice][None]
        mels = self._dit.sample(dit.speaker_vector(voice), reference, codes.long()[None])
        return mels[0].T


def report(name: str, sounds: list[Samples], texts: list[str]) -> None:
    open_ = [judges.whisper(s) for s in sounds]
    closed = [judges.sphinx(s) for s in sounds]
    rates = [
        judges.word_error_rate(closed, texts),
        judges.word_error_rate(open_, texts),
        judges.word_error_rate(open_, judges.rotated(texts)),
    ]
    line = f"closed {rates[0]:.1%}  open {rates[1]:.1%}  rotated {rates[2]:.0%}"
    print(f"{name:>14}: {line}", flush=True)  # noqa: T201
    for index, (sound, text) in enumerate(zip(sounds, texts, strict=True)):
        sf.write(FOLDER / f"{name}-{index}.wav", sound, SPEECH_RATE)
        if judges.words(open_[index]) != judges.words(text):
            print(f"    {text!r} heard {open_[index].strip()!r} / {closed[index]!r}")  # noqa: T201


def main() -> None:
    torch.set_num_threads(1)
    FOLDER.mkdir(parents=True, exist_ok=True)
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 24
    sentences = encoded()
    renderer = Renderer(sentences)
    corpus = Corpus(SPEECH)
    original = {(i.voice, i.text): i for i in corpus.utterances if i.held_out}
    for voice in SPEAKERS:
        chosen = [s for s in sentences if s.held_out and s.voice == voice][:count]
        texts = [s.text for s in chosen]
        kinds: dict[str, Callable[[Sentence], Samples]] = {
            "original": lambda s: corpus.samples(original[s.voice, s.text]),
            "vocoder": lambda s: renderer.voiced(s.mels),
            "codes": lambda s: renderer.voiced(renderer.painted(s.codes, s.voice)),
        }
        for kind, make in kinds.items():
            report(f"{voice}-{kind}", [make(s) for s in chosen], texts)


if __name__ == "__main__":
    main()
