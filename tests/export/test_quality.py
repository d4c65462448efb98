"""Benchmark scores are copied to the manifest only for the weights and rules measured."""

import shutil
from pathlib import Path

import msgspec
import pytest

from conftest import TRAINED, Twin, export_to
from omni_export import exporter, quality, second_moments
from omni_export.hub import LocalCheckpoint
from omni_quantize.recipe import load
from omni_runtime.bundle.store import Bundle
from omni_runtime.cli.show import describe
from omni_runtime.errors import OmniError


def test_scores_are_those_of_what_was_measured(tmp_path: Path) -> None:
    """Of the weights as they are, with the calibration text of the checkpoint."""
    ours = second_moments.text_for(TRAINED)
    for calibration, mute, known in (
        (ours, False, True), (ours, True, False), ("Mine", False, False), ("", False, False),
    ):  # fmt: skip
        checkpoint = LocalCheckpoint(TRAINED, "tiny", "test", mute=mute)
        request = exporter.ExportRequest(checkpoint, load("int4"), "avx2", tmp_path, calibration)
        assert (exporter._quality(request) is not None) == known


def test_quality(default_twin: Twin, tmp_path: Path) -> None:
    checkpoint, recipe = tmp_path / "checkpoint", load("fp32")
    shutil.copytree(default_twin.folder, checkpoint)
    assert quality.measured(checkpoint, recipe) is None
    found = {"typed": {"exact": 0.945, "items": 200.0}}
    record = quality.QualityFile(
        weights=quality.weights_digest(checkpoint),
        rules={"fp32": quality.rules_digest(recipe), "int8": "of an older recipe"},
        results={"fp32": found, "int8": found},
    )
    (checkpoint / quality.FILE).write_bytes(msgspec.json.encode(record))
    manifest = Bundle(export_to(checkpoint, tmp_path / "bundle")).manifest
    assert manifest.quality == found
    assert "exact 94.5%, items 200" in describe(manifest)
    assert quality.measured(checkpoint, load("int8")) is None, "its rules have changed"
    shard = next(checkpoint.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"\x7f")
    assert quality.measured(checkpoint, recipe) is None, "its weights have changed"
    (checkpoint / quality.FILE).write_text("{")
    with pytest.raises(OmniError, match=quality.FILE):
        quality.measured(checkpoint, recipe)
