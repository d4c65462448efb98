"""Repeated measurements and their results.

Nothing here depends on the model. Each run of a case returns one value per quantity. A comparison
runs two sides alternately, so that a slow phase of the machine affects both, and takes the ratio
within each pair.
"""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from time import perf_counter

ProgressCallback = Callable[[str], None]
"""Receives the name of the current measurement."""


@dataclass(frozen=True)
class Quantity:
    """A measured quantity. `more`: larger is better (a rate, not a duration)."""

    name: str
    unit: str
    more: bool
    note: str = ""


@dataclass(frozen=True)
class BenchCase:
    """`run` runs the case once and returns a value per quantity, or None if there is none."""

    quantities: tuple[Quantity, ...]
    run: Callable[[], Sequence[float | None]]


@dataclass(frozen=True)
class Row:
    """All values of one quantity, in order of measurement."""

    quantity: Quantity
    samples: list[float] = field(default_factory=list[float])

    @property
    def mean(self) -> float:
        return statistics.fmean(self.samples)

    @property
    def deviation(self) -> float:
        """Standard deviation of the samples; 0 for a single sample."""
        return spread(self.samples)


@dataclass(frozen=True)
class Comparison:
    """The same work in this runtime and in a baseline. Each call returns the quantity's value."""

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
        """How many times faster this runtime is, for each pair."""
        pairs = zip(self.ours, self.theirs, strict=False)  # the last pair may be incomplete
        return [a / b if self.quantity.more else b / a for a, b in pairs]


def spread(samples: Sequence[float]) -> float:
    """Return the standard deviation; 0 for a single sample."""
    return statistics.stdev(samples) if len(samples) > 1 else 0.0


def seconds(act: Callable[[], object]) -> float:
    """Return the run time of `act` in seconds."""
    started = perf_counter()
    act()
    return perf_counter() - started


def rate(
    name: str, unit: str, amount: float, act: Callable[[], object], note: str = ""
) -> BenchCase:
    """Return a case that measures `amount` per second."""
    return BenchCase((Quantity(name, unit, True, note),), lambda: [amount / seconds(act)])


def duration(
    name: str, act: Callable[[], object], note: str = "", *, unit: str = "s", per: float = 1.0
) -> BenchCase:
    """Return a case that measures the run time divided by `per`."""
    return BenchCase((Quantity(name, unit, False, note),), lambda: [seconds(act) / per])


def measure(
    cases: Iterable[BenchCase],
    repetitions: int,
    rows: list[Row],
    progress: ProgressCallback,
    *,
    warm_up: bool = True,
) -> list[str]:
    """Run each case `repetitions` times and append its rows to `rows`.

    With `warm_up` each case is run once more before. `rows` belongs to the caller and is filled
    as the cases run, so an interruption keeps the results so far. Return the names of the
    quantities without any value; they have no row.
    """
    empty: list[str] = []
    for case in cases:
        progress(", ".join(quantity.name for quantity in case.quantities))
        if warm_up:
            case.run()
        case_rows: dict[str, Row] = {}
        for _ in range(repetitions):
            for quantity, value in zip(case.quantities, case.run(), strict=True):
                if value is None:
                    continue
                if quantity.name not in case_rows:
                    case_rows[quantity.name] = Row(quantity)
                    rows.append(case_rows[quantity.name])
                case_rows[quantity.name].samples.append(value)
        empty += [quantity.name for quantity in case.quantities if quantity.name not in case_rows]
    return empty


def compare(
    comparisons: Iterable[Comparison],
    repetitions: int,
    pairs: list[Pairs],
    progress: ProgressCallback,
    *,
    warm_up: bool = True,
) -> None:
    """Run both sides of each comparison alternately; the side that runs first changes each time.

    Results are appended to `pairs` as in `measure`.
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
