"""Parity of the Kotlin engine with the Python runtime, at length.

python -m tests.android.parity --conversations 50 --strings 10000 --pictures 200 --sounds 100 BUNDLE

Runs through each bundle that is named and prints a line of figures for each comparison. Exits with
1 when something differs more than it may.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "android_demo"), str(ROOT / "runtime")]

from tests.android import golden, runtime, talks  # noqa: E402
from tests.android.engine import Engine, Jvm  # noqa: E402

from omni_runtime import reply  # noqa: E402
from omni_runtime.arrays import FloatArray  # noqa: E402
from omni_runtime.bundle.config import DitConfig  # noqa: E402
from omni_runtime.engine.dit import Noise, seeded_noise  # noqa: E402
from omni_runtime.inputs.media import load_audio  # noqa: E402
from omni_runtime.inputs.mel_features import log_mel  # noqa: E402
from omni_runtime.inputs.pixels import patches, resize, smart_resize  # noqa: E402
from omni_runtime.inputs.tokenizer import StreamDecoder  # noqa: E402
from omni_runtime.model import Model  # noqa: E402

ALPHABETS = [
    range(0x20, 0x7F),
    range(0x250),
    range(0x370, 0x600),
    range(0x900, 0xE80),
    range(0x1E00, 0x2100),
    range(0x3000, 0x30FF),
    range(0x4E00, 0x9FFF),
    range(0xAC00, 0xD7A4),
    range(0xD800, 0xE000),
    range(0x1F300, 0x1FB00),
    range(0x20000, 0x2A6DF),
    range(0x110000),
]
"""Ranges of code points, lone surrogates among them."""
PIECES = [
    "'s",
    "'RE",
    "'\u017f",
    "<|im_end|>",
    "<|AUDIO|>",
    "  ",
    "\r\n",
    "\n\n ",
    "\t",
    "\u00a0",
    "7",
]
"""Texts that tokenizers often cut in different ways."""


@dataclass
class Comparison:
    """Values of both sides: how many there are, and where they differ."""

    figures: Counter[str] = field(default_factory=Counter[str])
    worst: float = 0.0
    """Largest difference, relative to the largest value of its array."""
    failed: list[str] = field(default_factory=list[str])

    def add(self, name: str, wanted: Any, found: Any) -> None:
        """Compare nested values; arrays count as equal only if all bits are."""
        if isinstance(wanted, np.ndarray):
            self._arrays(name, wanted, np.asarray(found))
        elif isinstance(wanted, dict) and isinstance(found, dict):
            for key in wanted:
                self.add(f"{name}.{key}", wanted[key], found.get(key))
        elif isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
            for place, (one, other) in enumerate(zip(wanted, found, strict=True)):
                self.add(f"{name}[{place}]", one, other)
        elif wanted != found:
            self.failed.append(f"{name}: {str(wanted)[:60]!r} and {str(found)[:60]!r}")

    def _arrays(self, name: str, wanted: np.ndarray, found: np.ndarray) -> None:
        self.figures["arrays"] += 1
        if wanted.shape != found.shape:
            self.failed.append(f"{name}: {wanted.shape} and {found.shape}")
        elif not np.array_equal(wanted, found):
            self.figures["unequal arrays"] += 1
            difference = np.abs(wanted.astype(np.float64) - found).max()
            self.worst = max(self.worst, float(difference / np.abs(wanted).max()))


def strings(model: Model, engine: Engine, count: int) -> Comparison:
    """Tokenize random Unicode, and decode the ids one by one."""
    found, texts = Comparison(), list(random_strings(count))
    wanted = [model.tokenizer.encode(text) for text in texts]
    ids = engine.ask("tokenize", texts=texts)
    pieces = engine.ask("decode", ids=wanted)
    for text, one, other, decoded in zip(texts, wanted, ids, pieces, strict=True):
        decoder = StreamDecoder(model.tokenizer)
        streamed = [*map(decoder.push, one), decoder.finish()]
        found.add(ascii(text), one, other)
        found.add(f"decoded {text!a}", streamed, decoded)
    found.figures["strings"] = count
    return found


def random_strings(count: int) -> Iterator[str]:
    """Yield texts of several scripts, marks, blanks and special tokens."""
    draw = np.random.default_rng(0)
    for _ in range(count):
        alphabet = ALPHABETS[draw.integers(0, len(ALPHABETS))]
        text = ""
        for _ in range(draw.integers(1, 12)):
            points = draw.integers(alphabet.start, alphabet.stop, draw.integers(1, 8))
            text += "".join(map(chr, points)) if draw.random() < 0.6 else str(draw.choice(PIECES))
        yield text


def pictures(model: Model, engine: Engine, count: int) -> Comparison:
    """Cut pictures of odd sizes into patches.

    Pillow 13 resizes along columns first where that is cheaper. The engine always begins with the
    rows, as older versions do, so the pixels of the Python side are made in two steps.
    """
    found, draw, config = Comparison(), np.random.default_rng(1), model.config.vision
    assert config is not None
    for _ in range(count):
        height, width = (int(side) for side in np.exp(draw.uniform(1.2, 6.5, 2)))
        if max(height, width) > 200 * min(height, width):
            continue
        image = draw.integers(0, 256, (height, width, 3)).astype(np.uint8)
        low, high = config.image_min_pixels, config.image_max_pixels
        size = smart_resize(height, width, config.patch_size * config.merge_size, low, high)
        both = resize(resize(image, (height, size[1])), size)
        cut = patches(both[None], config)
        answer = engine.ask("picture", picture=image)
        name = f"{height} x {width}"
        found.add(name, [*cut.grid], answer["grid"])
        found.add(name, both, answer["resized"])
        found.add(name, cut.values, answer["patches"])
        found.figures["pictures"] += 1
        found.figures["as Pillow in one step"] += np.array_equal(resize(image, size), both)
    return found


def sounds(model: Model, engine: Engine, count: int) -> tuple[Comparison, list[float]]:
    """Compute log-mel at the model's rate; resample other sounds, and compare with soxr in dB."""
    found, draw, config = Comparison(), np.random.default_rng(2), model.config.audio
    assert config is not None
    noise: list[float] = []
    for _ in range(count):
        seconds, rate = draw.uniform(0.01, 7), int(draw.integers(4000, 96001))
        mono = _signal(draw, int(seconds * config.sample_rate), config.sample_rate)
        wanted = np.asarray(log_mel(mono, config))
        answer = engine.ask("mel", sound={"samples": mono, "rate": config.sample_rate})
        found.add(f"{len(mono)} samples", wanted, answer["mel"])
        other = _signal(draw, max(int(seconds * rate), 1), rate)
        ours = engine.ask("resample", sound={"samples": other, "rate": rate}, to=config.sample_rate)
        theirs = load_audio((other, rate), config.sample_rate)
        found.add(f"{rate} Hz", len(theirs), len(ours))
        noise.append(float(10 * np.log10((theirs**2).sum() / ((theirs - ours) ** 2).sum())))
        found.figures["sounds"] += 1
    return found, noise


