"""Static quantization of convolutions: arithmetic against numpy, ranges, and errors."""

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from conftest import Twin
from omni_export import calibration
from omni_export.graph_files import GraphWriter, windows
from omni_quantize import recipe as recipes
from omni_quantize import static
from omni_quantize.recipe import Rule
from omni_quantize.static import IntegerConvolution
from omni_runtime.errors import OmniError, UsageError

CHANNELS, KERNEL, DILATION, TIME = 24, 3, 2, 50
RULE = Rule(match="*", method="static", reason="test")
RANDOM = np.random.default_rng(0)
WEIGHTS = {
    name: RANDOM.standard_normal((CHANNELS, CHANNELS, KERNEL), np.float32) for name in ("v", "w")
}
BIAS = RANDOM.standard_normal(CHANNELS, np.float32)
# Channels that reach differently far, as those of trained vocoders do.
LEVELS = np.geomspace(0.01, 3, CHANNELS, dtype=np.float32)[:, None]
SOUND = (RANDOM.standard_normal((CHANNELS, TIME), np.float32) * LEVELS)[None]


def two_convolutions() -> ir.Model:
    """Two convolutions of one input: y with a bias, z without."""
    shape = [1, CHANNELS, TIME]
    extent = {"pads": [DILATION] * 2, "dilations": [DILATION]}
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w", "b"], ["y"], "first", **extent),
            helper.make_node("Conv", ["x", "v"], ["z"], "second", **extent),
        ],
        "two",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "yz"],
        [numpy_helper.from_array(a, n) for n, a in {**WEIGHTS, "b": BIAS}.items()],
    )
    opset = [helper.make_opsetid("", 23)]
    return ir.from_proto(helper.make_model(graph, opset_imports=opset, ir_version=11))


def run(model: ir.Model) -> list[np.ndarray]:
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString())
    return [np.asarray(value) for value in session.run(None, {"x": SOUND})]


@pytest.fixture
def ranges(tmp_path: Path) -> static.Ranges:
    ir.save(two_convolutions(), tmp_path / "model.onnx")
    halves = ({"x": np.roll(SOUND, shift, axis=2)} for shift in (0, 7))
    return calibration.ranges(tmp_path / "model.onnx", ["v", "w"], halves)


def test_ranges_are_those_of_all_inputs(ranges: static.Ranges) -> None:
    assert list(ranges) == ["x", "y", "z"]
    assert np.array_equal(ranges["x"][0], SOUND[0].min(axis=1))
    assert np.array_equal(ranges["x"][1], SOUND[0].max(axis=1))
    low, high = ranges["y"]
    exact = run(two_convolutions())[0][0]
    assert np.all(low <= exact.min(axis=1)) and np.all(high >= exact.max(axis=1))


def test_products_equal_integer_numpy(ranges: static.Ranges) -> None:
    model = two_convolutions()
    made = static.rewrite(model, {"v": RULE, "w": RULE}, ranges, "avx2")
    kinds = [node.op_type for node in model.graph]
    assert kinds.count("QuantizeLinear") == 1, "equal inputs are quantized once"
    assert kinds.count("QLinearConv") == kinds.count("DequantizeLinear") == 2
    assert "Conv" not in kinds and not {"v", "w", "b"} & set(model.graph.initializers)
    assert sum(weight_stream.values for weight_stream in made) == 2 * WEIGHTS["v"].size + BIAS.size
    exact = run(two_convolutions())
    for found, near, convolution, name in zip(run(model), exact, made, "yz", strict=True):
        assert isinstance(convolution, IntegerConvolution)
        wanted, step = by_hand(convolution, ranges, name)
        # Where a product lies between two integers the rounding is the processor's.
        assert np.mean(found[0] == wanted) > 0.999
        assert np.abs(found[0] - wanted).max() < 1.01 * step
        assert np.abs(found - near).max() < 0.03 * np.abs(near).max()


