"""What the long runs of tests/trust share: arguments, a seed for each run, counts and faults.

A run is resumed by `--state FILE`, which holds the next seed and the counts so far.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

GOOD = ("answered", "refused", "right")
"""Results that are no fault."""

SLOW = 20
"""Seconds after which a child counts as hanging."""

COMPILES = 150
"""The same where the kernels may have to be compiled beside other work."""

ANSWER = """
import sys
from omni_runtime.conversation import Conversation
from omni_runtime.engine import prepack_cache
from omni_runtime.engine.session import SessionOptions
from omni_runtime.errors import OmniError
from omni_runtime.model import Model
from omni_runtime.options import ReplyOptions, SpeechOptions
prepack_cache.LEAST, native = 0, sys.argv[2] == "native"
try:
    model = Model(sys.argv[1], SessionOptions(threads=1, native=native, prepack_cache=not native))
    speech = SpeechOptions(max_codes=40) if model.config.speech else None
    *_, done = Conversation(model).send("Hello!", ReplyOptions(speech, max_tokens=8))
    print("answered:", ascii(done.text))
except OmniError as error:
    print("refused:", error.message[:150])
"""


def ask(
    bundle: Path, kernels: str = "native", caches: Path | None = None, seconds: float = SLOW
) -> tuple[str, str]:
    """Let a child answer. Return ("answered", text), ("refused", error) or (fault, its last line).

    Without "native" `kernels` it uses copies of packed weights, below `caches`.
    """
    environment = {**os.environ, **({"XDG_CACHE_HOME": str(caches)} if caches else {})}
    for last in (False, True):  # a busy machine may starve one child
        try:
            done = subprocess.run(
                [sys.executable, "-c", ANSWER, str(bundle), kernels],
                env=environment, capture_output=True, text=True, timeout=seconds, check=False,
                errors="replace",
            )  # fmt: skip
            break
        except subprocess.TimeoutExpired:
            if last:
                return "slow", ""
    if done.returncode < 0:
        return f"signal {-done.returncode}", ""
    if done.returncode or "Traceback" in done.stderr:
        return "traceback", (done.stderr.strip() or "?").splitlines()[-1][:200]
    result, _, text = done.stdout.partition(": ")
    return result, text.strip()


def bundle_argument(parser: argparse.ArgumentParser) -> None:
    """Add the bundle that is run."""
    parser.add_argument("bundle", type=Path, nargs="?", default=Path("bundles/tiny-int4"))


class Campaign:
    """Iterate it for seeds until the runs or the minutes are over; `note` each result."""

    def __init__(
        self,
        name: str,
        description: str | None,
        add_arguments: Callable[[argparse.ArgumentParser], None],
        *,
        runs: int,
    ) -> None:
        parser = argparse.ArgumentParser(
            prog=f"python -m tests.trust.{name}",
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        add_arguments(parser)
        parser.add_argument("--runs", type=int, help=f"how many (default {runs}, or --minutes)")
        parser.add_argument("--minutes", type=float, help="how long")
        parser.add_argument("--seed", type=int, default=0, help="of the first run")
        parser.add_argument("--state", type=Path, help="resume from this file, and keep it")
        self.options = parser.parse_args()
        self.found: Counter[str] = Counter()
        self.seed = self.options.seed
        self._runs = self.options.runs or (sys.maxsize if self.options.minutes else runs)
        self._state = self.options.state
        if self._state and self._state.exists():
            kept = json.loads(self._state.read_text())
            self.seed, self.found = kept["seed"], Counter(kept["found"])

    def __iter__(self) -> Iterator[int]:
        end = time.monotonic() + 60 * (self.options.minutes or 1e6)
        for _ in range(self._runs):
            if time.monotonic() > end:
                return
            yield self.seed
            self.seed += 1
            if self._state:
                kept = {"seed": self.seed, "found": dict(self.found)}
                self._state.write_text(json.dumps(kept))

    def note(self, result: str, recipe: str) -> None:
        """Count a result, and print a fault with its recipe."""
        self.found[result] += 1
        if result not in GOOD:
            line = " ".join(recipe.split())[:400]
            print(f"--seed {self.seed} --runs 1: {result}: {line}", flush=True)  # noqa: T201

    def result(self) -> int:
        """Print the counts. Return the exit code."""
        print(dict(self.found))  # noqa: T201
        return 0 if self.found.keys() <= set(GOOD) else 1
