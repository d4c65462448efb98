"""The presenters of the Android app, on a desktop JVM."""

import json
import os
import re
from pathlib import Path

import pytest
from tests.android import runtime
from tests.android.samples import needs, write_question

from omni_runtime.bench import plan
from omni_runtime.bench.rows import Quantity, Row
from omni_runtime.cli.bench_report import ROW_HEADER, of_row, render
from omni_runtime.cli.common import format_size
from toolchain import junit
from toolchain.process import run


@needs("javac", "npm", "cc", jvm_engine=True)
@pytest.mark.timeout(1200)
def test_presenters(tmp_path: Path, trained: Path) -> None:
    """JUnit's tests pass, those with the real engine too."""
    output = junit.run_presenter_tests(trained, write_question(tmp_path))
    passed = re.search(r"OK \((\d+) tests\)", output)
    written = sum(path.read_text().count("    @Test\n") for path in junit.TESTS.rglob("*.kt"))
    assert passed and int(passed[1]) == written


@needs("java", "npm")
def test_benchmark_reports_look_like_those_of_omni_bench() -> None:
    quantities = [
        Quantity("first text, typed", "s", False, "at most 48 tokens"),
        Quantity("peak memory", "MiB", False),
        Quantity('real-time factor, "x"', "x", True, "größer ist besser"),
    ]
    values = [[0.0123, 0.0131, 0.0119], [2345.5], [0.0, 0.0]]
    rows = [of_row(Row(*pair)) for pair in zip(quantities, values, strict=True)]
    setting = {"bundle": "a", "threads": 2, "warm-up": True}
    left_out = {"pp": "why", "tg": "so"}
    jars = junit.class_path()
    for form in ("md", "json"):
        found = run(
            ["java", "-cp", os.pathsep.join(map(str, jars)), junit.BENCH_REPORT, form],
        )
        wanted = render(form, setting, ROW_HEADER, rows, left_out)
        if form == "json":
            found, wanted = map(json.dumps, map(_rounded, (found, wanted)))
        assert found == wanted


@needs("javac", "npm", "cc", jvm_engine=True)
@pytest.mark.timeout(600)
def test_the_benchmark_has_the_rows_of_omni_bench(trained: Path) -> None:
    """The same tests with the same units and notes, in the same order; all values are measured."""
    report = json.loads(junit.run_benchmark(trained))
    model = runtime.open_model(trained)
    rows: list[Row] = []
    names = [name for name in plan.BENCHMARKS if name not in ("load", "memory")]
    plan.run(model, names, 1, rows, {}, lambda _: None, warm_up=False)
    wanted = [[row.quantity.name, row.quantity.unit, row.quantity.note] for row in rows]
    memory = ["peak memory", "MiB", "this process since it began"]
    found = [[row["test"], row["unit"], row["note"]] for row in report["rows"]]
    assert found == [*wanted, memory]
    assert all(row["mean"] > 0 for row in report["rows"])
    assert report["left_out"] == {"load": "needs another process"}
    manifest = model.bundle.manifest
    size = format_size(sum(entry.bytes for entry in manifest.files.values()))
    assert report["bundle"] == f"{manifest.name}, {manifest.recipe} for {manifest.target}, {size}"


def _rounded(report: str) -> object:
    """Both languages sum in another order, so that the last digit differs."""
    return json.loads(report, parse_float=lambda text: round(float(text), 12))
