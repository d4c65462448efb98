"""The error of each quantized matrix: random rows times the matrix, against float32.

For graphs that are too large to run in float32. Each slice of each matrix is multiplied by the
operator of the bundle, including the quantization of activations. The result does not show how
errors accumulate over layers, nor the effect of real activations, which are not normal.
"""

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from omni_quantize import nbits
from omni_quantize.dynamic import INTEGER_MATMUL, IntegerMatrix, integer_matmul
from omni_quantize.error import ErrorMeter
from omni_quantize.nbits import BlockMatrix
from omni_quantize.operators import MICROSOFT
from omni_quantize.weight_stream import Parts, SliceCallback, WeightStream
from omni_runtime.arrays import FloatArray
from omni_runtime.bundle.contracts import DOMAIN, OPSET
from omni_runtime.bundle.manifest import QuantizationError

ROWS = 16
OPSETS = [helper.make_opsetid(*one) for one in (("", OPSET), (MICROSOFT, 1), (DOMAIN, 1))]
IR_VERSION = 10


class ProductMeter:
    """Accumulates the error of the products of quantized matrices. Thread-safe."""

    def __init__(self) -> None:
        self._meter = ErrorMeter("products")

    def on_slice(self, weight_stream: WeightStream) -> SliceCallback:
        """Return the callback for the weight stream's `pieces`."""
        assert isinstance(weight_stream, BlockMatrix | IntegerMatrix)
        random = np.random.default_rng(0)
        rows = random.standard_normal((ROWS, weight_stream.inner), np.float32)

        def add(values: FloatArray, parts: Parts) -> None:
            if isinstance(weight_stream, BlockMatrix):
                nodes = _block_product(weight_stream, values.shape[1], parts)
            else:
                nodes = _integer_product(parts)
            self._meter.add(rows @ values, _run(nodes, rows, parts, values.shape[1]))

        return add

    def result(self) -> QuantizationError:
        """Return the error over all products."""
        return self._meter.result()


def _block_product(matrix: BlockMatrix, columns: int, parts: Parts) -> list[onnx.NodeProto]:
    attributes: dict[str, Any] = {**nbits.attributes(matrix.inner, columns, matrix.rule)}
    if matrix.levels:
        data = np.array(matrix.levels, np.int8)
        levels = helper.make_node("Constant", [], ["levels"], value=numpy_helper.from_array(data))
        del attributes["bits"], attributes["accuracy_level"]
        inputs = ["rows", *parts, "levels"]
        return [
            levels,
            helper.make_node(nbits.TABLE_MATMUL, inputs, ["product"], domain=DOMAIN, **attributes),
        ]
    inputs = ["rows", *("float_scales" if name == "scales" else name for name in parts)]
    return [
        helper.make_node("Cast", ["scales"], ["float_scales"], to=TensorProto.FLOAT),
        helper.make_node("MatMulNBits", inputs, ["product"], domain=MICROSOFT, **attributes),
    ]


def _integer_product(parts: Parts) -> list[onnx.NodeProto]:
    return [helper.make_node(INTEGER_MATMUL, ["rows", *parts], ["product"], domain=DOMAIN)]


def _run(nodes: list[onnx.NodeProto], rows: FloatArray, parts: Parts, columns: int) -> Any:
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, rows.shape)],
        [helper.make_tensor_value_info("product", TensorProto.FLOAT, [ROWS, columns])],
        [numpy_helper.from_array(np.asarray(data), name) for name, data in parts.items()],
    )
    functions = [ir.to_proto(integer_matmul()), ir.to_proto(nbits.table_matmul())]
    model = helper.make_model(
        graph, opset_imports=OPSETS, ir_version=IR_VERSION, functions=functions
    )
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = 1  # slices run in parallel already
    settings.log_severity_level = 3
    session = ort.InferenceSession(
        model.SerializeToString(), settings, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"rows": rows})[0]
