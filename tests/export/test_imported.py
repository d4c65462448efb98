"""AWQ and GPTQ checkpoints keep their values, bit for bit, in every layout that is published."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import Twin, export_to, relative
from export.quantized_forms import Quantizer, Tensors, quantized
from export.saved_forms import edit_json, logits, rewritten
from omni_export import check
from omni_export.build import build
from omni_export.checkpoint import Checkpoint
from omni_export.graph_files import GraphWriter
from omni_export.hub import LocalCheckpoint
from omni_export.networks import networks
from omni_export.packed import PARTS, layout_of
from omni_export.source import read_config
from omni_quantize import imported
from omni_quantize.recipe import Rule, load
from omni_runtime.bundle.store import Bundle
from omni_runtime.errors import OmniError, UsageError


def rewritten_graph(twin: Twin, folder: Path, scratch: Path) -> tuple[ir.Model, dict[str, Rule]]:
    """Return the Thinker's graph as an export by int4 writes it, and its rules."""
    source, checkpoint = read_config(folder), Checkpoint(folder)
    contract = twin.model.bundle.manifest.graphs["thinker"].contract
    network = next(one for one in networks(source, checkpoint) if one.name == "thinker")
    model = build(network, contract, checkpoint)
    rules = GraphWriter(scratch, load("int4"), "avx2").rules("thinker", model)
    imported.rewrite(model, rules)
    return model, rules


def stored_weights(model: ir.Model) -> dict[str, np.ndarray]:
    """Dequantize a graph as the documents of MatMulNBits say: float32 (outputs, inputs)."""
    found: dict[str, np.ndarray] = {}
    for node in model.graph:
        if node.op_type not in ("MatMulNBits", "BlockMatMul") or node.attributes["bits"].value != 4:
            continue
        packed, scales, *zeros = (value.const_value.numpy() for value in node.inputs[1:])
        integers = np.stack([packed & 15, packed >> 4], -1).reshape(*packed.shape[:2], -1)
        points: Any = 8
        if zeros:
            points = np.stack([zeros[0] & 15, zeros[0] >> 4], -1).reshape(len(packed), -1)
            points = points[:, : scales.shape[1], None].astype(np.float32)
        values = (integers.astype(np.float32) - points) * scales.astype(np.float32)[..., None]
        values = values.reshape(len(packed), -1)
        source = node.inputs[0].producer()
        if source is not None and source.op_type == "Gather":
            values = values[:, np.argsort(source.inputs[1].const_value.numpy())]
        found[node.inputs[1].name.removesuffix(".packed")] = values
    return found


FORMS = {
    "awq": {"awq": True},
    "awq, group 32": {"awq": True, "group": 32},
    "gptq v1": {},
    "gptq v1, symmetric, as Qwen's": {"symmetric": True},
    "gptq v2, group 64, symmetric": {"v2": True, "symmetric": True, "group": 64},
    "gptq v1, desc_act, group 32": {"act_order": True, "group": 32},
    "gptq v2, desc_act, symmetric": {"v2": True, "act_order": True, "symmetric": True, "group": 32},
    "gptq v1, one group": {"group": -1, "symmetric": True},
    "gptq v2, one group": {"group": -1, "v2": True},
}


@pytest.mark.parametrize("form", FORMS)
def test_values_are_kept(default_twin: Twin, tmp_path: Path, form: str) -> None:
    quantizer = Quantizer(**FORMS[form])
    folder = quantized(default_twin.folder, tmp_path / "checkpoint", quantizer)
    checkpoint = Checkpoint(folder)
    for name, values in quantizer.weights.items():
        handle = checkpoint.claim(name)
        np.testing.assert_array_equal(handle.read(), values, err_msg=name)
        np.testing.assert_array_equal(handle.rows(3, 21), values[3:21])
    model, rules = rewritten_graph(default_twin, folder, tmp_path)
    stored = stored_weights(model)
    for layer in range(3):
        prefix = f"thinker.model.layers.{layer}."
        for packed, parts in (
            ("self_attn.qk_proj", ("self_attn.q_proj", "self_attn.k_proj")),
            ("self_attn.v_proj", ("self_attn.v_proj",)),
            ("self_attn.o_proj", ("self_attn.o_proj",)),
            ("mlp.gate_up_proj", ("mlp.gate_proj", "mlp.up_proj")),
            ("mlp.down_proj", ("mlp.down_proj",)),
        ):
            wanted = np.concatenate([quantizer.weights[f"{prefix}{p}.weight"] for p in parts])
            found = stored.pop(f"model.layers.{layer}.{packed}.weight")
            np.testing.assert_array_equal(found, wanted, err_msg=packed)
    assert not stored
    four = [rule for rule in rules.values() if rule.bits == 4]
    assert len(four) == 15 and {rule.symmetric for rule in four} == {quantizer.symmetric}
    assert {rule.block for rule in four} == {128 if quantizer.group == -1 else quantizer.group}


