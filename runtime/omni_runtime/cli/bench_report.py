"""The tables of `omni bench`: rows, and ratios to a baseline, as Markdown, JSON or CSV."""

import csv
import io
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from omni_runtime.bench.rows import Pairs, Row, spread

SIGNIFICANT = 3


@dataclass(frozen=True)
class Line:
    """One line of a table: its `cells` for people, its `record` for programs."""

    cells: tuple[str, ...]
    record: dict[str, object]


ROW_HEADER = ("test", "unit", "mean ± sd", "note")
PAIR_HEADER = ("test", "unit", "ours", "theirs", "times faster", "note")


def of_row(row: Row) -> Line:
    """Mean and standard deviation of one quantity."""
    what = row.quantity
    return Line(
        (what.name, what.unit, number(row.samples), what.note),
        {"test": what.name, "unit": what.unit, **_numbers("", row.samples), "note": what.note},
    )


def of_pairs(pairs: Pairs) -> Line:
    """Both sides of a comparison and how many times faster ours is; None before the first pair."""
    what = pairs.quantity
    record: dict[str, object] = {"test": what.name, "unit": what.unit}
    for side, samples in (
        ("ours_", pairs.ours),
        ("theirs_", pairs.theirs),
        ("ratio_", pairs.ratios),
    ):
        record |= _numbers(side, samples)
    cells = [number(pairs.ours), number(pairs.theirs), number(pairs.ratios)]
    return Line((what.name, what.unit, *cells, what.note), record | {"note": what.note})


def render(
    form: str,
    setting: Mapping[str, object],
    header: Sequence[str],
    lines: Sequence[Line],
    left_out: Mapping[str, str],
) -> str:
    """The whole report. `setting` holds for all lines: bundle, machine, versions, threads."""
    if form == "json":
        records = [line.record for line in lines]
        whole = {**setting, "rows": records, "left_out": left_out}
        return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"
    if form == "csv":
        return _csv(setting, [line.record for line in lines])
    parts = ["\n".join(f"{name}: {value}  " for name, value in setting.items())]
    if lines:
        parts.append(_markdown(header, [line.cells for line in lines]))
    if left_out:
        parts.append("left out: " + "; ".join(f"{k} ({why})" for k, why in left_out.items()))
    return "\n\n".join(parts) + "\n"


def number(samples: Sequence[float]) -> str:
    """Mean ± standard deviation, with as many decimals as three digits of the mean take."""
    mean = statistics.fmean(samples)
    size = math.floor(math.log10(abs(mean))) if mean else 0
    decimals = max(0, SIGNIFICANT - 1 - size)
    return f"{mean:.{decimals}f} ± {spread(samples):.{decimals}f}"


def _numbers(prefix: str, samples: Sequence[float]) -> dict[str, object]:
    return {
        f"{prefix}mean": statistics.fmean(samples),
        f"{prefix}sd": spread(samples),
        f"{prefix}samples": list(samples),
    }


def _csv(setting: Mapping[str, object], records: Iterable[Mapping[str, object]]) -> str:
    """One line a row, each with the whole setting, so that files can be joined."""
    flat = [
        {
            name: " ".join(map(str, value)) if isinstance(value, list) else value
            for name, value in (record | setting).items()  # type: ignore[operator]
        }
        for record in records
    ]
    out = io.StringIO()
    writer = csv.DictWriter(out, list(flat[0]) if flat else [*setting], lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return out.getvalue()


def _markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    numeric = [name not in ("test", "unit", "note") for name in header]
    written: list[str] = []
    for line in lines:
        cells = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ]
        written.append(f"| {' | '.join(cells)} |")
    columns = zip(widths, numeric, strict=True)
    rule = ["-" * (width - 1) + (":" if right else "-") for width, right in columns]
    written.insert(1, f"| {' | '.join(rule)} |")
    return "\n".join(written)
