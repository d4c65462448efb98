"""Golden vectors: one process writes them, another checks them; a changed value is named."""

import json
import math
import os
import shutil
import subprocess
import sys
from array import array
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from conftest import Twin
from omni_runtime.bundle.manifest import read_manifest, write_manifest
from omni_runtime.cli.main import main
from omni_runtime.errors import OmniError
from omni_runtime.golden import suite
from omni_runtime.golden.vectors import INDEX, File, Tensor, differences, read

MAIN = "import sys; from omni_runtime.cli.main import main; sys.exit(main())"


def omni(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", MAIN, "golden", *map(str, words)],
        capture_output=True, text=True, check=False, timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip


@pytest.fixture(scope="module")
def vectors(make_twin: Callable[[str], Twin], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Vectors of the default twin, written by another process."""
    folder = tmp_path_factory.mktemp("golden") / "vectors"
    done = omni(make_twin("default").bundle, "--output", folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{folder}: {len(suite.CASE_BUILDERS)} cases")
    return folder


@pytest.fixture
def copied(vectors: Path, tmp_path: Path) -> Path:
    return shutil.copytree(vectors, tmp_path / "copied")


def refused(words: list[str | Path], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["golden", *map(str, words)]) in (1, 2)
    out, error = capsys.readouterr()
    assert not out and error.startswith("error: ") and error.count("\n") == 1, error
    assert said in error


def test_another_process_reproduces_the_vectors(default_twin: Twin, vectors: Path) -> None:
    done = omni(default_twin.bundle, "--check", vectors)
    assert (done.returncode, done.stderr) == (0, "")
    assert sum(path.stat().st_size for path in vectors.iterdir()) < 10**6


@pytest.mark.parametrize("name", ["narrow", "wide"])
def test_other_shapes(make_twin: Callable[[str], Twin], tmp_path: Path, name: str) -> None:
    model = suite.open_model(make_twin(name).bundle)
    suite.save(model, tmp_path / "vectors")
    assert not list(suite.check(model, tmp_path / "vectors"))


def test_a_quantized_bundle(
    export_default: Callable[[str], Path], vectors: Path, tmp_path: Path
) -> None:
    model = suite.open_model(export_default("int4"))
    suite.save(model, tmp_path / "vectors")
    assert not list(suite.check(model, tmp_path / "vectors"))
    found = {line.split()[0].partition("[")[0] for line in suite.check(model, vectors)}
    assert {"thinker.logits", "tables.thinker_embedding"} <= found
    parts = ("text", "prompt", "mel", "picture", "windows", "rotary", "noise", "sampling")
    assert not [name for name in found if name.startswith(parts)]


def test_a_bundle_without_media_and_speech(
    default_twin: Twin, vectors: Path, tmp_path: Path
) -> None:
    bundle = shutil.copytree(default_twin.bundle, tmp_path / "mute")
    manifest = read_manifest(bundle)
    config = msgspec.structs.replace(manifest.model, audio=None, vision=None, speech=None)
    write_manifest(msgspec.structs.replace(manifest, model=config), bundle)
    model = suite.open_model(bundle)
    suite.save(model, tmp_path / "vectors")
    assert not list(suite.check(model, tmp_path / "vectors"))
    assert "thinker" in read(tmp_path / "vectors") and "talker" not in read(tmp_path / "vectors")
    assert "talker is only in the vectors" in list(suite.check(model, vectors))


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield all leaves of a golden.json."""
    if isinstance(value, dict) and "file" not in value:
        for key, one in value.items():
            yield from leaves(one, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for place, one in enumerate(value):
            yield from leaves(one, f"{path}[{place}]")
    else:
        yield path, value


def test_the_format_needs_no_numpy(vectors: Path) -> None:
    """The format is JSON, and raw files whose sizes follow from their shapes."""
    cases = json.loads((vectors / INDEX).read_text("utf-8"))["cases"]
    codes = {"float32": "f", "float64": "d", "uint8": "B"}
    named = {INDEX}
    for _, entry in leaves(cases):
        if isinstance(entry, dict):
            named.add(entry["file"])
            data = (vectors / entry["file"]).read_bytes()
            if "dtype" in entry:
                values = array(codes[entry["dtype"]], data)
                assert len(values) == math.prod(entry["shape"])
                assert 0 <= entry["tolerance"] <= 0.05
            else:
                assert data[:4] in (b"RIFF", b"\x89PNG")
    assert named == {path.name for path in vectors.iterdir()}


def change_float(folder: Path, case: str, name: str, place: int) -> None:
    path = folder / f"{case}.outputs.{name}.bin"
    values = np.fromfile(path, "<f4")
    values[place] += 0.01 * np.abs(values).max()
    values.tofile(path)


def change_number(folder: Path, case: str, name: str, place: int) -> None:
    index = json.loads((folder / INDEX).read_text("utf-8"))
    index["cases"][case]["outputs"][name][place] += 1
    (folder / INDEX).write_text(json.dumps(index), "utf-8")


def test_a_changed_value_is_named(
    default_twin: Twin, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    columns = read_manifest(default_twin.bundle).model.thinker.decoder.vocab_size
    change_float(copied, "thinker", "logits", 2 * columns + 5)
    change_number(copied, "prompt.video_with_sound", "ids", 40)
    change_number(copied, "talker", "codes", 1)
    lines = list(suite.check(suite.open_model(default_twin.bundle), copied))
    assert len(lines) == 3
    assert lines[0].startswith("prompt.video_with_sound.ids[40] is ")
    assert lines[1].startswith("thinker.logits[2, 5] is ")
    assert f"(1 of {4 * columns} differ by more than " in lines[1]
    assert lines[2].startswith("talker.codes[1] is ")
    words = [default_twin.bundle, "--check", copied]
    refused(words, f"differs from {copied}: {lines[0]}, and 2 more", capsys)


def test_the_check_uses_the_recorded_inputs(default_twin: Twin, copied: Path) -> None:
    """The check computes outputs from the recorded inputs, not from its own."""
    data = bytearray((copied / "sound.wav").read_bytes())
    data[10001:12001:2] = bytes(1000)
    (copied / "sound.wav").write_bytes(data)
    found = [
        line.split("[")[0] for line in suite.check(suite.open_model(default_twin.bundle), copied)
    ]
    assert "mel.mel" in found and "audio_encoder.rows" in found and "thinker.logits" not in found


def test_every_recorded_value_is_compared(vectors: Path) -> None:
    for name, case in read(vectors).items():
        for where, value in leaves(case.outputs, name):
            if isinstance(value, Tensor):
                changed = value.values.copy()
                finite = np.flatnonzero(np.isfinite(changed))
                largest = np.abs(changed.flat[finite]).max()
                changed.flat[finite[-1]] += max(
                    3 * value.tolerance * largest, 1e-6, changed.dtype.kind == "u"
                )
                assert len(list(differences(where, value, replace(value, values=changed)))) == 1
                if changed.dtype.kind == "f":
                    changed.flat[finite[-1]] = np.nan
                    (line,) = differences(where, value, replace(value, values=changed))
                    assert line.startswith(where) and " is nan instead of " in line
            else:
                assert not isinstance(value, File)
                (line,) = differences(where, value, f"{value} and more")
                assert line.startswith(f"{where} is ")
            assert not list(differences(where, value, value))


def test_invalid_vector_folders(
    default_twin: Twin, copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = default_twin.bundle
    refused([bundle, "--check", tmp_path / "none"], "none has no golden.json", capsys)
    refused([bundle, "--output", copied], "copied exists and is not empty (give another", capsys)
    refused([bundle, "--check", copied, "--output", "x"], "not allowed with argument", capsys)
    refused([tmp_path / "nowhere"], "there is no bundle at", capsys)
    index = (copied / INDEX).read_text("utf-8")
    (copied / INDEX).write_text(index.replace('"format": 1', '"format": 2'), "utf-8")
    refused([bundle, "--check", copied], "has format 2, but this runtime reads 1", capsys)
    for spoilt in (index[:1000], "[]", index.replace('"inputs"', '"input"')):
        (copied / INDEX).write_text(spoilt, "utf-8")
        refused([bundle, "--check", copied], "copied holds no golden vectors", capsys)
    (copied / INDEX).write_text(index, "utf-8")
    os.truncate(copied / "thinker.outputs.logits.bin", 40)
    refused([bundle, "--check", copied], "copied holds no golden vectors: cannot reshape", capsys)
    (copied / "thinker.outputs.logits.bin").unlink()
    refused([bundle, "--check", copied], "copied has no thinker.outputs.logits.bin", capsys)
    with pytest.raises(OmniError, match="cannot be written"):
        suite.save(suite.open_model(bundle), copied / INDEX / "below")
