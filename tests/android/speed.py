"""Speed and memory of the Kotlin engine against the Python runtime, on the same graphs.

python -m tests.android.speed [--rounds 15] [--threads 1] [--kernels] BUNDLE

The two sides take turns, so a disturbance meets both; a ratio above 1 means that Kotlin is slower.
`--kernels` lets both sides run the compiled kernels of this machine.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "android_demo"), str(ROOT / "runtime")]

from tests.android import runtime  # noqa: E402
from tests.android.engine import Jvm  # noqa: E402

from omni_runtime.engine import kernels  # noqa: E402
from omni_runtime.engine.decoder import complete  # noqa: E402
from omni_runtime.engine.dit import seeded_noise  # noqa: E402
from omni_runtime.model import Model  # noqa: E402

TOKENS = 64
CACHE = {
    "layers": 36,
    "kv_heads": 2,
    "head_dim": 128,
    "mrope_section": [16, 24, 24],
    "tokens": 4096,
}
"""The Thinker of the published 3B checkpoint."""
COUNTS = {"decode": 40, "talker": 40, "code2wav": 100}


def python_parts(model: Model) -> dict[str, Callable[[int], None]]:
    """Return the parts of Bench.kt for the Python runtime."""
    thinker, talker = model.thinker.new_cache(), model.talker.new_cache()
    row = model.talker.text(model.speech.talker.text_pad)
    for position in range(TOKENS):
        model.thinker.step(thinker, 5, position)
        complete(model.talker.append(talker, row[None], np.full((3, 1), position)))
    noise = seeded_noise(0, model.speech.dit)

    def decode(count: int) -> None:
        thinker.truncate(TOKENS)
        for step in range(count):
            model.thinker.step(thinker, 5, TOKENS + step)

    def codes(count: int) -> None:
        talker.truncate(TOKENS)
        for step in range(count):
            model.talker.logits(talker, row[None], TOKENS + step)

    def code2wav(count: int) -> None:
        speech = model.speech
        sound = model.code2wav(speech.default_voice, speech.default_preset, noise)
        for code in range(count):
            sound.push(1 + code % 7)
        sound.finish()

    return {"decode": decode, "talker": codes, "code2wav": code2wav}


def main() -> None:
    """Measure, and print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--kernels", action="store_true")
    options = parser.parse_args()
    library = kernels.build().library if options.kernels else None
    model = runtime.open_model(options.bundle, threads=options.threads, native=options.kernels)
    parts = python_parts(model)
    with Jvm() as jvm:
        path = str(library) if library else None
        engine = jvm.load(options.bundle, threads=options.threads, kernels=path)
        for name, count in COUNTS.items():
            ours: list[float] = []
            theirs: list[float] = []
            for _ in range(options.rounds + 2):  # the first two warm up
                theirs.append(engine.ask("bench", what=name, count=count))
                start = perf_counter()
                parts[name](count)
                ours.append(perf_counter() - start)
            ratio = median(one / other for one, other in zip(theirs[2:], ours[2:], strict=True))
            python, kotlin = (median(times[2:]) / count * 1e3 for times in (ours, theirs))
            sys.stdout.write(
                f"{name}: Python {python:.3f} ms, Kotlin {kotlin:.3f} ms, ratio {ratio:.3f}\n"
            )
        peak, now = jvm.ask("memory")
        sys.stdout.write(f"Kotlin: peak {peak / 2**20:.0f} MB, now {now / 2**20:.0f} MB\n")
        for kind in ("float32", "int8"):
            cost = jvm.ask("cache", type=kind, **CACHE)
            sys.stdout.write(
                f"KV cache of 4096 tokens at the 3B shape, {kind}: {cost['bytes'] / 2**20:.0f} MB, "
                f"{cost['grow']:.0f} ms to double, {cost['fork']:.0f} ms to copy\n"
            )


if __name__ == "__main__":
    main()