def by_hand(
    convolution: IntegerConvolution, ranges: static.Ranges, name: str
) -> tuple[np.ndarray, float]:
    """The output (channels, time) of integer arithmetic, and how large a step of it is."""
    parts = {piece.name[1:]: piece.data for piece in convolution.pieces()}
    scales, zero = static.input_steps(*ranges["x"])
    assert np.abs(parts["_quantized"]).max() == 64
    integers = np.clip(np.rint(SOUND[0] * (1 / scales)[:, None]) + zero, 0, 255) - float(zero)
    padded = np.pad(integers, ((0, 0), (DILATION, DILATION)))
    sums = parts["_bias"][:, None].astype(np.float64)
    for tap in range(KERNEL):
        seen = padded[:, tap * DILATION : tap * DILATION + TIME]
        sums = sums + parts["_quantized"][..., tap].astype(np.float64) @ seen
    low, high = min(ranges[name][0].min(), 0), max(ranges[name][1].max(), 0)
    step = (float(high) - float(low)) / 255
    offset = np.rint(-float(low) / step)
    values = np.clip(np.rint(sums * parts["_scale"][:, None] / step) + offset, 0, 255)
    return ((values - offset) * np.float32(step)).astype(np.float32), step


@pytest.mark.parametrize(("target", "most"), [("avx2", 64), ("avx512_vnni", 127), ("arm64", 127)])
def test_integers_are_smaller_for_avx2(ranges: static.Ranges, target: str, most: int) -> None:
    model = two_convolutions()
    static.rewrite(model, {"w": RULE}, ranges, target)
    integers = model.graph.initializers["w_quantized"].const_value
    assert integers is not None and np.abs(integers.numpy().astype(int)).max() == most


def test_zero_inputs_and_weights_stay_finite() -> None:
    scales, zero = static.input_steps(np.zeros(3, np.float32), np.zeros(3, np.float32))
    assert np.all(np.isfinite(1 / scales)) and zero == 0
    blank = ir.Value(name="w", const_value=ir.tensor(np.zeros((3, 3, 1), np.float32)))
    pieces = {p.name: p.data for p in IntegerConvolution(blank, None, scales, 64).pieces()}
    assert not pieces["w_quantized"].any() and np.all(pieces["w_scale"] == 1)


def test_a_channel_of_tiny_weights_keeps_its_bias() -> None:
    data = np.zeros((3, 3, 1), np.float32)
    data[1], data[2] = 1e-12, 1
    bias = np.array([0.4, -0.4, 0.4], np.float32)
    weight, offset = (
        ir.Value(name=name, const_value=ir.tensor(d)) for name, d in (("w", data), ("b", bias))
    )
    made = IntegerConvolution(weight, offset, np.ones(3, np.float32), 64)
    pieces = {p.name: p.data for p in made.pieces()}
    np.testing.assert_allclose(pieces["w_bias"] * pieces["w_scale"], bias, rtol=0.02)
    assert pieces["w_quantized"][2].max() == 64


def test_static_is_only_for_convolutions(default_twin: Twin, tmp_path: Path) -> None:
    mine = recipes.load("int8")
    path = tmp_path / "mine.json"
    wrong = {**mine.graphs, "dit": (RULE,)}
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(mine, graphs=wrong)))
    with pytest.raises(OmniError, match="dit cannot be static"):
        recipes.load_file(path)
    model = ir.load(default_twin.model.bundle.graph_path("vocoder"))
    writer = GraphWriter(tmp_path, mine, "avx2")
    found = writer.rules("vocoder", model)
    assert found and all(name.startswith("resblocks.") for name in found)
    weights = model.graph.initializers
    assert all(min(weights[name].shape[:2]) >= static.MIN_CHANNELS for name in found)
    transposed = Rule(match="ups.*", method="static", reason="test")
    graphs = {**mine.graphs, "vocoder": (transposed, *mine.graphs["vocoder"])}
    writer = replace(writer, recipe=msgspec.structs.replace(mine, graphs=graphs))
    with pytest.raises(UsageError, match=r"no convolution of the vocoder .* ups\.\*"):
        writer.rules("vocoder", model)


def test_long_mels_are_split() -> None:
    mels = [np.zeros((frames, 80), np.float32) for frames in (450, 30)]
    assert [len(window) for window in windows(mels)] == [200, 200, 50, 30]
