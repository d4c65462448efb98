"""Limits of this machine: memory read bandwidth, fp32 and int8 arithmetic.

Arithmetic is measured with ONNX Runtime on graphs of one large matrix product. They are serialized
here, since the runtime does not depend on the onnx package. Bandwidth is measured with numpy: each
thread sums a slice of an array larger than the CPU caches. The best of several runs is the limit.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from omni_runtime.bench.rows import seconds

SQUARE = 1536
READ_BYTES = 2**29
"""Larger than any CPU cache."""
RUNS = 8

FLOAT, UINT8, INT8, INT32 = 1, 2, 3, 6
"""onnx.TensorProto.DataType."""
OPSET = 13
IR_VERSION = 8


@dataclass(frozen=True)
class Limits:
    """`bandwidth` in bytes/s read from memory; `fp32` and `int8` in operations/s."""

    bandwidth: float
    fp32: float
    int8: float

    def best_of(self, other: "Limits") -> "Limits":
        """Return the higher of two measurements of each limit."""
        return Limits(
            max(self.bandwidth, other.bandwidth),
            max(self.fp32, other.fp32),
            max(self.int8, other.int8),
        )


def limits(threads: int) -> Limits:
    """Measure this machine with `threads` threads."""
    random = np.random.default_rng(0)
    a = random.standard_normal((SQUARE, SQUARE), np.float32)
    small = random.integers(0, 127, (SQUARE, SQUARE), np.uint8)
    fp32 = _multiply(product("MatMul", FLOAT, FLOAT, FLOAT), a, a, threads)
    integer = product("MatMulInteger", UINT8, INT8, INT32)
    int8 = _multiply(integer, small, small.astype(np.int8), threads)
    work = 2 * SQUARE**3
    return Limits(READ_BYTES / _read(threads), work / fp32, work / int8)


def product(operator: str, left: int, right: int, out: int) -> bytes:
    """Return a serialized ONNX model y = operator(a, b) for matrices of any size."""
    node = _field(1, b"a") + _field(1, b"b") + _field(2, b"y") + _field(4, operator.encode())
    graph = _field(1, node) + _field(2, b"product")
    for tag, name, kind in ((11, b"a", left), (11, b"b", right), (12, b"y", out)):
        sides = b"".join(_field(1, _field(2, name + bytes([48 + side]))) for side in range(2))
        tensor = _number(1, kind) + _field(2, sides)
        graph += _field(tag, _field(1, name) + _field(2, _field(1, tensor)))
    return _number(1, IR_VERSION) + _field(7, graph) + _field(8, _number(2, OPSET))


def _multiply(graph: bytes, a: npt.NDArray[Any], b: npt.NDArray[Any], threads: int) -> float:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def multiply() -> None:
        session.run(None, {"a": a, "b": b})

    return min(seconds(multiply) for _ in range(RUNS))


def _read(threads: int) -> float:
    slices = np.array_split(np.ones(READ_BYTES // 4, np.float32), threads)
    with ThreadPoolExecutor(threads) as pool:
        return min(seconds(lambda: list(pool.map(np.sum, slices))) for _ in range(RUNS))


def _number(tag: int, value: int) -> bytes:
    """Encode a protobuf field with a value below 128."""
    return bytes([tag << 3, value])


def _field(tag: int, content: bytes) -> bytes:
    """Encode a protobuf field with bytes, a string or a message."""
    length, size = len(content), b""
    while length >= 128:
        size += bytes([length & 127 | 128])
        length >>= 7
    return bytes([tag << 3 | 2]) + size + bytes([length]) + content
