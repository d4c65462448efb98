"""The prepack cache: written once, then used; errors are never fatal."""

import os
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from time import time

import numpy as np
import pytest

from omni_runtime import machine, processor_features
from omni_runtime.cli import doctor
from omni_runtime.cli.common import format_size
from omni_runtime.engine import prepack_cache
from omni_runtime.engine.kernels import KernelLibrary
from omni_runtime.engine.session import SessionOptions
from omni_runtime.errors import BundleError
from omni_runtime.model import Model

Loaded = Callable[[], list[Path]]


@pytest.fixture(scope="module")
def bundle(export_default: Callable[[str], Path]) -> Path:
    return export_default("int4")


@pytest.fixture(autouse=True)
def caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Empty caches that also accept small graphs."""
    monkeypatch.setattr(machine, "cache_folder", lambda: tmp_path / "caches")
    monkeypatch.setattr(prepack_cache, "LEAST", 0)
    monkeypatch.setattr(prepack_cache, "LEFT_FREE", 0)
    return tmp_path / "caches"


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> Loaded:
    """Return the files that were loaded since the last call."""
    load, files = prepack_cache.load, list[Path]()

    def noted(file: Path, settings: object):
        files.append(file)
        return load(file, settings)

    def since() -> list[Path]:
        found = files.copy()
        files.clear()
        return found

    monkeypatch.setattr(prepack_cache, "load", noted)
    return since


def plain(bundle: Path, **options: bool) -> Model:
    return Model(bundle, SessionOptions(threads=1, native=False, **options))


def logits(model: Model) -> np.ndarray:
    rows = np.random.default_rng(0).normal(size=(9, model.config.thinker.decoder.hidden_size))
    cache = model.thinker.new_cache()
    where = np.tile(np.arange(9), (3, 1))
    return model.thinker._decoder.extend(cache, rows.astype(np.float32), where)["logits"]


def copies() -> list[Path]:
    return sorted(prepack_cache.folder().iterdir()) if prepack_cache.folder().exists() else []


def test_the_second_start_reads_the_copy_and_computes_the_same(
    bundle: Path, loaded: Loaded
) -> None:
    without = logits(plain(bundle, prepack_cache=False))
    assert not copies() and prepack_cache.size() is None
    first = logits(plain(bundle))
    (copy,) = copies()
    original = bundle / "graphs" / "thinker"
    assert loaded() == [original / "model.onnx"] * 2
    second = logits(plain(bundle))
    assert loaded() == [copy / prepack_cache.GRAPH] and copies() == [copy]
    assert np.array_equal(first, without) and np.array_equal(second, without)
    size = prepack_cache.size()
    assert size == sum(file.stat().st_size for file in copy.iterdir())
    assert size > sum(file.stat().st_size for file in original.glob("model.onnx*"))


def test_graphs_with_matrices_are_cached(bundle: Path, loaded: Loaded) -> None:
    model = plain(bundle)
    for name in model.bundle.manifest.graphs:
        model.graph(name)
    assert len(copies()) == len(model.bundle.manifest.graphs) - 1  # all but the vocoder's
    loaded()
    for name in model.bundle.manifest.graphs:
        model.graph(name)
    assert sorted(file.parent for file in loaded()) == sorted(
        [*copies(), bundle / "graphs" / "vocoder"]
    )


def test_cached_graphs_may_use_native_kernels(
    bundle: Path, loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For example an encoder with VNNI, where ONNX Runtime computes only the products."""
    wanted = logits(Model(bundle, SessionOptions(threads=1, prepack_cache=False)))
    monkeypatch.setattr(KernelLibrary, "reads", lambda native, graph: False)
    for _ in range(2):
        assert np.array_equal(logits(Model(bundle, SessionOptions(threads=1))), wanted)
    assert [file.parent for file in loaded()[-1:]] == copies()


