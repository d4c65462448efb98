"""Works that are timed again and again, and the rows of numbers that come out.

Knows nothing of models. A case yields one value for each of its quantities every time it runs. A
comparison alternates two cases, so that whatever slows the machine slows both, and takes the ratio
within each pair.
"""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from time import perf_counter

ProgressCallback = Callable[[str], None]
"""Hears what is being measured."""


@dataclass(frozen=True)
class Quantity:
    """What a row measures. `more` says that larger is better: a rate, not a duration."""

    name: str
    unit: str
    more: bool
    note: str = ""


@dataclass(frozen=True)
class BenchCase:
    """`run` does it once and gives a value for each quantity; None where there is nothing."""

    quantities: tuple[Quantity, ...]
    run: Callable[[], Sequence[float | None]]


@dataclass(frozen=True)
class Row:
    """All values of one quantity, in the order in which they were measured."""

    quantity: Quantity
    samples: list[float] = field(default_factory=list[float])

    @property
    def mean(self) -> float:
        return statistics.fmean(self.samples)

    @property
    def deviation(self) -> float:
        """Standard deviation of the samples; 0 for a single one."""
        return spread(self.samples)


@dataclass(frozen=True)
class Comparison:
    """The same work done by us and by a baseline; each runs once and gives the quantity's value."""

    quantity: Quantity
    ours: Callable[[], float]
    theirs: Callable[[], float]


@dataclass(frozen=True)
class Pairs:
    """Paired measurements: `ours[i]` and `theirs[i]` were taken back to back."""

    quantity: Quantity
    ours: list[float] = field(default_factory=list[float])
    theirs: list[float] = field(default_factory=list[float])

    @property
    def ratios(self) -> list[float]:
        """How many times faster we are, pair by pair."""
        pairs = zip(self.ours, self.theirs, strict=False)  # an interrupted pair is half
        return [a / b if self.quantity.more else b / a for a, b in pairs]


def spread(samples: Sequence[float]) -> float:
    """Standard deviation; 0 for a single sample."""
    return statistics.stdev(samples) if len(samples) > 1 else 0.0


def seconds(act: Callable[[], object]) -> float:
    """How long it takes."""
    started = perf_counter()
    act()
    return perf_counter() - started


def rate(
    name: str, unit: str, amount: float, act: Callable[[], object], note: str = ""
) -> BenchCase:
    """A work measured as `amount` of something a second."""
    return BenchCase((Quantity(name, unit, True, note),), lambda: [amount / seconds(act)])


def duration(
    name: str, act: Callable[[], object], note: str = "", *, unit: str = "s", per: float = 1.0
) -> BenchCase:
    """A work measured as the seconds it takes for each of `per`."""
    return BenchCase((Quantity(name, unit, False, note),), lambda: [seconds(act) / per])


def measure(
    cases: Iterable[BenchCase],
    repetitions: int,
    rows: list[Row],
    progress: ProgressCallback,
    *,
    warm_up: bool = True,
) -> list[str]:
    """Run each work `repetitions` times and append its rows to `rows` as they come.

    With `warm_up` the first run of each work is not counted. `rows` is the caller's, so that an
    interruption leaves all that was measured until then. Returns the names of the quantities that
    never had a value: they have no row.
    """
    empty: list[str] = []
    for work in cases:
        progress(", ".join(quantity.name for quantity in work.quantities))
        if warm_up:
            work.run()
        made: dict[str, Row] = {}
        for _ in range(repetitions):
            for quantity, value in zip(work.quantities, work.run(), strict=True):
                if value is None:
                    continue
                if quantity.name not in made:
                    made[quantity.name] = Row(quantity)
                    rows.append(made[quantity.name])
                made[quantity.name].samples.append(value)
        empty += [quantity.name for quantity in work.quantities if quantity.name not in made]
    return empty


def compare(
    comparisons: Iterable[Comparison],
    repetitions: int,
    pairs: list[Pairs],
    progress: ProgressCallback,
    *,
    warm_up: bool = True,
) -> None:
    """Run both sides of each comparison in turns, who begins changing each time.

    What was measured is appended to `pairs`, as `measure` does with rows.
    """
    for comparison in comparisons:
        progress(comparison.quantity.name)
        if warm_up:
            comparison.ours()
            comparison.theirs()
        pair = Pairs(comparison.quantity)
        for repetition in range(repetitions):
            sides = [(comparison.ours, pair.ours), (comparison.theirs, pair.theirs)]
            for side, values in sides if repetition % 2 == 0 else reversed(sides):
                values.append(side())
            if repetition == 0:
                pairs.append(pair)
