"""Progress of an export, counted in weights: reading and quantizing them takes the time."""

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter


@dataclass(frozen=True)
class Progress:
    """The progress at one time.

    `part` is number `step` of `steps`; both are 0 until the number of steps is known. `done` and
    `total` are bytes of weights, counted as float32, over all parts. `seconds_left` assumes the
    speed of this part for the rest, and is None until it can be estimated. `kept`: the part is
    reused from an earlier export.
    """

    step: int
    steps: int
    part: str
    done: int
    total: int
    seconds_left: float | None
    kept: bool = False


Report = Callable[[Progress], None]
"""Called when a part begins, repeatedly while it is written, and when a part is reused."""

MIN_SECONDS = 1.0
"""Time in a part before its speed means anything."""


class ProgressMeter:
    """Counts steps and weights, and reports them."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._step = self._steps = 0
        self._part = ""
        self._done = self._total = self._here = 0
        self._started = perf_counter()

    def expect(self, steps: int, weights: int = 0) -> None:
        """Set the number of steps, and of weights in all of them."""
        self._steps, self._total = steps, 4 * weights

    def prepare(self, what: str) -> None:
        """Report an activity before the number of steps is known."""
        self._report(Progress(0, 0, what, 0, 0, None))

    def begin(self, part: str) -> None:
        """Begin the next step."""
        self._step += 1
        self._part = part
        self._here = 0
        self._started = perf_counter()
        self._report(self._now())

    def advance(self, weights: int) -> None:
        """Count weights that have been written."""
        self._done += 4 * weights
        self._here += 4 * weights
        self._report(self._now())

    def keep(self, part: str, weights: int) -> None:
        """Count a step that is reused."""
        self._step += 1
        self._part = part
        self._done += 4 * weights
        self._report(self._now(kept=True))

    def _now(self, *, kept: bool = False) -> Progress:
        left = None
        if (elapsed := perf_counter() - self._started) > MIN_SECONDS and self._here:
            # A part that is calibrated takes far longer than others of its size.
            left = (self._total - self._done) * elapsed / self._here
        return Progress(self._step, self._steps, self._part, self._done, self._total, left, kept)
