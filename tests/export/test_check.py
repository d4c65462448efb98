"""`--check` reads names and the configuration only, and says what the export would do."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from transformers import Qwen2_5OmniConfig, Qwen2_5OmniForConditionalGeneration

from conftest import TRAINED, Twin
from export.saved_forms import edit_json, thinker_alone
from omni_export import check, plan, random_checkpoint
from omni_export.exporter import ExportRequest
from omni_export.graph_files import GraphWriter
from omni_export.hub import LocalCheckpoint
from omni_export.source import read_config
from omni_quantize.recipe import load
from omni_runtime.bundle.store import Bundle
from omni_runtime.errors import OmniError


def report(folder: Path, recipe: str = "int4", **options: object) -> dict[str, str]:
    local = LocalCheckpoint(folder, folder.name, "test", **options)  # type: ignore[arg-type]
    text = check.report(local, load(recipe), calibrated=True)
    return dict(line.split(maxsplit=1) for line in text.splitlines())


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What `--check` downloads of the published models: config.json, and an index of all names."""
    found: dict[str, Path] = {}
    for size in ("3b", "7b"):
        folder = found[size] = tmp_path_factory.mktemp("published") / size
        random_checkpoint.describe(folder, random_checkpoint.shape_of(size))
        for path in folder.iterdir():
            if path.name not in ("config.json", "LICENSE"):
                path.unlink()
        with torch.device("meta"):
            model = Qwen2_5OmniForConditionalGeneration(Qwen2_5OmniConfig.from_pretrained(folder))
        tensors = model.state_dict()
        index = {
            "metadata": {"total_size": sum(2 * math.prod(t.shape) for t in tensors.values())},
            "weight_map": {
                name: f"model-{number * 5 // len(tensors) + 1:05}-of-00005.safetensors"
                for number, name in enumerate(tensors)
            },
        }
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return found


@pytest.mark.parametrize(("size", "stated", "low", "high"),
                         [("3b", "10.", 3.5, 4.3), ("7b", "20.", 6.4, 7.5)])  # fmt: skip
def test_published_names(
    published: dict[str, Path], size: str, stated: str, low: float, high: float
) -> None:
    found = report(published[size])
    assert found["kind"] == "Qwen2.5-Omni, bfloat16"
    assert found["size"].startswith(stated) and "in 5 files" in found["size"]
    assert low < float(found["bundle"].split()[1]) < high
    assert low - 0.5 < float(found["memory"].split()[1]) < high + 0.5
    assert "CC0" in found["licence"]
    assert "min on this machine" in found["time"]
    assert found["dropped"].startswith("1 of thinker.audio_tower.audio_bos_eos_token.*: ")


def test_names_that_do_not_fit(default_twin: Twin, tmp_path: Path) -> None:
    folder = shutil.copytree(default_twin.folder, tmp_path / "checkpoint")
    index = folder / "model.safetensors.index.json"
    edit_json(index, lambda c: c["weight_map"].pop("talker.codec_head.weight"))
    with pytest.raises(OmniError, match=r"lacks 1 tensors: talker.codec_head.*--speech-from"):
        report(folder)
    edit_json(index, lambda c: c["weight_map"].pop("thinker.model.norm.weight"))
    with pytest.raises(OmniError, match=r"lacks 2 tensors: .*save the complete model"):
        report(folder)
    edit_json(index, lambda c: c["weight_map"].update({"thinker.extra.weight": "x"}))
    with pytest.raises(OmniError, match=r"no graph uses: thinker\.extra\.weight"):
        report(folder)


def test_names_and_sizes_are_those_of_an_export(default_twin: Twin, tmp_path: Path) -> None:
    """`expected` lists what an export claims, and the estimate is near the bundle."""
    local = LocalCheckpoint(default_twin.folder, "default", "test")
    source = read_config(default_twin.folder)
    claimed: dict[str, tuple[int, ...]] = {}
    original = plan.Checkpoint.claim

    def claim(self: plan.Checkpoint, name: str, *rest: object) -> object:
        handle = original(self, name, *rest)  # type: ignore[arg-type]
        claimed[name] = handle.shape
        return handle

    plan.Checkpoint.claim = claim  # type: ignore[method-assign,assignment]
    try:
        plan.make(local, source, GraphWriter(tmp_path, load("int4"), "avx2"))
    finally:
        plan.Checkpoint.claim = original  # type: ignore[method-assign]
    assert check.needs(source, load("int4")).shapes == claimed
    assert ExportRequest(local, load("int4"), "avx2", tmp_path).key()


@pytest.mark.slow
def test_the_size_of_the_bundle(export_trained) -> None:
    for recipe in ("fp32", "int4"):
        manifest = Bundle(export_trained(recipe)).manifest
        size = check.needs(read_config(TRAINED), load(recipe)).size
        graphs = sum(graph.bytes for graph in manifest.graphs.values())
        assert sum(size.graphs.values()) == pytest.approx(graphs, rel=0.12)


def test_a_thinker_and_a_save_without_voices(default_twin: Twin, tmp_path: Path) -> None:
    folder = thinker_alone(default_twin.folder, tmp_path / "alone", default_twin.reference)
    found = report(folder)
    assert found["kind"] == "the Thinker of Qwen2.5-Omni, float32"
    assert found["speech"] == "none: the bundle will answer in text"
    assert "speech" not in report(folder, speech_from=default_twin.folder)
    shutil.copytree(default_twin.folder, tmp_path / "save")
    (tmp_path / "save" / "spk_dict.pt").unlink()
    with pytest.raises(OmniError, match="--mute"):
        report(tmp_path / "save")
