"""Stage 6b: forced alignment of words and phones, for every recording that trains the ears.

    python -m tiny.alignment

Pocketsphinx aligns the known words with the audio. With a word and a phone as the label of each
row, the ears learn in minutes. With the sentence alone they would need hours.
"""

import json
import multiprocessing
import re
import time
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from pocketsphinx import Decoder

from tiny import vocabulary
from tiny.hearing import HEARING
from tiny.paths import Corpus, Samples
from tiny.voices import SPEECH_RATE, at_rate

UNKNOWN, SILENT = -100, -1
"""Labels in place of a phone or a token: unknown, and silence."""
PHONES = (
    "SIL", "AA", "AE", "AH", "AO", "AW", "AY", "B", "CH", "D", "DH", "EH", "ER", "EY", "F", "G",
    "HH", "IH", "IY", "JH", "K", "L", "M", "N", "NG", "OW", "OY", "P", "R", "S", "SH", "T", "TH",
    "UH", "UW", "V", "W", "Y", "Z", "ZH",
)  # fmt: skip
PATH = HEARING / "alignment.jsonl"


def plain(text: str) -> str:
    """Return the text in lower case and without punctuation, as a recognizer writes it."""
    return re.sub(r"[^a-z' ]", "", text.lower()).strip()


Spoken = tuple[str, list[tuple[int, int]]]
"""A word (empty for silence) and its phones, each with its duration in frames."""


def align(decoder: Decoder, text: str, samples: Samples) -> list[Spoken]:
    """Return the aligned words in order; empty where the words do not fit the audio."""
    heard = at_rate(samples, SPEECH_RATE, 16_000)
    pcm = (heard * 32767).clip(-32768, 32767).astype(np.int16).tobytes()
    if any(decoder.lookup_word(word) is None for word in text.split()):
        return []
    try:
        decoder.set_align_text(text)
        for between in (decoder.set_alignment, lambda: None):  # first the words, then their phones
            decoder.start_utt()
            decoder.process_raw(pcm, full_utt=True)
            decoder.end_utt()
            between()
    except RuntimeError:
        return []
    silence = {"+SPN+": "SIL", "+NSN+": "SIL"}
    return [
        (
            re.sub(r"^[<\[+].*|\(\d+\)$", "", word.name),  # fillers, numbers of pronunciations
            [(PHONES.index(silence.get(p.name, p.name)), p.duration) for p in word],
        )
        for word in decoder.get_alignment()
    ]


@cache
def _decoder() -> Decoder:
    return Decoder(lm=None, loglevel="FATAL", beam=1e-80, wbeam=1e-60, pbeam=1e-80)


@cache
def _corpus() -> Corpus:
    return Corpus(HEARING)


def _line(place: int) -> str:
    corpus = _corpus()
    item = corpus.utterances[place]
    return json.dumps(align(_decoder(), plain(item.text), corpus.samples(item)))


def main() -> None:
    """Align the recordings that are not aligned yet."""
    begin = len(PATH.read_text().splitlines()) if PATH.exists() else 0
    started, end = time.perf_counter(), len(Corpus(HEARING).utterances)
    with multiprocessing.Pool() as pool, PATH.open("a", buffering=1) as file:
        for index, line in enumerate(pool.imap(_line, range(begin, end), chunksize=8), begin):
            file.write(line + "\n")
            if index % 400 == 0:
                print(f"{index} {time.perf_counter() - started:.0f} s", flush=True)  # noqa: T201


@dataclass(frozen=True)
class Track:
    """The phone of each frame of a recording, and the token of the text that it belongs to."""

    phones: torch.Tensor
    tokens: torch.Tensor

    @classmethod
    def of(cls, spoken: list[Spoken]) -> "Track":
        """Build the track; the tokens of a word share its frames equally."""
        phones, tokens = [], []
        for word, parts in spoken:
            frames = sum(count for _, count in parts)
            phones += [phone for phone, count in parts for _ in range(count)]
            ids = vocabulary.load().encode(f" {word}").ids if word else [SILENT]
            tokens += [ids[i * len(ids) // frames] for i in range(frames)]
        return cls(torch.tensor(phones or [UNKNOWN]), torch.tensor(tokens or [UNKNOWN]))


def aligned() -> dict[int, list[Spoken]]:
    """Return the aligned words of each recording, keyed by its start in the corpus."""
    lines = PATH.read_text().splitlines()
    items = Corpus(HEARING).utterances
    return {item.start: json.loads(line) for item, line in zip(items, lines, strict=True)}


def tracks() -> dict[int, Track]:
    """Return the track of each recording, keyed by its start in the corpus.

    The recordings of espeak are left out: half of them are aligned wrongly (loud silence, silent
    vowels).
    """
    voices = {item.start: item.voice for item in Corpus(HEARING).utterances}
    return {
        start: Track.of([] if voices[start].startswith("espeak") else words)
        for start, words in aligned().items()
    }


if __name__ == "__main__":
    main()
