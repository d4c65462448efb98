"""Stage 6b: which word and which phone is spoken when, in every recording of the ears' corpus.

    python -m tiny.alignment

Pocketsphinx aligns the known words with the sound. Ears that are told word and phone of every row
learn in minutes what they would need hours to find out from the sentence alone.
"""

import json
import re
import time
from dataclasses import dataclass

import numpy as np
import torch
from pocketsphinx import Decoder

from tiny import vocabulary
from tiny.hearing import HEARING
from tiny.paths import Corpus, Samples
from tiny.voices import SPEECH_RATE, at_rate

UNKNOWN, SILENT = -100, -1
"""Instead of a phone or a token: nobody knows, and silence."""
PHONES = (
    "SIL", "AA", "AE", "AH", "AO", "AW", "AY", "B", "CH", "D", "DH", "EH", "ER", "EY", "F", "G",
    "HH", "IH", "IY", "JH", "K", "L", "M", "N", "NG", "OW", "OY", "P", "R", "S", "SH", "T", "TH",
    "UH", "UW", "V", "W", "Y", "Z", "ZH",
)  # fmt: skip
PATH = HEARING / "alignment.jsonl"


def plain(text: str) -> str:
    """What is heard has no capitals and no punctuation."""
    return re.sub(r"[^a-z' ]", "", text.lower()).strip()


Spoken = tuple[str, list[tuple[int, int]]]
"""A word, empty for silence, and its phones, each with its frames."""


def align(decoder: Decoder, text: str, samples: Samples) -> list[Spoken]:
    """What is spoken from the beginning on; empty where the words don't fit the sound."""
    heard = at_rate(samples, SPEECH_RATE, 16_000)
    pcm = (heard * 32767).clip(-32768, 32767).astype(np.int16).tobytes()
    if any(decoder.lookup_word(word) is None for word in text.split()):
        return []
    try:
        decoder.set_align_text(text)
        for between in (decoder.set_alignment, lambda: None):  # first words, then their phones
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


def main() -> None:
    decoder = Decoder(lm=None, loglevel="FATAL", beam=1e-80, wbeam=1e-60, pbeam=1e-80)
    started, lines = time.perf_counter(), []
    for index, (item, samples) in enumerate(Corpus(HEARING)):
        lines.append(json.dumps(align(decoder, plain(item.text), samples)))
        if index % 400 == 0:
            print(f"{index} {time.perf_counter() - started:.0f} s", flush=True)  # noqa: T201
    PATH.write_text("\n".join(lines) + "\n")


@dataclass(frozen=True)
class Track:
    """Of each frame of a recording the phone, and the token of the text that it belongs to."""

    phones: torch.Tensor
    tokens: torch.Tensor

    @classmethod
    def of(cls, spoken: list[Spoken]) -> "Track":
        """A word of several tokens gives each an equal share of its time."""
        phones, tokens = [], []
        for word, parts in spoken:
            frames = sum(count for _, count in parts)
            phones += [phone for phone, count in parts for _ in range(count)]
            ids = vocabulary.load().encode(f" {word}").ids if word else [SILENT]
            tokens += [ids[i * len(ids) // frames] for i in range(frames)]
        return cls(torch.tensor(phones or [UNKNOWN]), torch.tensor(tokens or [UNKNOWN]))


def tracks() -> dict[int, Track]:
    """The track of each recording, by its start in the corpus.

    Half of espeak's are aligned wrongly (loud silence, silent vowels), so none of them counts.
    """
    lines = PATH.read_text().splitlines()
    return {
        item.start: Track.of([] if item.voice.startswith("espeak") else json.loads(line))
        for item, line in zip(Corpus(HEARING).utterances, lines, strict=True)
    }


if __name__ == "__main__":
    main()