def _signal(draw: np.random.Generator, samples: int, rate: int) -> np.ndarray:
    """Tones that swell and fade, in the band of both rates, below the resampler's transition."""
    time = np.arange(max(samples, 1)) / rate
    tones = draw.uniform(50, 0.4 * min(rate, 16000), 5)
    swell = np.sin(np.pi * np.arange(len(time)) / len(time)) ** 2
    together = (0.15 * np.sin(2 * np.pi * tones[:, None] * time)).sum(axis=0)
    return (swell * together).astype(np.float32)


def conversations(model: Model, engine: Engine, count: int) -> Comparison:
    """Carry random conversations out on both sides: tokens, texts, codes, samples, what is kept.

    Both sides start from the engine's noise. Python's differs in a few values by an ulp, depending
    on the C library (`log1pf`); where activations are quantized, that can change a level, and with
    it all samples of a chunk. So the noise is compared by itself.
    """
    found = Comparison()
    with patch.object(reply, "seeded_noise", _engine_noise(engine, found)):
        for seed in range(count):
            script = talks.Script(seed, model.config)
            wanted = talks.run(script, runtime.Talk(model), lambda request: request)
            script = talks.Script(seed, model.config)
            answers = talks.run(script, engine.talk(), golden.given)
            found.add(f"conversation {seed}", wanted, answers)
            found.figures["conversations"] += 1
            for one in wanted:
                _count(one, found)
    return found


def _engine_noise(engine: Engine, found: Comparison) -> Callable[[int, DitConfig], Noise]:
    """Return a `seeded_noise` with the engine's values, which are compared with Python's."""

    def seeded(seed: int, config: DitConfig) -> Noise:
        own = seeded_noise(seed, config)

        def noise(first: int, count: int) -> FloatArray:
            asked = {"seeds": [seed] * count, "blocks": [*range(first, first + count)]}
            theirs = engine.ask("noise", **asked)["noise"].reshape(-1, config.mel_dim)
            mine = own(first, count)
            found.figures["values of noise"] += mine.size
            found.figures["other values of noise"] += int((mine != theirs).sum())
            if np.abs(mine.view(np.int32) - theirs.view(np.int32)).max() > 1:
                found.failed.append(f"noise of seed {seed}, block {first}: more than an ulp")
            return theirs

        return noise

    return seeded


def _count(one: Any, found: Comparison) -> None:
    found.figures["turns forgotten"] += one if isinstance(one, int) else 0
    if isinstance(one, dict) and "tokens" in one:
        found.figures["replies"] += 1
        found.figures["stopped"] += one["finish_reason"] == "interrupted"
        found.figures["tokens"] += len(one["tokens"])
        found.figures["codes"] += len(one["codes"])
        found.figures["samples"] += sum(len(chunk["samples"]) for chunk in one["audio"])


def main() -> int:
    """Run the comparisons and print their figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundles", nargs="+", type=Path)
    for name in ("conversations", "strings", "pictures", "sounds"):
        parser.add_argument(f"--{name}", type=int, default=0)
    options = parser.parse_args()
    failed = False
    with Jvm() as jvm:
        for bundle in options.bundles:
            model, engine = runtime.open_model(bundle), jvm.load(bundle)
            sys.stdout.write(f"{bundle}\n")
            failed |= _compare(model, engine, options)
            engine.close()
    return int(failed)


def _compare(model: Model, engine: Engine, options: argparse.Namespace) -> bool:
    failed = False
    if options.strings:
        failed |= _report("strings", strings(model, engine, options.strings))
    if options.pictures:
        failed |= _report("pictures", pictures(model, engine, options.pictures))
    if options.sounds:
        heard, noise = sounds(model, engine, options.sounds)
        failed |= _report("sounds", heard)
        worst, middle = min(noise), float(np.median(noise))
        line = f"  resampled, against soxr: {worst:.0f} dB at worst, median {middle:.0f} dB"
        sys.stdout.write(line + "\n")
    if options.conversations:
        talked = conversations(model, engine, options.conversations)
        failed |= _report("conversations", talked)
    return failed


def _report(name: str, found: Comparison) -> bool:
    figures = ", ".join(f"{count} {what}" for what, count in found.figures.items())
    sys.stdout.write(f"  {name}: {figures or 'none'}; worst difference {found.worst:.2g}\n")
    for line in found.failed[:10]:
        sys.stdout.write(f"    differs: {line}\n")
    return bool(found.failed)


if __name__ == "__main__":
    sys.exit(main())
