"""Memory checks of the command line, before anything is loaded."""

from pathlib import Path

import psutil
import pytest
from PIL import Image as Picture

from omni_runtime import machine
from omni_runtime.memory import ENCODERS, MIN_CONTEXT
from omni_runtime.model import Model

GIB, MIB = 2**30, 2**20
WRITTEN = ("--no-speech", "--max-tokens", "2")


def flag(count: int) -> str:
    """So many bytes, and a few more that are lost in decimals."""
    return f"{(count + 8) / MIB:.6f}M"


def room(monkeypatch: pytest.MonkeyPatch, available: float, total: float) -> None:
    monkeypatch.setattr(machine, "available_memory", lambda: int(available))
    monkeypatch.setattr(machine, "total_memory", lambda: int(total))


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if a graph is opened."""
    monkeypatch.setattr(Model, "graph", lambda _, graph: pytest.fail(f"{graph} was opened"))


@pytest.mark.usefixtures("closed")
def test_a_budget_below_the_minimum_is_one_error(omni, bundle: Path) -> None:
    for words in (("Hello", "--memory", "100M"), ("Hello", *WRITTEN, "--memory", "0.1g")):
        ran = omni("run", bundle, *words)
        ran.refused("needs about", 2)
        assert "--memory " in ran.err and "--quant int4" in ran.err
    assert "no-speech" not in ran.err  # it's without already


@pytest.mark.usefixtures("closed")
def test_text_only_is_suggested_if_it_fits(omni, bundle: Path) -> None:
    footprint = Model(bundle).budget.footprint
    written = footprint.needed(MIN_CONTEXT, speech=False)
    ran = omni("run", bundle, "Hello", "--memory", flag(written))
    ran.refused("--no-speech, which needs", 2)


@pytest.mark.usefixtures("closed")
def test_attached_media_count(omni, bundle: Path) -> None:
    Picture.new("RGB", (56, 56)).save("a.png")
    footprint = Model(bundle).budget.footprint
    budget = ("--memory", flag(footprint.needed(MIN_CONTEXT, speech=False)))
    omni("run", bundle, "What?", *WRITTEN, *budget, "--image", "a.png").refused("needs about", 2)


def test_text_only_fits_the_suggested_budget(omni, bundle: Path) -> None:
    footprint = Model(bundle).budget.footprint
    written = footprint.needed(MIN_CONTEXT, speech=False)
    ran = omni("run", bundle, "Hello", *WRITTEN, "--memory", flag(written))
    assert ran.code == 0
    assert "--memory leaves a context of" in ran.err
    ran = omni("run", bundle, "Hello", *WRITTEN, "-q", "--memory", flag(written))
    assert ran.code == 0 and not ran.err


@pytest.mark.usefixtures("closed")
def test_too_little_memory_is_one_error(omni, bundle: Path, monkeypatch) -> None:
    room(monkeypatch, 90 * MIB, 100 * MIB)
    ran = omni("run", bundle, "Hello")
    ran.refused("90.0 MB of 100.0 MB available", 1)
    assert "to try it anyway" in ran.err


def test_the_limit_of_a_container_counts(monkeypatch) -> None:
    found = {"/sys/fs/cgroup/memory.max": str(64 * MIB)}
    monkeypatch.setattr(machine, "_linux_value", lambda path, pattern: found.get(path))
    assert machine.total_memory() == 64 * MIB >= machine.available_memory()
    found.clear()
    assert machine.total_memory() == psutil.virtual_memory().total


def test_too_little_memory_within_a_budget_is_a_warning(omni, bundle: Path, monkeypatch) -> None:
    room(monkeypatch, 90 * MIB, 100 * MIB)
    ran = omni("run", bundle, "Hello", *WRITTEN, "--memory", "4G")
    assert ran.code == 0 and "warning: the bundle needs about" in ran.err
    assert "the budget is 4.0 GB" in ran.err


def test_little_free_memory_is_a_warning(omni, bundle: Path, monkeypatch) -> None:
    room(monkeypatch, 90 * MIB, 64 * GIB)
    ran = omni("run", bundle, "Hello", *WRITTEN)
    assert ran.code == 0 and "warning: the bundle needs about" in ran.err
    assert "close other programs" in ran.err
    ran = omni("run", bundle, "Hello", *WRITTEN, "-q")
    assert ran.code == 0 and not ran.err


@pytest.mark.usefixtures("closed")
def test_a_long_context_counts(omni, bundle: Path, monkeypatch) -> None:
    footprint = Model(bundle).budget.footprint
    room(monkeypatch, GIB, footprint.needed(MIN_CONTEXT, speech=False) + 1)
    ran = omni("run", bundle, "Hello", *WRITTEN, "--context", str(2 * MIN_CONTEXT))
    ran.refused("with a context of 2048 tokens", 1)
    assert "a shorter --context" in ran.err


@pytest.mark.parametrize("size", ["4", "4T", "G", "-1G", "nan", "1,5G"])
def test_invalid_sizes(omni, bundle: Path, size: str) -> None:
    omni("run", bundle, "Hello", f"--memory={size}").refused("is not a size such as 4G or 800M", 2)


@pytest.mark.usefixtures("closed")
def test_the_doctor_opens_no_graph_beyond_the_budget(omni, bundle: Path) -> None:
    ran = omni("doctor", bundle, "--memory", "100M")
    (line,) = [line for line in ran.out.splitlines() if "memory needed" in line]
    assert ran.code == 1 and line.startswith("fail")
    assert "the budget is 100.0 MB" in line and "  ->  --memory " in line
    assert "graph" not in ran.out and "voices" in ran.out


def test_the_doctor_counts_all_capabilities(omni, bundle: Path) -> None:
    footprint = Model(bundle).budget.footprint
    needed = footprint.least(MIN_CONTEXT, speech=True, encoders=ENCODERS)
    for budget, status in ((needed, "ok"), (needed - 99, "fail")):
        ran = omni("doctor", bundle, "--memory", flag(budget))
        (line,) = [line for line in ran.out.splitlines() if "memory needed" in line]
        assert line.startswith(status), line
