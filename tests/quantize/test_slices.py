"""Quantization in slices equals that of whole matrices, and that of optimum."""

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from conftest import Twin, relative
from omni_export import external_data
from omni_quantize import blocks, dynamic, nbits, weight_stream
from omni_quantize.nbits import BlockMatrix
from omni_quantize.products import ProductMeter
from omni_quantize.recipe import Rule
from omni_runtime.bundle.contracts import DOMAIN
from omni_runtime.errors import UsageError

BITS = [(4, False), (4, True), (8, True), (8, False)]


def initializers(path: Path) -> dict[str, np.ndarray]:
    model = onnx.load(path)
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def matrices(path: Path) -> list[str]:
    model = onnx.load(path, load_external_data=False).graph
    known = {tensor.name for tensor in model.initializer}
    return [n.input[1] for n in model.node if n.op_type == "MatMul" and n.input[1] in known]


def integers(weight: str, per_channel: bool = True) -> Rule:
    return Rule(match=weight, method="dynamic", reason="test", per_channel=per_channel)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence optimum's warning about a missing model config."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def by_optimum(source: Path, folder: Path, target: str, keep: str, per_channel: bool) -> Path:
    from onnxruntime.quantization import QuantType  # noqa: PLC0415
    from optimum.onnxruntime import ORTQuantizer  # noqa: PLC0415
    from optimum.onnxruntime.configuration import AutoQuantizationConfig  # noqa: PLC0415

    nodes = onnx.load(source, load_external_data=False).graph.node
    settings = getattr(AutoQuantizationConfig, target)(
        is_static=False,
        per_channel=per_channel,
        operators_to_quantize=["MatMul"],
        nodes_to_exclude=[n.name for n in nodes if n.op_type == "MatMul" and n.input[1] == keep],
    )
    settings.weights_dtype, settings.reduce_range = QuantType.QInt8, target == "avx2"
    with quiet():
        quantizer = ORTQuantizer.from_pretrained(source.parent, file_name=source.name)
        quantizer.quantize(
            save_dir=folder,
            quantization_config=settings,
            file_suffix=None,
            use_external_data_format=True,
        )
    return folder / source.name


def saved(model: ir.Model, folder: Path, made: list[weight_stream.WeightStream]) -> Path:
    return external_data.save(
        model, folder, made, on_slice=None, advance=lambda values: None, workers=2
    )


def fused(path: Path) -> list[str]:
    """Return the operators of a graph after optimization, without native kernels."""
    settings = ort.SessionOptions()
    settings.log_severity_level = 3
    settings.optimized_model_filepath = str(path.with_suffix(".fused.onnx"))
    ort.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    graph = onnx.load(settings.optimized_model_filepath, load_external_data=False).graph
    return sorted(node.op_type for node in graph.node)


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("target", ["avx2", "avx512_vnni", "arm64"])
def test_integers_equal_optimums(
    default_twin: Twin,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    target: str,
    per_channel: bool,
) -> None:
    monkeypatch.setattr(weight_stream, "WEIGHTS_PER_SLICE", 700)  # a few columns at a time
    source = default_twin.model.bundle.graph_path("audio_encoder")
    keep, *others = matrices(source)
    wanted = by_optimum(source, tmp_path / "optimum", target, keep, per_channel)
    model = ir.load(source)
    made = dynamic.rewrite(model, {name: integers(name, per_channel) for name in others}, target)
    found = saved(model, tmp_path / "ours", made)
    a, b = initializers(found), initializers(wanted)
    assert a.keys() == b.keys() and keep in a
    for name, values in b.items():
        assert a[name].dtype == values.dtype and np.array_equal(a[name], values), name
    assert fused(found) == fused(wanted)
    nodes = onnx.load(found, load_external_data=False).graph.node
    assert sum(node.op_type.endswith("IntegerMatMul") for node in nodes) == len(others)
    inputs = {
        "mel": np.random.default_rng(0).standard_normal((2, 128, 200), np.float32),
        "frames": np.array([200, 137], np.int32),
    }
    ours, theirs = (ort.InferenceSession(path).run(None, inputs)[0] for path in (found, wanted))
    assert np.array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("bias", "more", "biased"),
    [([8], [], True), ([1], [], False), ([3, 8], [], False), ([8], ["p"], False)],
)
def test_a_bias_becomes_part_of_the_product(bias: list[int], more: list[str], biased: bool) -> None:
    """Only a bias per column, and only if the product has no other consumer."""
    random = np.random.default_rng(0)
    weights = {"w": (64, 8), "b": bias}
    data = {name: random.standard_normal(shape, np.float32) for name, shape in weights.items()}
    node, x = helper.make_node, random.standard_normal((3, 64), np.float32)
    graph = helper.make_graph(
        [node("MatMul", ["x", "w"], ["p"], "product"), node("Add", ["b", "p"], ["y"], "sum")],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, 64])],
        [helper.make_tensor_value_info(y, TensorProto.FLOAT, [3, 8]) for y in ("y", *more)],
        [numpy_helper.from_array(values, name) for name, values in data.items()],
    )
    model = ir.from_proto(helper.make_model(graph, ir_version=10))
    model.graph.opset_imports[DOMAIN] = 1
    dynamic.rewrite(model, {"w": integers("w")}, "avx2")
    found = [node.op_type for node in model.graph]
    assert found == (["BiasedIntegerMatMul"] if biased else ["IntegerMatMul", "Add"])
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString())
    assert relative(session.run(["y"], {"x": x})[0], x @ data["w"] + data["b"]) < 0.05


