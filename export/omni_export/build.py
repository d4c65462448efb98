"""Trace a network into an ONNX model. Weights are read when the model is written."""

from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript import GraphBuilder

from omni_export.checkpoint import Checkpoint
from omni_export.graphs.layers import Matrix, Weight
from omni_export.networks import Network
from omni_export.packed import joined
from omni_export.weight_files import TensorHandle
from omni_quantize.imported import set_packed
from omni_quantize.operators import MICROSOFT
from omni_quantize.weight_stream import set_columns
from omni_runtime.arrays import FloatArray
from omni_runtime.bundle.contracts import DOMAIN, OPSET, GraphContract, TensorSpec

IR_VERSION = 11


def build(network: Network, contract: GraphContract, checkpoint: Checkpoint) -> ir.Model:
    """Trace the network and bind its parameters to the tensors of the checkpoint.

    Raises OmniError if a tensor is missing or has a shape that the network does not expect.
    """
    graph = ir.Graph(
        inputs=[],
        outputs=[],
        nodes=[],
        name=network.name,
        opset_imports={"": OPSET, MICROSOFT: 1, DOMAIN: 1},
    )
    builder = GraphBuilder(graph)
    inputs = [
        builder.input(spec.name, ir.DataType[_DTYPES[spec.dtype]], list(spec.shape))
        for spec in contract.inputs
    ]
    for path, parameter in network.module.named_parameters():
        if isinstance(parameter, Weight):
            _bind(parameter, path, network, checkpoint)
    result: Any = network.module(builder.op, *inputs)
    outputs = list(result) if isinstance(result, list | tuple) else [result]
    for value, spec in zip(outputs, contract.outputs, strict=True):
        _name_output(builder, value, spec)
    return ir.Model(
        graph,
        ir_version=IR_VERSION,
        producer_name="pocket-omni",
        functions=list(builder.functions.values()),
    )


_DTYPES = {"float32": "FLOAT", "int64": "INT64", "int32": "INT32"}


def _name_output(builder: GraphBuilder, value: ir.Value, spec: TensorSpec) -> None:
    value.type = ir.TensorType(ir.DataType[_DTYPES[spec.dtype]])
    value.shape = ir.Shape(list(spec.shape))
    builder.add_output(value, spec.name)


def _bind(parameter: Weight, path: str, network: Network, checkpoint: Checkpoint) -> None:
    names = [network.prefix + name for name in parameter.sources(path)]
    handles = [
        checkpoint.claim(network.aliases.get(name, name), shape, network.part)
        for name, shape in zip(names, parameter.source_shapes, strict=True)
    ]
    shape = parameter.built_shape
    tensor = ir.LazyTensor(
        lambda: ir.tensor(_make(parameter, handles, shape)),
        dtype=ir.DataType.FLOAT,
        shape=ir.Shape(shape),
        name=path,
    )
    if isinstance(parameter, Matrix):
        rows = [handle.rows for handle in handles]
        set_columns(tensor, lambda start, stop: parameter.columns(rows, start, stop))
        if (quantized := joined(handles)) is not None:
            set_packed(tensor, quantized)
    parameter.const_value = tensor


def _make(parameter: Weight, handles: list[TensorHandle], shape: tuple[int, ...]) -> FloatArray:
    array = np.ascontiguousarray(parameter.build([handle.read() for handle in handles]))
    assert array.shape == shape, (array.shape, shape)
    return array
