"""Stage 1: the replies, spoken by the two voices of the checkpoint.

    python -m tiny.speech

Joe reads every reply. Ada is Joe with another vocal tract (voices.revoice), so both share the
codes of a sentence. Ada reads one hour: the Talker needs more sentences than the DiT.
"""

import time

import numpy as np

from tiny import grammar, voices
from tiny.paths import WORK, CorpusWriter, Samples

SPEECH = WORK / "speech"
SPEAKERS = ("Joe", "Ada")
ADA = {"pitch": 1.5, "formants": 1.17}
BOTH_READ = 1_500
EDGE = 1_440  # 60 ms of silence at both ends: the vocoder learns silence, the Talker to stop


def spoken(text: str) -> Samples:
    """Return Joe's reading, with the same short silence at both ends."""
    samples = voices.level(voices.piper(text))
    loud = np.flatnonzero(np.abs(samples) > 0.005)
    samples = samples[loud[0] : loud[-1] + 1]
    fade = np.minimum(1, np.arange(len(samples)) / 120).astype(np.float32)
    quiet = np.zeros(EDGE, np.float32)
    return np.concatenate([quiet, samples * fade * fade[::-1], quiet])


def main() -> None:
    writer = CorpusWriter(SPEECH)
    done = {(item.voice, item.text) for item in writer.done}
    started = time.perf_counter()
    sentences = grammar.replies() + grammar.more_replies()
    for index, text in enumerate(sentences):
        last = "Ada" if index < BOTH_READ else "Joe"
        if (last, text) in done:
            continue
        if index % 100 == 0:
            print(f"{index}/{len(sentences)} {time.perf_counter() - started:.0f} s", flush=True)  # noqa: T201
        joe = spoken(text)
        held_out = grammar.held_out(text)
        if ("Joe", text) not in done:
            writer.add(joe, text=text, voice="Joe", held_out=held_out)
        if last == "Joe":
            continue
        ada = voices.level(voices.revoice(joe, **ADA))
        writer.add(ada, text=text, voice="Ada", held_out=held_out)


if __name__ == "__main__":
    main()