def test_no_cache_where_native_kernels_read_the_file(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = plain(bundle).bundle.manifest
    file = bundle / "graphs" / "thinker" / "model.onnx"

    def packs(graph: str, native: KernelLibrary) -> bool:
        return prepack_cache.place(manifest, file, graph, native) is not None

    ours = KernelLibrary(Path("kernels.so"))
    for features, left in (({"avx2"}, False), ({"avx2", "avx512_vnni"}, True)):
        monkeypatch.setattr(processor_features, "detect", features.copy)
        assert not packs("thinker", ours) and not packs("vocoder", ours)
        assert packs("dit", ours) == left  # VNNI leaves products of int8 to ONNX Runtime
        assert packs("thinker", KernelLibrary(None)) and packs("dit", KernelLibrary(None))
    monkeypatch.setattr(prepack_cache, "LEAST", 2**30)
    assert not packs("thinker", KernelLibrary(None))


def test_a_copy_belongs_to_one_file_one_processor_one_onnxruntime(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = plain(bundle).bundle.manifest
    folder = bundle / "graphs" / "thinker"

    def place(file: str = "model.onnx") -> Path | None:
        return prepack_cache.place(manifest, folder / file, "thinker", KernelLibrary(None))

    places = [place(), place("model.int8_cache.onnx")]
    with monkeypatch.context() as patch:
        patch.setattr(machine, "processor", lambda: "another")
        places.append(place())
    with monkeypatch.context() as patch:
        patch.setattr(prepack_cache.ort, "__version__", "99")
        places.append(place())
    assert place() == places[0]
    os.utime(folder / "model.onnx", (1, 1))  # written again
    places.append(place())
    assert None not in places and len(set(places)) == len(places)


def test_a_damaged_copy_is_written_again(bundle: Path, loaded: Loaded) -> None:
    wanted = logits(plain(bundle))
    (copy,) = copies()
    for name in (prepack_cache.GRAPH, prepack_cache.WEIGHTS):
        whole = (copy / name).read_bytes()
        (copy / name).write_bytes(whole[: len(whole) // 2])
        assert np.array_equal(logits(plain(bundle)), wanted)
        assert copies() == [copy] and (copy / name).read_bytes() == whole
    loaded()
    logits(plain(bundle))
    assert loaded() == [copy / prepack_cache.GRAPH]


def test_an_unwritable_cache_is_not_an_error(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, caches: Path
) -> None:
    wanted = logits(plain(bundle, prepack_cache=False))
    usage = namedtuple("usage", "total used free")(2**40, 2**40, 2**10)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage)
        assert np.array_equal(logits(plain(bundle)), wanted) and not copies()
    with monkeypatch.context() as patch:  # the disk fills while it is written
        patch.setattr(prepack_cache, "GRAPH", "nowhere/model.onnx")
        assert np.array_equal(logits(plain(bundle)), wanted) and not copies()
    shutil.rmtree(caches)
    caches.write_text("no folder")
    assert np.array_equal(logits(plain(bundle)), wanted)


@pytest.mark.parametrize("damage", ["zeros", "a name that is no UTF-8"])
def test_a_graph_that_cannot_be_loaded_is_reported(
    bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], damage: str
) -> None:
    broken = shutil.copytree(bundle, tmp_path / "broken")
    file = broken / "graphs" / "thinker" / "model.onnx"
    data = file.read_bytes()
    changed = data.replace(b"MatMulNBits", b"MatMulNBit\xef")
    assert changed != data
    file.write_bytes(changed if damage != "zeros" else bytes(len(data)))
    with pytest.raises(BundleError, match=r"model.onnx cannot be loaded"):
        plain(broken).graph("thinker")
    assert not copies()
    assert capfd.readouterr() == ("", "")


def test_unused_copies_are_evicted(bundle: Path) -> None:
    kept, unused, writing, unfinished = (
        prepack_cache.folder() / name for name in ("kept", "unused", ".writing", ".unfinished")
    )
    for folder, age in (
        (kept, prepack_cache.UNUSED - 60),
        (unused, prepack_cache.UNUSED + 60),
        (writing, prepack_cache.UNFINISHED - 60),
        (unfinished, prepack_cache.UNFINISHED + 60),
    ):
        folder.mkdir(parents=True)
        os.utime(folder, (time() - age,) * 2)
    logits(plain(bundle))
    (copy,) = set(copies()) - {kept, writing}
    os.utime(copy, (1, 1))
    logits(plain(bundle))
    assert time() - copy.stat().st_mtime < prepack_cache.UNFINISHED


def test_the_doctor_reports_the_size(bundle: Path) -> None:
    def told() -> list[str]:
        return [check.found for check in doctor.checks(None) if check.name == "prepack cache"]

    assert not told()
    logits(plain(bundle))
    assert told() == [
        f"{format_size(prepack_cache.size() or 0)} in {prepack_cache.folder()}, can be deleted"
    ]
    list(doctor.checks(str(bundle)))
    assert len(copies()) == 1  # it repairs nothing, and writes nothing
