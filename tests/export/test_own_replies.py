"""What a new bundle says to itself: its Talker is fitted to the inputs that it really reads."""

import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from tiny import grammar

import conftest
from conftest import TRAINED, Twin, export_to
from omni_export import own_replies, plan, second_moments
from omni_export.divergence import Comparison
from omni_export.graph_files import GraphWriter
from omni_export.hub import LocalCheckpoint
from omni_export.source import read_config
from omni_quantize.recipe import load
from omni_runtime.arrays import FloatArray
from omni_runtime.bundle.store import Bundle
from omni_runtime.engine.decoder import Decoder
from omni_runtime.engine.session import SessionOptions
from omni_runtime.errors import OmniError
from omni_runtime.inputs.messages import Text
from omni_runtime.model import Model

SAID = random.Random(3).sample(sorted(grammar.small_replies()), 40)


def test_messages_come_from_all_parts_of_a_text() -> None:
    def told(count: int) -> str:
        lines = (f"<|im_start|>user\nAsk {n}<|im_end|>\nMore.\n" for n in range(count))
        return "A text.\n" + "".join(lines)

    assert own_replies.messages(told(0)) == []
    assert own_replies.messages(told(2)) == [[Text("Ask 0")], [Text("Ask 1")]]
    many = own_replies.messages(told(10 * own_replies.MESSAGES))
    assert len(many) == own_replies.MESSAGES and many[-1] == [Text("Ask 230")]
    pictured = "<|im_start|>user\n<|vision_bos|><|IMAGE|><|vision_eos|>What?<|im_end|>"
    assert own_replies.messages(pictured) == []


def test_a_checkpoint_brings_its_own_text(tmp_path: Path) -> None:
    assert second_moments.text_for(tmp_path) == second_moments.text()
    (tmp_path / second_moments.FILE).write_text("Mine, \u00e4", "utf-8")
    assert second_moments.text_for(tmp_path) == "Mine, \u00e4"
    (tmp_path / second_moments.FILE).write_bytes(b"\xff\xfe")
    with pytest.raises(OmniError, match=r"calibration\.txt.*remove it"):
        second_moments.text_for(tmp_path)


def test_rows_are_what_the_talker_reads(
    default_twin: Twin, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[FloatArray] = []
    width = default_twin.model.config.thinker.decoder.hidden_size
    talker = default_twin.model.speech.talker.decoder
    original = Decoder.extend_steps

    def extend_steps(self: Decoder, cache: Any, rows: FloatArray, *rest: Any) -> Any:
        if len(cache.states) == 2 * talker.layers and cache.states[0].shape[1] == talker.kv_heads:
            read.append(rows)
        return original(self, cache, rows, *rest)

    monkeypatch.setattr(Decoder, "extend_steps", extend_steps)
    found = own_replies.replies(default_twin.bundle).talker_rows
    assert found.shape[1] == width and len(found) > 400
    np.testing.assert_array_equal(found, np.concatenate(read))


@pytest.mark.parametrize(("recipe", "fitted"), [("int4", True), ("int8", False)])
def test_only_searched_blocks_are_fitted(
    default_twin: Twin, tmp_path: Path, recipe: str, fitted: bool
) -> None:
    source = read_config(default_twin.folder)
    writer = GraphWriter(tmp_path, load(recipe), "avx2", calibration="Hello")
    made = plan.make(LocalCheckpoint(default_twin.folder, "random", "test"), source, writer)
    assert (made.fit_talker is not None) == fitted


@pytest.mark.slow
def test_heads_in_4_bits_and_a_tokenizer_of_two_files(
    default_twin: Twin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Output matrices and the Talker's projection are fitted too where a recipe says so."""
    folder = shutil.copytree(default_twin.folder, tmp_path / "checkpoint")
    (folder / "tokenizer.json").unlink()
    recipe = load("int4")
    every = {name: recipe.graphs[name][-1:] for name in ("thinker", "talker")}
    recipe = msgspec.structs.replace(recipe, graphs=recipe.graphs | every)
    monkeypatch.setattr(conftest, "load", lambda _: recipe)
    bundle = Bundle(export_to(folder, tmp_path / "bundle", calibration="Hello there."))
    for graph, names in (
        ("thinker", ["lm_head"]),
        ("talker", ["codec_head", "thinker_to_talker_proj"]),
    ):
        made = onnx.load(
            bundle.folder / bundle.manifest.graphs[graph].file, load_external_data=False
        )
        shapes = {tensor.name: tensor.dims for tensor in made.graph.initializer}
        assert all(shapes[f"{name}.weight.packed"][2] == 16 for name in names), "4 bits"


@pytest.mark.slow
def test_the_fit_lowers_the_loss_of_the_talker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loss(name: str) -> float:
        text = second_moments.text_for(TRAINED)
        bundle = export_to(TRAINED, tmp_path / name, "int4", calibration=text, codes=150)
        comparison = Comparison(Model(bundle, SessionOptions(threads=1)), TRAINED)
        found = [comparison.talker(one, 120) for one in SAID]
        return sum(one.kl * one.tokens for one in found) / sum(one.tokens for one in found)

    def unfitted(*given: Any) -> plan.Plan:
        return replace(make(*given), fit_talker=None)

    fitted, make = loss("fitted"), plan.make
    monkeypatch.setattr(plan, "make", unfitted)
    assert fitted < loss("unfitted")
