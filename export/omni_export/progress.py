"""How far an export is: counted in weights, since reading and packing them is the work."""

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter


@dataclass(frozen=True)
class Progress:
    """A moment of an export.

    `part` is number `step` of `steps`, which are 0 until they are known. `done` of `total` are
    bytes of weights, counted as float32, over all parts; `seconds_left` is None until there is
    something to judge by. `kept` means that the part is taken over from an export that was
    stopped.
    """

    step: int
    steps: int
    part: str
    done: int
    total: int
    seconds_left: float | None
    kept: bool = False


Report = Callable[[Progress], None]
"""Called when a part begins, again and again while it is written, and when one is taken over."""


class ProgressMeter:
    """Counts steps and weights, and reports."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._step = self._steps = 0
        self._part = ""
        self._done = self._total = self._here = 0
        self._started = perf_counter()

    def expect(self, steps: int, weights: int = 0) -> None:
        """How many steps there are, and how many weights in all of them."""
        self._steps, self._total = steps, 4 * weights

    def prepare(self, what: str) -> None:
        """Something happens before the steps are known."""
        self._report(Progress(0, 0, what, 0, 0, None))

    def begin(self, part: str) -> None:
        """The next step begins."""
        self._step += 1
        self._part = part
        self._report(self._now())

    def advance(self, weights: int) -> None:
        """So many weights more have been written."""
        self._done += 4 * weights
        self._here += 4 * weights
        self._report(self._now())

    def keep(self, part: str, weights: int) -> None:
        """The next step is already done."""
        self._step += 1
        self._part = part
        self._done += 4 * weights
        self._report(self._now(kept=True))

    def start_clock(self) -> None:
        """What was done before tells nothing about the speed of what follows."""
        self._started = perf_counter()

    def _now(self, *, kept: bool = False) -> Progress:
        left = None
        if self._here:
            speed = self._here / (perf_counter() - self._started)
            left = (self._total - self._done) / speed
        return Progress(self._step, self._steps, self._part, self._done, self._total, left, kept)
