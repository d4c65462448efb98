"""Working folders of the stages, and the format of a speech corpus on disk.

A corpus is one int16 file with all samples end to end, and one JSON line per sentence. Stages read
it through a memory map, so a corpus may be larger than memory.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).resolve().parent
WORK = HERE / "work"
CHECKPOINT = HERE / "checkpoint"

Samples = NDArray[np.float32]


@dataclass(frozen=True)
class Utterance:
    """One spoken sentence: its position in the corpus file, its text and its voice."""

    text: str
    voice: str
    start: int
    length: int
    held_out: bool
    noise: float = 0.0


class CorpusWriter:
    """Appends utterances; an interrupted corpus resumes after its last complete line."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._lines = folder / "index.jsonl"
        self._audio = folder / "audio.i16"
        self.done = read_index(folder)
        self._end = self.done[-1].start + self.done[-1].length if self.done else 0
        self._audio.touch()
        with self._audio.open("r+b") as file:
            file.truncate(self._end * 2)

    def add(
        self, samples: Samples, *, text: str, voice: str, held_out: bool, noise: float = 0.0
    ) -> None:
        pcm = np.clip(np.round(samples * 32767), -32768, 32767).astype(np.int16)
        with self._audio.open("ab") as file:
            file.write(pcm.tobytes())
        entry = Utterance(text, voice, self._end, len(pcm), held_out, noise)
        with self._lines.open("a") as file:
            file.write(json.dumps(asdict(entry)) + "\n")
        self._end += len(pcm)


def read_index(folder: Path) -> list[Utterance]:
    path = folder / "index.jsonl"
    if not path.exists():
        return []
    return [Utterance(**json.loads(line)) for line in path.read_text().splitlines()]


class Corpus:
    """A complete corpus: its utterances, and their samples between -1 and 1."""

    def __init__(self, folder: Path) -> None:
        self.utterances = read_index(folder)
        self._audio = np.memmap(folder / "audio.i16", dtype=np.int16, mode="r")

    def samples(self, item: Utterance) -> Samples:
        return self._audio[item.start : item.start + item.length].astype(np.float32) / np.float32(
            32767
        )

    def __iter__(self) -> Iterator[tuple[Utterance, Samples]]:
        for item in self.utterances:
            yield item, self.samples(item)
