"""Measures spoken conversations on scripted questions by voices that the checkpoint never heard.

    python -m tiny.talk make --count 100 --parts 4          # work/talk/N.wav, N.json
    omni talk BUNDLE --input work/talk/0.wav --record OUT/0 --max-speech 5
    python -m tiny.talk call ws://127.0.0.1:8000/v1/realtime OUT      # or through `omni serve`
    python -m tiny.talk report OUT/*

`report` compares the events with the script: how often each turn ended, and how soon it sounded.
"""

import argparse
import json
import random
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile as sf

from tiny import hearing, paths, questions, realtime
from tiny.voices import SPEECH_RATE, at_rate

FOLDER = paths.WORK / "talk"
RATE = 16_000
NOISE = 1e-3
FIRST_PAUSE = 1.0
VOICED = 0.01
"""Fraction of the peak below which the edges of a recording are silence."""


def question(number: int) -> tuple[str, str, np.ndarray]:
    """Return voice, text and samples at 16 kHz of a held-out question, without silent edges."""
    rng = random.Random(number)  # noqa: S311
    voice = list(hearing.UNSEEN)[number % len(hearing.UNSEEN)]
    text = questions.ask_for("test", rng, typed=False)[0].question
    spoken = hearing.UNSEEN[voice](text, rng)
    samples = at_rate(spoken, SPEECH_RATE, RATE)
    loud = np.flatnonzero(np.abs(samples) > VOICED * np.abs(samples).max())
    samples = samples[loud[0] : loud[-1] + 1]
    return voice, text, samples * np.float32(0.5 / np.abs(samples).max())


def make(folder: Path, count: int, parts: int, gap: float) -> None:
    """Write `parts` recordings of `count` questions in all, and when each voice begins and ends."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in range(parts):
        pieces, script, at = [np.zeros(round(FIRST_PAUSE * RATE))], [], FIRST_PAUSE
        for number in range(part, count, parts):
            voice, text, samples = question(number)
            end = at + len(samples) / RATE
            script.append({"voice": voice, "text": text, "start": at, "end": end})
            pieces += [samples, np.zeros(round(gap * RATE))]
            at = sum(map(len, pieces)) / RATE
        recording = np.concatenate(pieces)
        recording += NOISE * np.random.default_rng(part).standard_normal(len(recording))
        sf.write(folder / f"{part}.wav", recording, RATE)
        (folder / f"{part}.json").write_text(json.dumps(script))


@dataclass
class Report:
    """Counts and latencies over several recordings."""

    turns: int = 0
    early: int = 0
    missed: int = 0
    extra: int = 0
    reopened: int = 0
    interrupted: int = 0
    errors: int = 0
    decided: list[float] = field(default_factory=list)
    voice: list[float] = field(default_factory=list)
    realtime: list[float] = field(default_factory=list)

    def add(self, script: list[dict], events: list[dict]) -> None:
        """Compare the events of one recording with its script."""
        starts = [item["start"] - 0.2 for item in script]
        for item, start, stop in zip(script, starts, [*starts[1:], np.inf], strict=True):
            own = [event for event in events if start <= event["at"] < stop]
            states = [(e["state"], e["at"]) for e in own if e["type"] == "state"]
            spoke = sum(state == "speaking" for state, _ in states)
            ended = [at for state, at in states if state == "thinking"]
            self.turns += 1
            self.missed += not ended
            self.early += any(s == "speaking" and at < item["end"] for s, at in states)
            self.reopened += max(0, len(ended) - max(spoke, 1))
            self.extra += max(0, spoke - 1)
            self.errors += sum(event["type"] == "error" for event in own)
        self.interrupted += sum(event["type"] == "interrupted" for event in events)
        for event in events:
            if event["type"] == "turn" and event["decided_to_sound"] is not None:
                self.decided.append(event["decided_to_sound"])
                self.voice.append(event["voice_to_sound"])
                self.realtime.append(event["realtime"] or np.nan)

    def __str__(self) -> str:
        def row(name: str, values: list[float]) -> str:
            low, high = np.nanpercentile(values, [50, 95])
            return f"{name}: median {low:.2f} s, 95th percentile {high:.2f} s ({len(values)})"

        return "\n".join([
            f"turns {self.turns}: ended early {self.early}, missed {self.missed}, "
            f"twice {self.extra}, reopened {self.reopened}, interrupted {self.interrupted}, "
            f"errors {self.errors}",
            row("end decided to first sound", self.decided),
            row("voice ended to first sound", self.voice),
            f"speech, times real time: median {np.nanmedian(self.realtime):.1f}",
        ])  # fmt: skip


def report(scripts: Path, folders: list[Path]) -> None:
    """Print the report of recordings whose folders bear the numbers of their scripts."""
    result = Report()
    for folder in folders:
        script = json.loads((scripts / f"{folder.name}.json").read_text())
        lines = (folder / "events.jsonl").read_text().splitlines()
        result.add(script, [json.loads(line) for line in lines])
    print(result)  # noqa: T201


def main() -> None:
    """Run a command."""
    parser = argparse.ArgumentParser(prog="python -m tiny.talk", description=__doc__)
    parser.add_argument("--scripts", type=Path, default=FOLDER, help="folder of the recordings")
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("make")
    making.add_argument("--count", type=int, default=100)
    making.add_argument("--parts", type=int, default=4)
    making.add_argument("--gap", type=float, default=7.0, help="seconds after each question")
    calling = commands.add_parser("call")
    calling.add_argument("url", help="the realtime server")
    calling.add_argument("out", type=Path, help="folder of the events")
    reporting = commands.add_parser("report")
    reporting.add_argument("folders", type=Path, nargs="+")
    options = parser.parse_args()
    if options.command == "make":
        make(options.scripts, options.count, options.parts, options.gap)
    elif options.command == "call":
        realtime.call(options.url, options.scripts, options.out)
    else:
        report(options.scripts, options.folders)


if __name__ == "__main__":
    main()
