"""Checkpoints in every format, and the use of all tensors."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from conftest import Twin, export_to, relative
from export.saved_forms import logits
from omni_export.checkpoint import Checkpoint, TensorHandle
from omni_export.model_config import _eos, _talker_sampling, read_generation
from omni_export.source import read_config
from omni_runtime.bundle.store import Bundle
from omni_runtime.errors import OmniError
from omni_runtime.model import Model


def rewrite(twin: Twin, folder: Path, dtype: torch.dtype | None = None) -> Path:
    """Write the same checkpoint as a single safetensors file."""
    shutil.copytree(twin.folder, folder)
    tensors = {}
    for shard in sorted(folder.glob("model-*.safetensors")):
        tensors.update(load_file(shard))
        shard.unlink()
    (folder / "model.safetensors.index.json").unlink()
    if dtype is not None:
        tensors = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_single_file_equals_shards(default_twin: Twin, tmp_path: Path) -> None:
    single = rewrite(default_twin, tmp_path / "single")
    bundle = export_to(single, tmp_path / "bundle")
    files = Bundle(bundle).manifest.files
    assert files == default_twin.model.bundle.manifest.files, "the same bytes, every time"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(default_twin: Twin, tmp_path: Path, dtype: torch.dtype) -> None:
    bundle = export_to(rewrite(default_twin, tmp_path / "half", dtype), tmp_path / "bundle")
    assert relative(logits(bundle), logits(default_twin.bundle)) < 0.05


def test_rope_parameters_of_transformers_5(default_twin: Twin, tmp_path: Path) -> None:
    """Version 5 writes one section `rope_parameters`, which includes theta."""
    shutil.copytree(default_twin.folder, tmp_path / "five")
    path = tmp_path / "five" / "config.json"
    config = json.loads(path.read_text())
    for section in (config["thinker_config"]["text_config"], config["talker_config"]):
        rope = section.pop("rope_scaling")
        rope.pop("type")
        section["rope_parameters"] = {**rope, "rope_theta": section.pop("rope_theta")}
    path.write_text(json.dumps(config))
    assert read_config(tmp_path / "five") == read_config(default_twin.folder)


def test_tied_embeddings(default_twin: Twin, tmp_path: Path) -> None:
    folder = rewrite(default_twin, tmp_path / "tied")
    tensors = load_file(folder / "model.safetensors")
    del tensors["thinker.lm_head.weight"]
    save_file(tensors, folder / "model.safetensors")
    bundle = export_to(folder, tmp_path / "bundle")
    table = tensors["thinker.model.embed_tokens.weight"].numpy()
    model = Model(bundle)
    thinker = model.thinker
    found = thinker._decoder.extend(
        thinker.new_cache(), thinker.embed(np.array([5])), np.zeros((3, 1), np.int64)
    )
    assert relative(found["logits"], table @ found["hidden"][0]) < 1e-4


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_diverged(default_twin: Twin, tmp_path: Path, value: float) -> None:
    folder = rewrite(default_twin, tmp_path / "diverged")
    tensors = load_file(folder / "model.safetensors")
    name = "thinker.model.layers.0.mlp.down_proj.weight"
    tensors[name][3, 4] = value
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(OmniError, match=rf"{name} has NaN or infinite values"):
        Checkpoint(folder).claim(name).read()


def test_a_checkpoint_that_does_not_speak(default_twin: Twin, tmp_path: Path) -> None:
    folder = tmp_path / "mute"
    shutil.copytree(default_twin.folder, folder)
    config = json.loads((folder / "config.json").read_text())
    config["enable_audio_output"] = False
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "spk_dict.pt").unlink()
    manifest = Bundle(export_to(folder, tmp_path / "bundle")).manifest
    assert manifest.capabilities == ("text", "audio", "image", "video")
    assert set(manifest.graphs) == {"audio_encoder", "vision_encoder", "thinker"}


def test_opening_reads_no_tensor(default_twin: Twin, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only headers are read. A tensor is read on demand and not cached."""
    reads: list[str] = []
    convert = TensorHandle._float32

    def note(handle: TensorHandle, get: Callable[[], torch.Tensor]) -> np.ndarray:
        reads.append(handle.name)
        return convert(handle, get)

    monkeypatch.setattr(TensorHandle, "_float32", note)
    handle = Checkpoint(default_twin.folder).claim("thinker.model.norm.weight")
    assert reads == []
    assert handle.read() is not handle.read()
    assert reads == ["thinker.model.norm.weight"] * 2


def test_every_graph_passes_the_checker_and_loads_without_warnings(
    twin: Twin, capfd: pytest.CaptureFixture[str]
) -> None:
    import onnxruntime as ort  # noqa: PLC0415

    for name in twin.model.bundle.manifest.graphs:
        path = twin.model.bundle.graph_path(name)
        onnx.checker.check_model(path)
        options = ort.SessionOptions()
        options.log_severity_level = 2  # warnings
        ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    assert capfd.readouterr().err == ""


def test_eos_ids(default_twin: Twin, tmp_path: Path) -> None:
    """From the Thinker's section and generation_config.json; at least one is required."""
    shutil.copytree(default_twin.folder, tmp_path / "ends")
    tokenizer = Tokenizer.from_file(str(default_twin.folder / "tokenizer.json"))
    end, text_end = (tokenizer.token_to_id(t) for t in ("<|im_end|>", "<|endoftext|>"))

    def ends() -> tuple[int, ...]:
        return _eos(read_config(tmp_path / "ends"), read_generation(tmp_path / "ends"))

    assert set(ends()) == {end, text_end}
    (tmp_path / "ends" / "generation_config.json").unlink()
    assert ends() == (end,)
    path = tmp_path / "ends" / "config.json"
    config = json.loads(path.read_text())
    config["thinker_config"]["eos_token_id"] = "end"
    path.write_text(json.dumps(config))
    with pytest.raises(OmniError, match="eos_token_id"):
        ends()
    del config["thinker_config"]["eos_token_id"]
    path.write_text(json.dumps(config))
    with pytest.raises(OmniError, match="eos_token_id"):
        ends()


def test_talker_sampling_of_the_checkpoint(default_twin: Twin, tmp_path: Path) -> None:
    """The reference's settings, unless generation_config.json has others."""

    def sampling(folder: Path) -> dict[str, float]:
        return _talker_sampling(read_generation(folder))

    assert sampling(tmp_path)["temperature"] == 0.9
    path = tmp_path / "generation_config.json"
    path.write_text(json.dumps({"talker_temperature": 0.3}))
    assert sampling(tmp_path) == {**sampling(tmp_path / "no"), "temperature": 0.3}
    path.write_text(json.dumps({"talker_top_p": "much"}))
    with pytest.raises(OmniError, match=r"generation_config\.json"):
        sampling(tmp_path)
