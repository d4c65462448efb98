"""Hubs: what caches have needs no network, and what cannot be exported is not downloaded."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import constants

from conftest import Twin, export_to
from export.local_hub import serving
from export.quantized_forms import Quantizer, quantized
from export.saved_forms import edit_json, logits, sharded
from omni_export import hub
from omni_export.hub import LocalCheckpoint, resolve
from omni_runtime.errors import OmniError, UsageError

RUN = Path(__file__).parents[2] / "export" / "run.py"
ID = "Qwen/Qwen2.5-Omni-3B"


@pytest.fixture
def cache(default_twin: Twin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of huggingface_hub that has the checkpoint; there is no network."""
    root = tmp_path / "hub" / "models--Qwen--Qwen2.5-Omni-3B"
    shutil.copytree(default_twin.folder, root / "snapshots" / "abc")
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("abc")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return root


def test_the_cache_of_hugging_face(cache: Path) -> None:
    by_id, by_folder = resolve(ID), resolve(str(cache))
    assert by_id.folder == by_folder.folder == cache / "snapshots" / "abc"
    assert (by_id.model, by_id.revision) == (ID, "abc")
    assert by_folder.model == ID
    assert resolve(str(by_folder.folder)).model == ID
    with pytest.raises(OmniError, match="cannot be downloaded"):
        resolve("Qwen/absent")


@pytest.mark.parametrize("parent", ["models", "hub/models", "hub"])
def test_the_cache_of_modelscope(
    default_twin: Twin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parent: str
) -> None:
    """ModelScope writes three underscores for a dot."""
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path))
    folder = shutil.copytree(default_twin.folder, tmp_path / parent / "Qwen" / "Qwen2___5-Omni-3B")
    found = resolve(f"modelscope:{ID}")
    assert (found.folder, found.model, found.name) == (folder, ID, "qwen2.5-omni-3b")
    # Incomplete: ModelScope's own tool has to finish the download.
    next(folder.glob("*.safetensors")).unlink()
    with pytest.raises(OmniError, match=r"modelscope is not installed.*pip install modelscope"):
        resolve(f"modelscope:{ID}")


def test_what_cannot_be_exported_is_not_downloaded(
    default_twin: Twin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def download(_: str, allow_patterns: list[str]) -> str:
        asked.append(allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    shutil.copyfile(default_twin.folder / "config.json", tmp_path / "config.json")
    edit_json(
        tmp_path / "config.json", lambda c: c.update(quantization_config={"quant_method": "hqq"})
    )
    with pytest.raises(UsageError, match="a checkpoint quantized by hqq"):
        resolve(ID)
    assert asked == [hub.SMALL]
    edit_json(tmp_path / "config.json", lambda c: c.pop("quantization_config"))
    assert resolve(ID, weights=False).folder == tmp_path
    assert asked == [hub.SMALL] * 2
    resolve(ID)
    assert "*.safetensors" in asked[-1] and "*.bin" not in asked[-1]
    index = {"weight_map": {"thinker.x": "pytorch_model-1.bin"}}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    resolve(ID)
    assert "*.bin" in asked[-1]
    assert not any(pattern.endswith((".safetensors", ".bin", ".pt")) for pattern in hub.SMALL)


def test_a_sharded_awq_checkpoint_from_a_hub(default_twin: Twin, tmp_path: Path) -> None:
    """The parts of a layer are in different files; a download that breaks off is repeated."""
    whole = quantized(default_twin.folder, tmp_path / "whole", Quantizer(awq=True))
    shards = sharded(whole, tmp_path / "shards", 3)
    bundle, model = tmp_path / "bundle", f"{ID}-AWQ"
    with serving(model, shards) as hub:
        home = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
        hub.breaking.add("model-00002-of-00003.safetensors")

        def export() -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [sys.executable, RUN, "--model", model, "--quant", "int4", "--output", bundle],
                env=os.environ | home, capture_output=True, text=True, check=False,
            )  # fmt: skip

        broken = export()
        assert broken.returncode == 1 and "the same command resumes" in broken.stderr
        done = export()
        assert done.returncode == 0, done.stderr
    local = LocalCheckpoint(whole, model, "test")
    np.testing.assert_array_equal(
        logits(bundle), logits(export_to(local, tmp_path / "local", "int4"))
    )
