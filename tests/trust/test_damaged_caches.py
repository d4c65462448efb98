"""Damaged cached libraries and packed weights are detected before they are loaded."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from omni_runtime import machine
from omni_runtime.engine import kernels, prepack_cache
from omni_runtime.engine.kernels import build, forget
from omni_runtime.engine.session import SessionOptions
from omni_runtime.model import Model

compiled = pytest.mark.skipif(not build().library, reason=build().problem)


@pytest.fixture(scope="module")
def library() -> Path:
    """Compile the library once, in the real cache folder."""
    forget()
    found = build().library
    assert found is not None, build().problem
    return found


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "caches"
    folder.mkdir(mode=0o700)
    monkeypatch.setattr(machine, "cache_folder", lambda: folder)
    yield folder
    forget()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def damaged(damage, path: Path) -> None:
    """Replace `path` by a damaged copy, since this process maps the file itself."""
    other = path.with_name("damaged")
    shutil.copy(path, other)
    damage(other)
    other.replace(path)


@compiled
@pytest.mark.parametrize("damage", [empty, cut, flip, zeros])
def test_a_damaged_library_is_compiled_again(
    damage, library: Path, caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = caches / library.name
    shutil.copy(library, kept)
    commands: list[list[str]] = []

    def compiler(command: list[str], **_: object) -> None:
        commands.append(command)
        shutil.copy(library, command[-1])

    monkeypatch.setattr(kernels.subprocess, "run", compiler)
    forget()
    assert build().library == kept and not commands  # it is taken as it is
    damaged(damage, kept)
    forget()
    assert build().library == kept and len(commands) == 1
    assert kept.read_bytes() == library.read_bytes()
    assert [path.name for path in caches.iterdir()] == [library.name]


@pytest.fixture(scope="module")
def bundle(export_default: Callable[[str], Path]) -> Path:
    return export_default("int4")


@pytest.fixture
def copy(bundle: Path, caches: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(prepack_cache, "LEAST", 0)
    monkeypatch.setattr(prepack_cache, "LEFT_FREE", 0)
    logits(bundle)
    (made,) = prepack_cache.folder().iterdir()
    return made


def logits(bundle: Path) -> np.ndarray:
    model = Model(bundle, SessionOptions(threads=1, native=False))
    rows = np.random.default_rng(0).normal(size=(9, model.config.thinker.decoder.hidden_size))
    where = np.tile(np.arange(9), (3, 1))
    cache = model.thinker.new_cache()
    return model.thinker._decoder.extend(cache, rows.astype(np.float32), where)["logits"]


@pytest.mark.parametrize("damage", [empty, cut, flip, zeros])
@pytest.mark.parametrize("name", [prepack_cache.GRAPH, prepack_cache.WEIGHTS, prepack_cache.RECORD])
def test_a_damaged_prepack_cache_is_written_again(
    damage, name: str, bundle: Path, copy: Path
) -> None:
    wanted = logits(bundle)
    whole = (copy / prepack_cache.WEIGHTS).read_bytes()
    damage(copy / name)
    assert name == prepack_cache.RECORD or not prepack_cache._whole(copy)
    assert np.array_equal(logits(bundle), wanted)
    assert prepack_cache._whole(copy)
    assert (copy / prepack_cache.WEIGHTS).read_bytes() == whole


def test_prepacked_weights_are_verified_once_per_boot(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    digest = prepack_cache._digest

    def noted(path: Path) -> str:
        read.append(path.name)
        return digest(path)

    monkeypatch.setattr(prepack_cache, "_digest", noted)
    assert prepack_cache._whole(copy) and not read
    started = machine.boot_time()
    monkeypatch.setattr(machine, "boot_time", lambda: started + 1000)
    for _ in range(2):
        assert prepack_cache._whole(copy)
        assert sorted(read) == sorted([prepack_cache.GRAPH, prepack_cache.WEIGHTS])
    state = (copy / prepack_cache.WEIGHTS).stat()
    flip(copy / prepack_cache.WEIGHTS)  # as a failing disk does: the times stay
    os.utime(copy / prepack_cache.WEIGHTS, ns=(state.st_atime_ns, state.st_mtime_ns))
    monkeypatch.setattr(machine, "boot_time", lambda: started + 2000)
    assert not prepack_cache._whole(copy)


def test_an_unlisted_file_invalidates_prepacked_weights(copy: Path) -> None:
    (copy / "more").touch()
    assert not prepack_cache._whole(copy)


def test_folders_of_killed_compilations_are_removed(tmp_path: Path) -> None:
    for name, age in (("compiling-old", 10**6), ("compiling-now", 0), ("mine", 10**6)):
        (tmp_path / name).mkdir()
        changed = time.time() - age
        os.utime(tmp_path / name, (changed, changed))
    kernels._remove_unfinished(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["compiling-now", "mine"]
