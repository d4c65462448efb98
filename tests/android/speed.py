"""Speed of the Kotlin engine against the Python runtime, on the same graphs.

python -m tests.android.speed [--rounds 15] [--threads 1] [--kernels] BUNDLE

Both sides run the same work one right after the other, and the side that begins alternates, so a
disturbance meets both. Printed are the median of the ratios within each pair (above 1: Kotlin is
slower) and the middle half of them. `--kernels` lets both sides run the compiled kernels of this
machine. Run it on a quiet machine: on a busy one only the median of many rounds means something.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles
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
WARM_UP = 2
"""Rounds that do not count."""
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


def _seconds(act: Callable[[], None]) -> float:
    start = perf_counter()
    act()
    return perf_counter() - start


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
            sides = {
                "Kotlin": lambda what=name, n=count: engine.ask("bench", what=what, count=n),
                "Python": lambda what=name, n=count: _seconds(lambda: parts[what](n)),
            }
            times: dict[str, list[float]] = {side: [] for side in sides}
            for number in range(options.rounds + WARM_UP):
                for side in sides if number % 2 else reversed(sides):
                    times[side].append(sides[side]())
            kotlin, python = (times[side][WARM_UP:] for side in sides)
            low, middle, high = quantiles(
                [one / other for one, other in zip(kotlin, python, strict=True)], n=4
            )
            sys.stdout.write(
                f"{name}: Python {median(python) / count * 1e3:.3f} ms, "
                f"Kotlin {median(kotlin) / count * 1e3:.3f} ms, "
                f"ratio {middle:.3f} ({low:.3f} to {high:.3f})\n"
            )
            sys.stdout.flush()
        for kind in ("float32", "int8"):
            cost = jvm.ask("cache", type=kind, **CACHE)
            sys.stdout.write(
                f"KV cache of 4096 tokens at the 3B shape, {kind}: {cost['bytes'] / 2**20:.0f} MB, "
                f"{cost['grow']:.0f} ms to double, {cost['fork']:.0f} ms to copy\n"
            )


if __name__ == "__main__":
    main()