@pytest.mark.parametrize("form", ["awq", "gptq v1, desc_act, group 32"])
def test_replies_equal_those_of_the_dequantized_weights(
    default_twin: Twin, tmp_path: Path, form: str
) -> None:
    quantizer = Quantizer(**FORMS[form])
    folder = quantized(default_twin.folder, tmp_path / "checkpoint", quantizer)
    local = LocalCheckpoint(folder, "quantized", "test", mute=True)
    plain = rewritten(
        default_twin.folder,
        tmp_path / "plain",
        lambda t: t | {k: torch.from_numpy(v.copy()) for k, v in quantizer.weights.items()},
    )
    wanted = LocalCheckpoint(plain, "plain", "test", mute=True)
    found = logits(bundle := export_to(local, tmp_path / "bundle", "int8"))
    expected = logits(export_to(wanted, tmp_path / "wanted"))
    assert relative(found, expected) < 0.05  # activations are rounded to 8 bits
    weights = Bundle(bundle).manifest.graphs["thinker"].weights
    assert f"4 bit, block {quantizer.group}, zero points" in weights


def test_the_settings_of_autogptq(default_twin: Twin, tmp_path: Path) -> None:
    """In a file of their own; `--check` says what the checkpoint is."""
    quantizer = Quantizer(symmetric=True)
    folder = quantized(default_twin.folder, tmp_path / "checkpoint", quantizer)
    config = folder / "config.json"
    edit_json(config, lambda c: c.pop("quantization_config"))
    with pytest.raises(OmniError, match="no quantization_config"):
        Checkpoint(folder)
    settings = {k: v for k, v in quantizer.settings.items() if k != "quant_method"}
    (folder / "quantize_config.json").write_text(json.dumps(settings))
    assert layout_of(json.loads(config.read_text()), folder) == "gptq"
    name = next(iter(quantizer.weights))
    np.testing.assert_array_equal(Checkpoint(folder).claim(name).read(), quantizer.weights[name])
    local = LocalCheckpoint(folder, "checkpoint", "test")
    report = check.report(local, load("int4"), calibrated=True)
    assert report.startswith(
        "kind      Qwen2.5-Omni, a GPTQ checkpoint of 4 bits, kept exactly, float32\n"
    )


OTHERS = {
    "a bitsandbytes checkpoint": {"load_in_4bit": True, "quant_method": "bitsandbytes"},
    "an fp8 checkpoint": {"quant_method": "fp8"},
    "a compressed-tensors checkpoint": {"quant_method": "compressed-tensors"},
    "a GPTQ checkpoint of 8 bits": {"quant_method": "gptq", "bits": 8},
    r"a GPTQ checkpoint \(marlin\), which": {
        "quant_method": "gptq",
        "bits": 4,
        "checkpoint_format": "marlin",
    },
    r"an AWQ checkpoint \(gemv\), which": {"quant_method": "awq", "bits": 4, "version": "gemv"},
    "a GPTQ checkpoint with layers of 8 bits": {
        "quant_method": "gptq",
        "bits": 4,
        "dynamic": {r"-:.*\.0\.mlp.*": {}, r"+:.*\.1\.mlp.*": {"bits": 8, "group_size": 64}},
    },
    "a checkpoint quantized by hqq": {"quant_method": "hqq"},
}


@pytest.mark.parametrize("what", OTHERS)
def test_other_forms_are_refused(default_twin: Twin, tmp_path: Path, what: str) -> None:
    """With their name and the remedy, from config.json alone, wherever it has the settings."""
    config = json.loads((default_twin.folder / "config.json").read_text())
    with pytest.raises(UsageError, match=f"is {what}.*unquantized checkpoint"):
        layout_of(config | {"quantization_config": OTHERS[what]}, tmp_path)
    thinker = config["thinker_config"] | {"quantization_config": OTHERS[what]}
    with pytest.raises(UsageError, match=what):
        layout_of(config | {"thinker_config": thinker}, tmp_path)


def test_parts_that_do_not_fit(default_twin: Twin, tmp_path: Path) -> None:
    folder = quantized(
        default_twin.folder, tmp_path / "checkpoint", Quantizer(act_order=True, group=32)
    )
    path = folder / "model.safetensors"
    good = load_file(path)
    name = "thinker.model.layers.0.self_attn.q_proj"

    def refused(words: str, change: Callable[[Tensors], object], *, export: bool = True) -> None:
        tensors = dict(good)
        change(tensors)
        save_file(tensors, path)
        with pytest.raises(OmniError, match=words):
            if export:
                rewritten_graph(default_twin, folder, tmp_path)
            else:
                Checkpoint(folder)

    refused("does not have qweight, qzeros", lambda t: t.pop(f"{name}.scales"), export=False)
    refused("shapes that do not fit", lambda t: t.update({f"{name}.scales": torch.ones(3, 3)}),
            export=False)  # fmt: skip
    plain = torch.zeros(128, 128)
    bare = {f"{name}.{part}" for part in PARTS}

    def plain_query(tensors: Tensors) -> None:
        for part in bare:
            del tensors[part]
        tensors[f"{name}.weight"] = plain

    refused("are not quantized alike", plain_query)
    turned = good[f"{name}.g_idx"].flip(0).contiguous()
    refused("are not quantized alike", lambda t: t.update({f"{name}.g_idx": turned}))
