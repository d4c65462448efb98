"""LoRA adapters merged while reading equal PEFT's merge_and_unload, to float rounding."""

import re
import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen2_5OmniThinkerForConditionalGeneration

from conftest import Twin, relative
from export.saved_forms import edit_json
from omni_export import check
from omni_export.adapter import Adapter
from omni_export.checkpoint import Checkpoint
from omni_export.hub import LocalCheckpoint
from omni_quantize.recipe import load
from omni_runtime.errors import OmniError, UsageError

PROJECTIONS = ["q_proj", "v_proj", "down_proj"]
CONFIGS: dict[str, dict[str, Any]] = {
    "plain": {"target_modules": PROJECTIONS},
    "rank stabilized, patterns": {
        "target_modules": PROJECTIONS,
        "use_rslora": True,
        "rank_pattern": {"down_proj": 3},
        "alpha_pattern": {r"model\.layers\.1\.mlp\.down_proj": 5, "v_proj": 24},
    },
    "dora": {"target_modules": PROJECTIONS, "use_dora": True},
    "whole modules and biases": {
        "target_modules": ["q_proj", "lm_head"],
        "modules_to_save": ["ln_post"],
        "bias": "lora_only",
    },
    "embedding, convolutions, encoders": {
        "target_modules": ["embed_tokens", "conv1", "visual.patch_embed.proj", "fc1", "attn.q"],
    },
}


def trained(model: Any, **config: Any) -> Any:
    """Return a PEFT model none of whose matrices is zero."""
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=12, **config))
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    return adapted


