"""Quantization error of each graph, with bounds that a wrong scale exceeds."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from conftest import Twin
from omni_export.probe import compare
from omni_quantize import recipe as recipes
from omni_quantize import tables
from omni_runtime.bundle.contracts import contracts
from omni_runtime.bundle.store import Bundle
from omni_runtime.bundle.tables import Table
from omni_runtime.engine.session import SessionOptions
from omni_runtime.engine.vocoder import WaveStream
from omni_runtime.errors import OmniError, UsageError
from omni_runtime.model import Model

# Minimum cosine similarity to float32 on random weights. The distance from 1 is two to seven times
# the measured one, to allow for other CPUs; test_a_wrong_scale_exceeds_the_bound checks that it is
# not too large. Random residual blocks of the vocoder contribute little to its output.
LEAST_COSINE = {
    "int8": {
        "audio_encoder": 0.9995,
        "vision_encoder": 0.998,
        "thinker": 0.9995,
        "talker": 0.9995,
        "dit": 0.9995,
        "vocoder": 1 - 3e-8,
    },
    "int4": {
        "audio_encoder": 0.9995,
        "vision_encoder": 0.998,
        "thinker": 0.97,
        "talker": 0.97,
        "dit": 0.9995,
        "vocoder": 1 - 3e-8,
    },
}


@pytest.fixture(scope="module", params=["int8", "int4"])
def quantized(
    request: pytest.FixtureRequest,
    make_twin: Callable[[str], Twin],
    export_default: Callable[[str], Path],
) -> tuple[str, Twin, Bundle]:
    return request.param, make_twin("default"), Bundle(export_default(request.param))


def test_errors_are_reported_and_bounded(quantized: tuple[str, Twin, Bundle]) -> None:
    name, _, bundle = quantized
    for graph, least in LEAST_COSINE[name].items():
        entry = bundle.manifest.graphs[graph]
        assert entry.error is not None
        assert least < entry.error.cosine <= 1, graph
        assert 0 < entry.error.relative < 0.4, graph
        assert entry.bytes < entry.fp32_bytes, graph
    for table in bundle.manifest.tables.values():
        assert table.error is not None
        assert table.error.cosine > 0.9999


@pytest.mark.parametrize("graph", ["thinker", "audio_encoder", "vocoder"])
def test_a_wrong_scale_exceeds_the_bound(
    quantized: tuple[str, Twin, Bundle], graph: str, tmp_path: Path
) -> None:
    """The scales of one matrix are 1.5 times too large."""
    name, twin, bundle = quantized
    model = onnx.load(bundle.graph_path(graph))
    scales = next(
        i for i in model.graph.initializer if i.name.endswith(("scales", "_scale")) and i.dims
    )
    exact = onnx.numpy_helper.to_array(scales)
    values = exact * exact.dtype.type(1.5)
    scales.CopyFrom(onnx.numpy_helper.from_array(values, scales.name))
    onnx.save(model, tmp_path / "model.onnx")
    error = compare(
        graph,
        twin.model.bundle.graph_path(graph),
        tmp_path / "model.onnx",
        contracts(bundle.config)[graph],
        bundle.config,
        some_mel(),
    )
    assert error.cosine < LEAST_COSINE[name][graph]


def some_mel() -> np.ndarray:
    return (np.random.default_rng(4).standard_normal((150, 80)) * 2 - 5).astype(np.float32)


def test_a_quantized_vocoder_streams(quantized: tuple[str, Twin, Bundle]) -> None:
    """Ranges are fixed, so chunks are the whole, but where a last digit of float32 decides between
    two integers: far less than what the integers cost.
    """
    _, twin, bundle = quantized
    vocoder, mel = Model(bundle.folder, SessionOptions(threads=1)).vocoder, some_mel()
    whole = vocoder.synthesize(mel, 0, 0)
    cost = np.abs(whole - twin.model.vocoder.synthesize(mel, 0, 0))
    assert cost.max() > 0
    for size in (24, 37):
        stream, pieces = WaveStream(vocoder, 80), []
        for start in range(0, len(mel), size):
            new, ahead = mel[start : start + size], mel[start + size :]
            pieces.append(stream.push(new, ahead, last=not len(ahead)))
        assert np.abs(np.concatenate(pieces) - whole).mean() < 0.01 * cost.mean(), size


def test_quantized_graphs_load_without_warnings(
    quantized: tuple[str, Twin, Bundle], capfd: pytest.CaptureFixture[str]
) -> None:
    for name in quantized[2].manifest.graphs:
        path = quantized[2].graph_path(name)
        onnx.checker.check_model(path)
        options = ort.SessionOptions()
        options.log_severity_level = 2  # warnings
        ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    assert capfd.readouterr().err == ""


def test_quantized_bundles_follow_their_recipe(
    quantized: tuple[str, Twin, Bundle],
) -> None:
    name, _, bundle = quantized
    nodes = onnx.load(bundle.graph_path("thinker"), load_external_data=False).graph.node
    bits = [
        next(a.i for a in node.attribute if a.name == "bits")
        for node in nodes
        if node.op_type == "BlockMatMul"
    ]
    assert set(bits) == {8}
    assert (name == "int4") == any(node.op_type == "TableMatMul" for node in nodes)
    assert not any(node.op_type == "MatMul" for node in nodes)
    encoder = onnx.load(bundle.graph_path("audio_encoder"), load_external_data=False).graph.node
    assert sum(node.op_type.endswith("IntegerMatMul") for node in encoder) > 4


def test_int4_64_differs_from_int4_in_the_thinker_alone() -> None:
    one, other = recipes.load("int4"), recipes.load("int4-64")
    assert one.tables == other.tables
    assert {name for name in one.graphs if one.graphs[name] != other.graphs[name]} == {"thinker"}
    assert {(rule.bits, rule.block) for rule in other.graphs["thinker"]} == {(4, 32), (4, 64)}


@pytest.mark.parametrize("name", recipes.built_in())
def test_every_rule_has_a_reason(name: str) -> None:
    recipe = recipes.load(name)
    assert recipe.name == name
    for rules in recipe.graphs.values():
        assert all(len(rule.reason) > 10 for rule in rules)
    assert all(len(table.reason) > 10 for table in recipe.tables.values())


def test_a_custom_recipe(tmp_path: Path, default_twin: Twin) -> None:
    raw = json.loads((Path(recipes.__file__).parent / "recipes" / "int4.json").read_text())
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({**raw, "name": "mine"}))
    assert recipes.load_file(path).name == "mine"
    for broken, complaint in (
        ("{", "recipe"),
        (json.dumps({**raw, "graphs": {}}), "must have"),
        (json.dumps({**raw, "extra": 1}), "extra"),
        (json.dumps({**raw, "graphs": {**raw["graphs"], "dit": raw["graphs"]["dit"][:1]}}), "dit"),
    ):
        path.write_text(broken)
        with pytest.raises(OmniError, match=complaint):
            recipes.load_file(path)
    with pytest.raises(UsageError, match="choose one of fp32, int4, int4-64, int4-uniform"):
        recipes.load("int3")


@pytest.mark.parametrize(
    ("encoding", "tolerance"), [("float32", 0), ("bfloat16", 4e-3), ("int8", 1e-2)]
)
def test_tables(tmp_path: Path, encoding: str, tolerance: float) -> None:
    rows = np.random.default_rng(0).standard_normal((5000, 12)).astype(np.float32)
    rows[3] = 0
    entry = tables.write(tmp_path, "rows", rows.shape, lambda a, b: rows[a:b], encoding)
    table = Table(tmp_path, entry)
    ids = np.array([0, 3, 4999, 0])
    largest = np.abs(rows[ids]).max(axis=1, keepdims=True)
    assert np.all(np.abs(table[ids] - rows[ids]) <= tolerance * largest)


@pytest.mark.parametrize(("layer", "bits"), [(0, 8), (1, 4), (10, 4), (34, 4), (35, 8)])
def test_a_rule_for_some_layers(layer: int, bits: int) -> None:
    name = f"model.layers.{layer}.mlp.down_proj.weight"
    assert recipes.load("int4").rule("thinker", name, 36).bits == bits


def test_layers_are_counted_from_the_end() -> None:
    rule = recipes.Rule(match="*", method="none", reason="", layers=(-2,))
    names = [f"model.layers.{n}.mlp.down_proj.weight" for n in range(4)] + ["lm_head.weight"]
    assert recipes.layers_in(names) == 4
    assert [rule.matches(name, 4) for name in names] == [False, False, True, False, False]