@pytest.mark.parametrize(("bits", "symmetric"), BITS)
def test_blocks_do_not_depend_on_the_slices(
    monkeypatch: pytest.MonkeyPatch, bits: int, symmetric: bool
) -> None:
    values = np.random.default_rng(bits).standard_normal((72, 37), np.float32)
    rule = Rule(match="w", method="nbits", reason="test", bits=bits, symmetric=symmetric)
    matrix = BlockMatrix("w", 72, 37, rule, lambda start, stop: values[:, start:stop])
    whole = matrix.quantize(values)
    for part, data in matrix.quantize(np.asfortranarray(values)).items():
        assert np.array_equal(data, whole[part]), "any order in memory"
    monkeypatch.setattr(weight_stream, "WEIGHTS_PER_SLICE", 5 * 72)
    pieces = list(matrix.pieces())
    assert len(pieces) == 8 * len(whole)
    for part, data in whole.items():
        raw = bytearray(data.nbytes)
        for piece in pieces:
            if piece.name == f"w.{part}":
                raw[piece.offset : piece.offset + piece.data.nbytes] = piece.data.tobytes()
        assert raw == data.tobytes(), part


def test_searched_scales() -> None:
    """The error of each block is at most that of ORT's rounding, for odd row counts too."""
    values = np.random.default_rng(0).standard_normal((72, 37), np.float32)
    values[:32, 5] = 0
    found = blocks.quantize(values, 32)
    packed, scales = np.zeros_like(found["packed"]), np.zeros(37 * 3, np.float32)
    nbits.PACK[4](packed, values, scales, np.zeros((37, 2), np.uint8), 32, 37, 72, True)
    padded = np.pad(values, ((0, 24), (0, 0))).T.reshape(37, 3, 32)

    def errors(packed: np.ndarray, scales: np.ndarray) -> np.ndarray:
        integers = np.stack([packed & 15, packed >> 4], axis=-1).reshape(padded.shape)
        kept = (integers - np.float32(8)) * scales.reshape(37, 3, 1)
        return np.square(kept - padded).sum(axis=2)

    ours, theirs = errors(**found), errors(packed, scales)
    assert (ours <= theirs * 1.0001).all() and ours.sum() < 0.95 * theirs.sum()
    assert ours[5, 0] == 0


def test_a_single_initializer_can_be_evaluated() -> None:
    """A rewritten graph saved with onnx_ir has the same values."""
    values = np.random.default_rng(0).standard_normal((64, 8), np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "product")],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3, 8])],
        [numpy_helper.from_array(values, "w")],
    )
    model = ir.from_proto(helper.make_model(graph))
    rule = Rule(match="w", method="nbits", reason="test", bits=8)
    (matrix,) = nbits.rewrite(model, {"w": rule})
    assert isinstance(matrix, BlockMatrix)
    for part, data in matrix.quantize(values).items():
        tensor = model.graph.initializers[f"w.{part}"].const_value
        assert tensor is not None and np.array_equal(tensor.numpy(), data)


def test_rules_that_differ_in_per_channel(default_twin: Twin) -> None:
    source = default_twin.model.bundle.graph_path("dit")
    first, second, *_ = matrices(source)
    rules = {first: integers(first), second: integers(second, per_channel=False)}
    with pytest.raises(UsageError, match="differ in per_channel"):
        dynamic.rewrite(ir.load(source), rules, "avx2")


def test_product_errors_detect_a_wrong_scale() -> None:
    values = np.random.default_rng(0).standard_normal((64, 96), np.float32)

    def columns(start: int, stop: int) -> np.ndarray:
        return values[:, start:stop]

    block = Rule(match="w", method="nbits", reason="test", bits=4, symmetric=False)
    blocks = BlockMatrix("w", 64, 96, block, columns)
    # 64: larger integers saturate on processors with AVX2 alone, and the error says so.
    whole = dynamic.IntegerMatrix("w", 64, 96, 64, True, columns)
    for matrix, least, name in ((blocks, 0.99, "scales"), (whole, 0.9995, "scale")):
        errors: list[float] = []
        spoils: list[Callable[[np.ndarray], np.ndarray]] = [lambda s: s, half_too_large]
        for spoil in spoils:
            meter = ProductMeter()
            parts = matrix.quantize(values)
            parts[name] = spoil(parts[name])
            meter.on_slice(matrix)(values, parts)
            assert meter.result().of == "products"
            errors.append(meter.result().cosine)
        assert errors[1] < least < errors[0] < 1


def half_too_large(scales: np.ndarray) -> np.ndarray:
    """Every fourth scale is wrong."""
    wrong = scales.copy()
    wrong.reshape(-1)[::4] *= np.float32(1.5)
    return wrong