def thinker(twin: Twin) -> Any:
    model = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(twin.folder)
    model.config.tie_word_embeddings = False  # 4.57 says otherwise, and ties nothing
    return model


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`")
@pytest.mark.parametrize("kind", list(CONFIGS))
def test_merged_weights_equal_those_of_peft(default_twin: Twin, tmp_path: Path, kind: str) -> None:
    """Adapters of the Thinker alone, as LLaMA-Factory trains them."""
    torch.manual_seed(len(kind))
    with torch.enable_grad():
        adapted = trained(thinker(default_twin), **CONFIGS[kind])
        adapted.save_pretrained(tmp_path)
        wanted = adapted.merge_and_unload().state_dict()
    found, plain = (
        Checkpoint(default_twin.folder, adapter=tmp_path),
        Checkpoint(default_twin.folder),
    )
    changed = 0
    for name, value in wanted.items():
        handle = found.claim(f"thinker.{name}")
        merged = handle.read()
        np.testing.assert_allclose(merged, value.numpy(), atol=2e-6, err_msg=name)
        changed += not np.array_equal(merged, plain.claim(f"thinker.{name}").read())
        if merged.ndim > 1:
            np.testing.assert_allclose(handle.rows(2, 5), merged[2:5], atol=1e-6)
    matrices = load_file(tmp_path / "adapter_model.safetensors")
    assert changed == sum(bool(re.search(r"lora_(embedding_)?B|(?<!_B)\.bias$|ln_post", name))
                          for name in matrices)  # fmt: skip


def test_an_adapter_of_the_complete_model(default_twin: Twin, tmp_path: Path) -> None:
    """As ms-swift trains them: names with thinker., a Talker that may have one too; pickled."""
    target = r"thinker\.model\..*(q_proj|up_proj)|talker\.model\..*o_proj"
    with torch.enable_grad():
        adapted = trained(deepcopy(default_twin.reference), target_modules=target)
        adapted.save_pretrained(tmp_path, safe_serialization=False)
        assert (tmp_path / "adapter_model.bin").is_file()
        adapted.merge_adapter()
        wanted = {
            name.removeprefix("base_model.model.").replace(".base_layer", ""): value.clone()
            for name, value in adapted.state_dict().items()
            if ".base_layer.weight" in name
        }
        adapted.unmerge_adapter()
        adapted.unload()
    found = Checkpoint(default_twin.folder, adapter=tmp_path)
    assert len(wanted) == 3 * 2 + 2
    for name, value in wanted.items():
        assert relative(found.claim(name).read(), value) < 1e-6


def test_names_of_transformers_5(default_twin: Twin, tmp_path: Path) -> None:
    """PEFT saves the names that modules have in memory."""
    old, new = tmp_path / "old", tmp_path / "new"
    target = r".*(layers\.\d+\.self_attn\.(q_proj|out_proj)|blocks\.\d+\.mlp\.up_proj)"
    with torch.enable_grad():
        trained(thinker(default_twin), target_modules=target).save_pretrained(old)
    shutil.copytree(old, new)
    renamed = {
        re.sub(r"(?<=^base_model\.model\.)(model\.)?(?=\w)", _in_memory, name): value
        for name, value in load_file(old / "adapter_model.safetensors").items()
    }
    assert any(".model.visual." in name for name in renamed)
    assert any(".model.audio_tower." in name for name in renamed)
    assert any(".model.language_model.layers." in name for name in renamed)
    save_file(renamed, new / "adapter_model.safetensors")
    found, wanted = (Checkpoint(default_twin.folder, adapter=one) for one in (new, old))
    for name in wanted.shapes("thinker."):
        np.testing.assert_array_equal(found.claim(name).read(), wanted.claim(name).read(), name)


def _in_memory(match: re.Match[str]) -> str:
    return "model.language_model." if match[1] else "model."


def test_refusals(default_twin: Twin, tmp_path: Path) -> None:
    """What cannot be merged exactly, or belongs to another model, is named."""
    folder = tmp_path / "adapter"
    with pytest.raises(UsageError, match=r"has no adapter_config\.json, so it is not"):
        Adapter(tmp_path)
    with torch.enable_grad():
        trained(thinker(default_twin), target_modules=PROJECTIONS).save_pretrained(folder)
    good = (folder / "adapter_config.json").read_text()
    for edit, words in (
        ({"peft_type": "IA3"}, r"of type IA3, not LoRA \(merge it"),
        ({"init_lora_weights": "pissa_niter_4"}, "initialized by pissa_niter_4"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"lora_alpha": "much"}, "lora_alpha"),
    ):
        edit_json(folder / "adapter_config.json", lambda c, edit=edit: c.update(edit))
        with pytest.raises(OmniError, match=words):
            Adapter(folder)
        (folder / "adapter_config.json").write_text(good)

    def refused(words: str, **tensors: torch.Tensor | None) -> None:
        other = shutil.copytree(folder, tmp_path / "other")
        path = other / "adapter_model.safetensors"
        found = load_file(path) | {k.replace("/", "."): v for k, v in tensors.items()}
        save_file({k: v for k, v in found.items() if v is not None}, path)
        with pytest.raises(OmniError, match=words):
            Checkpoint(default_twin.folder, adapter=other)
        local = LocalCheckpoint(default_twin.folder, "default", "test", adapter=other)
        with pytest.raises(OmniError, match=words):
            check.report(local, load("int4"), calibrated=True)
        shutil.rmtree(other)

    module = "base_model/model/model/layers/0/self_attn/q_proj"
    refused("lacks lora_A", **{f"{module}/lora_A/weight": None})
    refused("does not belong", **{f"{module}/lora_A/weight": torch.zeros(4, 7)})
    matrices = {f"base_model/model/x/lora_{m}/weight": torch.zeros(4, 4) for m in "AB"}
    refused("which the checkpoint lacks", **matrices)
    refused("has shape", **{"base_model/model/lm_head/weight": torch.zeros(2, 2)})
    table = "base_model/model/model/embed_tokens"
    refused(
        "is a DoRA of an embedding",
        **{f"{table}/lora_embedding_{m}": torch.zeros(4, 4) for m in "AB"},
        **{f"{table}/lora_magnitude_vector/weight": torch.ones(4)},
    )
