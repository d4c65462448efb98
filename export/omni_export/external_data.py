"""Write the weights of a graph to its external data file, in parallel.

All sizes are known in advance, so each initializer has a fixed offset. Each worker handles one
weight at a time and writes its pieces as they are computed. The memory is one slice per worker.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from threadpoolctl import threadpool_limits

from omni_quantize.weight_stream import PlainTensor, SliceCallback, WeightStream

INLINE = 256
"""Bytes. Smaller tensors stay in the graph file, as ONNX tools expect for scalars and shapes."""

ALIGNMENT = 65536
"""Bytes. Alignment of large tensors: the granularity of memory mapping on all systems."""

ALIGNED = 2**20
"""Bytes. Smaller tensors are not aligned, to save space."""

GRAPH, DATA = "model.onnx", "model.onnx.data"

SliceCallbacks = Callable[[WeightStream], SliceCallback]
"""Returns the callback for the slices of a weight stream."""

Job = tuple[WeightStream, SliceCallbacks | None]


def save(
    model: ir.Model,
    folder: Path,
    weight_streams: Sequence[WeightStream],
    *,
    on_slice: SliceCallbacks | None,
    advance: Callable[[int], None],
    workers: int,
    in_order: bool = False,
) -> Path:
    """Write the model and its weights to `folder`. Return the path of the graph.

    The largest are written first, to balance the `workers`, or `weight_streams` `in_order`.

    `on_slice` returns the callback for each of `weight_streams`. `advance` is called in this thread
    with the number of weights written since its last call. Afterwards the model refers to the file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    streamed = {name for weight_stream in weight_streams for name in weight_stream.names}
    plain: list[WeightStream] = []
    external: list[ir.Value] = []
    inline = 0
    for value in model.graph.initializers.values():
        tensor = value.const_value
        assert tensor is not None
        if value.name not in streamed and tensor.nbytes < INLINE:
            inline += tensor.size
            continue
        external.append(value)
        if value.name not in streamed:
            plain.append(PlainTensor(tensor))
    offsets, total = _offsets(external)
    with (folder / DATA).open("wb") as file:
        file.truncate(total)
    jobs: list[Job] = [(weight_stream, None) for weight_stream in plain]
    jobs += [(weight_stream, on_slice) for weight_stream in weight_streams]
    if not in_order:
        jobs.sort(key=lambda job: -job[0].values)
    _produce(folder / DATA, jobs, offsets, advance, workers)
    for value in external:
        _point_to(value, folder, offsets)
    path = folder / GRAPH
    ir.save(model, path)
    advance(inline)
    return path


def _offsets(values: Sequence[ir.Value]) -> tuple[dict[str, int], int]:
    """Return the offset of each initializer in the file, and the file size."""
    offsets: dict[str, int] = {}
    end = 0
    for value in values:
        assert value.name is not None and value.const_value is not None
        size = value.const_value.nbytes
        step = ALIGNMENT if size >= ALIGNED else 16
        offsets[value.name] = -(-end // step) * step
        end = offsets[value.name] + size
    return offsets, end


def _produce(
    path: Path,
    jobs: Sequence[Job],
    offsets: dict[str, int],
    advance: Callable[[int], None],
    workers: int,
) -> None:
    stop = threading.Event()

    def produce(weight_stream: WeightStream, on_slice: SliceCallbacks | None) -> int:
        with path.open("r+b") as file:
            for piece in weight_stream.pieces(on_slice and on_slice(weight_stream)):
                if stop.is_set():
                    break
                file.seek(offsets[piece.name] + piece.offset)
                file.write(np.ascontiguousarray(piece.data).data)
        return weight_stream.values

    # The workers run in parallel. Threads of numpy and torch below them would wait for each other.
    with (
        threadpool_limits(1, user_api="blas"),
        ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool,
    ):
        try:
            for done in as_completed([pool.submit(produce, *job) for job in jobs]):
                advance(done.result())
        except BaseException:  # on Ctrl-C, do not wait for the remaining weights
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _point_to(value: ir.Value, folder: Path, offsets: dict[str, int]) -> None:
    tensor = value.const_value
    assert tensor is not None and value.name is not None
    value.const_value = ir.ExternalTensor(
        DATA,
        offsets[value.name],
        tensor.nbytes,
        tensor.dtype,
        shape=ir.Shape(tensor.shape.numpy()),
        name=value.name,
        base_dir=folder,
    )
