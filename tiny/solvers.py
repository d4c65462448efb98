"""What solvers, steps and guidance cost: the same codes and noise, integrated in many ways.

    python -m tiny.solvers [--items 40]

The distance is that of log mels from a fine solution with guidance throughout, in dB; the words are
judged as in evaluate.py. Prints a markdown table.
"""

import argparse
from typing import Literal, cast

import numpy as np

from omni_export import model_config
from omni_export.cli import main as export
from omni_runtime.bundle.config import SolverPreset
from omni_runtime.conversation import Conversation
from omni_runtime.engine.code2wav import Code2Wav
from omni_runtime.engine.dit import MelStream, seeded_noise
from omni_runtime.engine.solver import nfe
from omni_runtime.events import TurnDone
from omni_runtime.model import Model
from omni_runtime.options import ReplyOptions, SpeechOptions
from tiny import exam, judges
from tiny.paths import HERE, WORK, Samples
from tiny.speech import SPEAKERS

FINE = "rk4, 48 steps"
DECIBEL = 20 / np.log(10)
Solver = Literal["euler", "midpoint", "rk4"]


def preset(solver: Solver, steps: int, guided: int) -> SolverPreset:
    guidance = 0.5 if guided else 0.0
    return SolverPreset(
        solver=solver, steps=steps, sway=-1.0, guidance=guidance, guided=guided, summary="a trial"
    )


def variants() -> dict[str, SolverPreset]:
    """By name, which says solver, steps, and how many of the evaluations are guided."""
    found = {FINE: preset("rk4", 48, 192)}
    shapes: dict[Solver, tuple[int, tuple[int, ...]]] = {
        "rk4": (4, (9, 4, 2, 1)),
        "midpoint": (2, (8, 4, 3, 2)),
        "euler": (1, (8, 5)),
    }
    for solver, (each, counts) in shapes.items():
        for steps in counts:
            for share, guided in {"all": steps * each, "none": 0}.items():
                name = f"{solver}, {steps} steps, {share} guided"
                found[name] = preset(solver, steps, guided)
    return found


class Recorder:
    """Takes the place of the sound: keeps the codes of a reply."""

    def __init__(self) -> None:
        self.codes: list[int] = []

    def push(self, code: int) -> None:
        self.codes.append(code)

    def finish(self) -> None:
        """There is nothing left to hear."""


class Deaf(Model):
    """A model whose replies are drawn and not made to sound."""

    recorder: Recorder

    def code2wav(self, *_: object, **__: object) -> Code2Wav:
        self.recorder = Recorder()
        return cast(Code2Wav, self.recorder)


def replies(model: Deaf, count: int) -> list[tuple[str, str, list[int]]]:
    """Voice, text and codes of `count` replies."""
    found: list[tuple[str, str, list[int]]] = []
    for index, item in zip(range(count), exam.items("typed"), strict=False):
        voice = SPEAKERS[index % len(SPEAKERS)]
        options = ReplyOptions(SpeechOptions(voice), seed=index)
        talk = Conversation(model)
        *_, done = talk.send(item.asked.turns[0].question, options)
        assert isinstance(done, TurnDone)
        found.append((voice, done.text.strip(), model.recorder.codes))
    return found


def mel(model: Model, name: str, voice: str, codes: list[int], seed: int) -> Samples:
    condition = np.asarray(model.bundle.voice(voice), np.float32)
    stream = MelStream(model.dit(name), condition, seeded_noise(seed, model.speech.dit))
    blocks = -(-len(codes) // stream.codes_per_block)
    return stream.chunk(np.array(codes, np.int64), blocks).mel


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=40)
    count = parser.parse_args().items
    ways = variants()
    model_config.PRESETS.update(ways)
    folder = WORK / "bundles" / "solvers"
    export(["--model", str(HERE / "checkpoint"), "--quant", "fp32", "--output", str(folder)])
    drawn = replies(Deaf(folder), count)
    model = Model(folder)
    fine = [mel(model, FINE, voice, codes, i) for i, (voice, _, codes) in enumerate(drawn)]
    texts = [text for _, text, _ in drawn]
    print("| solver | passes | distance to row 1 | closed WER | open WER |")  # noqa: T201
    print("| --- | --- | --- | --- | --- |")  # noqa: T201
    for name, way in ways.items():
        mels = [mel(model, name, voice, codes, i) for i, (voice, _, codes) in enumerate(drawn)]
        squares = [np.square(a - b).mean() for a, b in zip(mels, fine, strict=True)]
        waves = [model.vocoder.synthesize(one, 0, 0) for one in mels]
        rates = [
            judges.word_error_rate([listener(wave) for wave in waves], texts)
            for listener in (judges.sphinx, judges.whisper)
        ]
        distance = DECIBEL * float(np.sqrt(np.mean(squares)))
        said = " | ".join(f"{100 * rate:.1f} %" for rate in rates)
        print(f"| {name} | {nfe(way)} | {distance:.2f} dB | {said} |", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
