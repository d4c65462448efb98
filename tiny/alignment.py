"""Stage 6b: which phone is spoken when, in every recording of the ears' corpus.

    python -m tiny.alignment

Pocketsphinx aligns the known words with the sound. Ears that are told the phone of every row learn
in minutes what they would need hours to find out from the words alone.
"""

import json
import re
import time

import numpy as np
import torch
from pocketsphinx import Decoder

from tiny.hearing import HEARING
from tiny.paths import Corpus, Samples
from tiny.voices import SPEECH_RATE, at_rate

UNKNOWN = -100
PHONES = (
    "SIL", "AA", "AE", "AH", "AO", "AW", "AY", "B", "CH", "D", "DH", "EH", "ER", "EY", "F", "G",
    "HH", "IH", "IY", "JH", "K", "L", "M", "N", "NG", "OW", "OY", "P", "R", "S", "SH", "T", "TH",
    "UH", "UW", "V", "W", "Y", "Z", "ZH",
)  # fmt: skip
PATH = HEARING / "phones.jsonl"


def plain(text: str) -> str:
    """What is heard has no capitals and no punctuation."""
    return re.sub(r"[^a-z' ]", "", text.lower()).strip()


def align(decoder: Decoder, text: str, samples: Samples) -> list[tuple[int, int]]:
    """(phone, frames) from the beginning on; empty where the words don't fit the sound."""
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
    found = [phone for word in decoder.get_alignment() for phone in word]
    silence = {"+SPN+": "SIL", "+NSN+": "SIL"}
    return [(PHONES.index(silence.get(p.name, p.name)), p.duration) for p in found]


def main() -> None:
    decoder = Decoder(lm=None, loglevel="FATAL", beam=1e-80, wbeam=1e-60, pbeam=1e-80)
    started, lines = time.perf_counter(), []
    for index, (item, samples) in enumerate(Corpus(HEARING)):
        lines.append(json.dumps(align(decoder, plain(item.text), samples)))
        if index % 400 == 0:
            print(f"{index} {time.perf_counter() - started:.0f} s", flush=True)  # noqa: T201
    PATH.write_text("\n".join(lines) + "\n")


def tracks() -> dict[int, torch.Tensor]:
    """For each recording, by its start in the corpus, the phone of each frame.

    Half of espeak's are aligned wrongly (loud silence, silent vowels), so none of them counts.
    """
    found = {}
    lines = PATH.read_text().splitlines()
    for item, line in zip(Corpus(HEARING).utterances, lines, strict=True):
        known = [] if item.voice.startswith("espeak") else json.loads(line)
        runs = known or [(UNKNOWN, 1)]
        phones, counts = torch.tensor(runs).T
        found[item.start] = phones.repeat_interleave(counts)
    return found


if __name__ == "__main__":
    main()
