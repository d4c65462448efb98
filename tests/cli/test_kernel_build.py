"""Kernels are compiled once, with a note, and never by a constructor."""

import logging
import shutil
from pathlib import Path

import pytest

from omni_runtime import machine
from omni_runtime.engine import kernels
from omni_runtime.engine.session import SessionOptions
from omni_runtime.model import Model

LIBRARY = kernels.build().library
compiled = pytest.mark.skipif(not LIBRARY, reason=kernels.build().problem)
WORDS = ("Hello", "--no-speech", "--max-tokens", "2")


@pytest.fixture(autouse=True)
def builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Empty caches; returns the compilations. The compiler is replaced by a copy."""
    folder = tmp_path / "caches"
    folder.mkdir(mode=0o700)
    monkeypatch.setattr(machine, "cache_folder", lambda: folder)
    made: list[str] = []

    def copy(plan: kernels._Build) -> None:
        made.append(plan.name)
        shutil.copy(LIBRARY, folder / LIBRARY.name)

    monkeypatch.setattr(kernels, "_compile", copy)
    kernels.forget()
    yield made
    kernels.forget()


@compiled
def test_the_first_run_prints_one_note(omni, bundle: Path, builds: list[str]) -> None:
    first = omni("run", bundle, *WORDS)
    assert first.code == 0 and first.err.count(kernels.BUILD_NOTE) == 1 and len(builds) == 1
    kernels.forget()  # as a new process
    second = omni("run", bundle, *WORDS)
    assert second.code == 0 and kernels.BUILD_NOTE not in second.err and len(builds) == 1
    assert first.out == second.out


@compiled
def test_quiet_prints_no_note(omni, bundle: Path, builds: list[str]) -> None:
    ran = omni("run", bundle, *WORDS, "-q")
    assert ran.code == 0 and not ran.err and len(builds) == 1


@compiled
@pytest.mark.parametrize("command", ["doctor", "bench"])
def test_other_commands_print_the_note(omni, bundle: Path, builds: list[str], command: str) -> None:
    words = ("--only", "tg", "-r", "1", "--no-warmup") if command == "bench" else ()
    ran = omni(command, bundle, *words)
    assert ran.err.count(kernels.BUILD_NOTE) == 1 and len(builds) == 1


def test_without_a_compiler_or_kernels(
    omni, bundle: Path, builds: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = omni("run", bundle, *WORDS, "--no-native")
    assert wanted.code == 0 and not builds and kernels.BUILD_NOTE not in wanted.err
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    kernels.forget()
    ran = omni("run", bundle, *WORDS)
    assert ran.code == 0 and not builds and kernels.BUILD_NOTE not in ran.err
    assert ran.out == wanted.out


@compiled
def test_a_failing_compiler_is_reported_and_not_retried(
    omni, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[object] = []

    def fail(plan: object) -> None:
        tried.append(plan)
        raise OSError("no room")

    monkeypatch.setattr(kernels, "_compile", fail)
    ran = omni("run", bundle, *WORDS)
    assert ran.code == 0 and len(tried) == 1
    assert ran.err.count("no room") == 1 and "ONNX Runtime's own kernels are used" in ran.err


@compiled
def test_opening_a_graph_compiles_the_kernels(
    bundle: Path, builds: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "omni_runtime")
    Model(bundle, SessionOptions(threads=1, native=False)).graph("dit")
    model = Model(bundle, SessionOptions(threads=1))
    estimate = model.budget.footprint
    assert not builds and not caplog.records
    _ = model.vocoder
    assert len(builds) == 1
    (record,) = caplog.records
    assert record.levelno == logging.INFO and record.getMessage() == kernels.BUILD_NOTE
    assert model.budget.footprint == estimate
    _ = model.thinker
    assert len(builds) == len(caplog.records) == 1


@compiled
def test_memory_estimates_account_for_a_failed_compiler(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(plan: object) -> None:
        raise OSError("no room")

    monkeypatch.setattr(kernels, "_compile", fail)
    model = Model(bundle, SessionOptions(threads=1))
    plain = Model(bundle, SessionOptions(threads=1, native=False)).budget.footprint
    assert model.budget.footprint != plain
    heard: list[str] = []
    model.warm_up(heard.append)
    assert model.budget.footprint == plain and not model.budget.quick
    assert heard[0] == kernels.BUILD_NOTE and "no room" in heard[1]
