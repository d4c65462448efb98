"""Calibration: activation ranges of a float32 graph, for weights with static rules.

The reductions are added to the graph, so only the minimum and maximum of each channel are returned
and the memory is that of one run.
"""

from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from omni_export.probe import Arrays
from omni_runtime.arrays import FloatArray
from omni_runtime.engine.session import available_cores

TIME = 2
"""The time axis of (1, channels, time)."""


def ranges(
    path: Path, weights: Collection[str], inputs: Iterable[Arrays]
) -> dict[str, tuple[FloatArray, FloatArray]]:
    """Run the graph in `path` on each of `inputs`, and return the ranges of its activations.

    The result maps the input and output names of the convolutions with one of `weights` to the
    minimum and maximum of each channel, float32 (channels,) each. Ranges always contain 0.
    """
    model = onnx.load(path, load_external_data=False)
    names = _activations(model, weights)
    model.graph.initializer.append(numpy_helper.from_array(np.array([TIME]), "calibration_axis"))
    outputs: list[str] = []
    for name in names:
        for kind in ("ReduceMin", "ReduceMax"):
            outputs.append(f"{name}_{kind}")
            reduced = helper.make_tensor_value_info(outputs[-1], TensorProto.FLOAT, None)
            operands = [name, "calibration_axis"]
            model.graph.node.append(helper.make_node(kind, operands, outputs[-1:], keepdims=0))
            model.graph.output.append(reduced)
    measuring = path.with_name("calibration.onnx")  # in the folder of the weights that it shares
    onnx.save(model, measuring)
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = available_cores()
    settings.log_severity_level = 3
    session = ort.InferenceSession(measuring, settings, providers=["CPUExecutionProvider"])
    lows: dict[str, FloatArray] = {}
    highs: dict[str, FloatArray] = {}
    for feeds in inputs:
        extremes = [np.asarray(value)[0] for value in session.run(outputs, feeds)]
        for name, low, high in zip(names, extremes[::2], extremes[1::2], strict=True):
            lows[name] = np.minimum(lows.get(name, 0), low)
            highs[name] = np.maximum(highs.get(name, 0), high)
    return {name: (lows[name], highs[name]) for name in names}


def _activations(model: onnx.ModelProto, weights: Collection[str]) -> list[str]:
    """Return the inputs and outputs of the convolutions with these weights, without duplicates."""
    found: dict[str, None] = {}
    for node in model.graph.node:
        if node.op_type == "Conv" and node.input[1] in weights:
            found |= {node.input[0]: None, node.output[0]: None}
    return list(found)
