"""Hostile manifests, sealed again: one BundleError each."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import Twin
from omni_runtime.bundle.store import Bundle
from omni_runtime.checksums import write_with_digest
from omni_runtime.errors import BundleError


@pytest.fixture
def resealed(default_twin: Twin, tmp_path: Path) -> Callable[[Callable[[Any], None]], Path]:
    def make(change: Callable[[Any], None]) -> Path:
        folder = tmp_path / "bundle"
        shutil.copytree(default_twin.bundle, folder)
        manifest = json.loads((folder / "manifest.json").read_text())
        change(manifest)
        write_with_digest(folder / "manifest.json", json.dumps(manifest).encode())
        return folder

    return make


def rename(name: str) -> Callable[[Any], None]:
    def change(manifest: Any) -> None:
        manifest["files"][name] = manifest["files"].pop("tokenizer.json")

    return change


@pytest.mark.parametrize(
    "name", ["../tokenizer.json", "/etc/passwd", "a/../../x", "C:\\x", "..\\x", "\\\\host\\x", ""]
)
def test_names_that_lead_out(resealed, name: str) -> None:
    with pytest.raises(BundleError, match="leads out of the bundle"):
        Bundle(resealed(rename(name)))


def test_links_that_lead_out(resealed, tmp_path: Path) -> None:
    folder = resealed(lambda _: None)
    (tmp_path / "elsewhere").write_bytes((folder / "tokenizer.json").read_bytes())
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match="leads out of the bundle"):
        Bundle(folder)


def set_in(path: str, value: object) -> Callable[[Any], None]:
    def change(manifest: Any) -> None:
        *parents, last = path.split("/")
        for key in parents:
            manifest = manifest[key]
        manifest[last] = value

    return change


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("model/speech/presets/fast/steps", 10**9),
        ("model/speech/presets/fast/steps", 0),
        ("model/thinker/decoder/layers", -1),
        ("model/thinker/decoder/max_context", 2**40),
        ("model/audio/hop_length", 0),
        ("model/speech/vocoder/sample_rate", 7),
        ("model/speech/dit/frames_per_code", 7),
        ("model/vision/image_max_pixels", 2**40),
        ("graphs/thinker/file", "elsewhere.onnx"),
        ("graphs", {}),
        ("tables", {}),
        ("tables/thinker_embedding/encoding", "float7"),
        ("tables/thinker_embedding/rows", 0),
        ("name", "red\x1b[31m"),
        ("origin/licence", "a\rb"),
    ],
)
def test_values_out_of_bounds(resealed, path: str, value: object) -> None:
    with pytest.raises(BundleError):
        Bundle(resealed(set_in(path, value)))
