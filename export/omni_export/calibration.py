"""What the activations of a float32 graph reach, for weights with static rules.

The graph itself reduces them: of a tensor nothing but the least and the largest value of each
channel comes out, so that memory stays that of one run.
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
"""The axis of time in (1, channels, time)."""


def ranges(
    path: Path, weights: Collection[str], inputs: Iterable[Arrays]
) -> dict[str, tuple[FloatArray, FloatArray]]:
    """Run the graph in `path` on each of `inputs`, one after the other.

    For the input and the output of each convolution with one of `weights`, by name: the least and
    the largest value of each channel, float32 (channels,) each. 0 is always within.
    """
    model = onnx.load(path, load_external_data=False)
    names = _beside(model, weights)
    model.graph.initializer.append(numpy_helper.from_array(np.array([TIME]), "calibration_axis"))
    outputs: list[str] = []
    for name in names:
        for kind in ("ReduceMin", "ReduceMax"):
            outputs.append(f"{name}_{kind}")
            reduced = helper.make_tensor_value_info(outputs[-1], TensorProto.FLOAT, None)
            feeds = [name, "calibration_axis"]
            model.graph.node.append(helper.make_node(kind, feeds, outputs[-1:], keepdims=0))
            model.graph.output.append(reduced)
    measuring = path.with_name("calibration.onnx")  # beside the weights that it shares
    onnx.save(model, measuring)
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = available_cores()
    settings.log_severity_level = 3
    session = ort.InferenceSession(measuring, settings, providers=["CPUExecutionProvider"])
    lows: dict[str, FloatArray] = {}
    highs: dict[str, FloatArray] = {}
    for fed in inputs:
        seen = [np.asarray(value)[0] for value in session.run(outputs, fed)]
        for name, low, high in zip(names, seen[::2], seen[1::2], strict=True):
            lows[name] = np.minimum(lows.get(name, 0), low)
            highs[name] = np.maximum(highs.get(name, 0), high)
    return {name: (lows[name], highs[name]) for name in names}


def _beside(model: onnx.ModelProto, weights: Collection[str]) -> list[str]:
    """Inputs and outputs of the convolutions with these weights, each once."""
    found: dict[str, None] = {}
    for node in model.graph.node:
        if node.op_type == "Conv" and node.input[1] in weights:
            found |= {node.input[0]: None, node.output[0]: None}
    return list(found)
