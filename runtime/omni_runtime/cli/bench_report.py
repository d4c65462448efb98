"""Tables of `omni bench`: results, or ratios to a baseline, as Markdown, JSON or CSV."""

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
    """One line of a table: `cells` for Markdown, `record` for JSON and CSV."""

    cells: tuple[str, ...]
    record: dict[str, object]


ROW_HEADER = ("test", "unit", "mean ± sd", "note")
PAIR_HEADER = ("test", "unit", "ours", "theirs", "times faster", "note")


def of_row(row: Row) -> Line:
    """Return the line of one quantity: mean and standard deviation."""
    quantity = row.quantity
    return Line(
        (quantity.name, quantity.unit, number(row.samples), quantity.note),
        {
            "test": quantity.name,
            "unit": quantity.unit,
            **_numbers("", row.samples),
            "note": quantity.note,
        },
    )


def of_pairs(pairs: Pairs) -> Line:
    """Return the line of a comparison: both sides, and how many times faster ours is."""
    quantity = pairs.quantity
    record: dict[str, object] = {"test": quantity.name, "unit": quantity.unit}
    for side, samples in (
        ("ours_", pairs.ours),
        ("theirs_", pairs.theirs),
        ("ratio_", pairs.ratios),
    ):
        record |= _numbers(side, samples)
    cells = [number(pairs.ours), number(pairs.theirs), number(pairs.ratios)]
    return Line(
        (quantity.name, quantity.unit, *cells, quantity.note), record | {"note": quantity.note}
    )


def render(
    form: str,
    setting: Mapping[str, object],
    header: Sequence[str],
    lines: Sequence[Line],
    left_out: Mapping[str, str],
) -> str:
    """Format the report. `setting` applies to all lines: bundle, machine, versions, threads."""
    if form == "json":
        records = [line.record for line in lines]
        report = {**setting, "rows": records, "left_out": left_out}
        return json.dumps(report, indent=2, ensure_ascii=False) + "\n"
    if form == "csv":
        return _csv(setting, [line.record for line in lines])
    parts = ["\n".join(f"{name}: {value}  " for name, value in setting.items())]
    if lines:
        parts.append(_markdown(header, [line.cells for line in lines]))
    if left_out:
        parts.append("left out: " + "; ".join(f"{k} ({why})" for k, why in left_out.items()))
    return "\n\n".join(parts) + "\n"


def number(samples: Sequence[float]) -> str:
    """Format mean ± standard deviation, with three significant digits of the mean."""
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
    """Format one line per row. Each repeats the setting, so that files can be concatenated."""
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
    table_lines: list[str] = []
    for line in lines:
        cells = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ]
        table_lines.append(f"| {' | '.join(cells)} |")
    columns = zip(widths, numeric, strict=True)
    rule = ["-" * (width - 1) + (":" if right else "-") for width, right in columns]
    table_lines.insert(1, f"| {' | '.join(rule)} |")
    return "\n".join(table_lines)
