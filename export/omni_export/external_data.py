"""The weights of one graph into its data file, each straight to its place, several at a time.

Sizes are known before anything is read, so every initializer has its place from the start. Each
worker takes one weight after the other and writes its pieces as they are made; in memory are as
many slices as there are workers.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch

from omni_quantize.weight_stream import PlainTensor, SliceCallback, WeightStream

INLINE = 256
"""Smaller tensors stay in the graph's own file, as ONNX tools expect of scalars and shapes."""

ALIGNMENT = 65536
"""Of places in the file: what a mapping may begin at, on any system."""

ALIGNED = 2**20
"""Tensors from this size on are aligned; smaller ones would waste space."""

GRAPH, DATA = "model.onnx", "model.onnx.data"

SliceCallbacks = Callable[[WeightStream], SliceCallback]
"""Gives each weight stream the callback for its slices."""

Job = tuple[WeightStream, SliceCallbacks | None]


def save(
    model: ir.Model,
    folder: Path,
    weight_streams: Sequence[WeightStream],
    *,
    on_slice: SliceCallbacks | None,
    advance: Callable[[int], None],
    workers: int,
) -> Path:
    """Write the model below `folder`, its weights beside it; returns the graph's file.

    `on_slice` gives the callback for each of `weight_streams`. `advance` is called, in this thread,
    with the number of weights written since its last call. The model then points to the file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    taken = {name for weight_stream in weight_streams for name in weight_stream.names}
    plain: list[WeightStream] = []
    external: list[ir.Value] = []
    inline = 0
    for value in model.graph.initializers.values():
        tensor = value.const_value
        assert tensor is not None
        if value.name not in taken and tensor.nbytes < INLINE:
            inline += tensor.size
            continue
        external.append(value)
        if value.name not in taken:
            plain.append(PlainTensor(tensor))
    places, total = _places(external)
    with (folder / DATA).open("wb") as file:
        file.truncate(total)
    jobs: list[Job] = [(weight_stream, None) for weight_stream in plain]
    jobs += [(weight_stream, on_slice) for weight_stream in weight_streams]
    jobs.sort(key=lambda job: -job[0].values)  # the largest last would leave the others idle
    _produce(folder / DATA, jobs, places, advance, workers)
    for value in external:
        _point_to(value, folder, places)
    path = folder / GRAPH
    ir.save(model, path)
    advance(inline)
    return path


def _places(values: Sequence[ir.Value]) -> tuple[dict[str, int], int]:
    """Where in the file each initializer begins, and how long the file is."""
    places: dict[str, int] = {}
    end = 0
    for value in values:
        assert value.name is not None and value.const_value is not None
        size = value.const_value.nbytes
        step = ALIGNMENT if size >= ALIGNED else 16
        places[value.name] = -(-end // step) * step
        end = places[value.name] + size
    return places, end


def _produce(
    path: Path,
    jobs: Sequence[Job],
    places: dict[str, int],
    advance: Callable[[int], None],
    workers: int,
) -> None:
    stop = threading.Event()

    def produce(weight_stream: WeightStream, on_slice: SliceCallbacks | None) -> int:
        with path.open("r+b") as file:
            for piece in weight_stream.pieces(on_slice and on_slice(weight_stream)):
                if stop.is_set():
                    break
                file.seek(places[piece.name] + piece.offset)
                file.write(np.ascontiguousarray(piece.data).data)
        return weight_stream.values

    # The workers are the parallelism: torch's own threads would only get in their way.
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            for done in as_completed([pool.submit(produce, *job) for job in jobs]):
                advance(done.result())
        except BaseException:  # Ctrl-C too must not wait for the rest of the weights
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _point_to(value: ir.Value, folder: Path, places: dict[str, int]) -> None:
    tensor = value.const_value
    assert tensor is not None and value.name is not None
    value.const_value = ir.ExternalTensor(
        DATA,
        places[value.name],
        tensor.nbytes,
        tensor.dtype,
        shape=ir.Shape(tensor.shape.numpy()),
        name=value.name,
        base_dir=folder,
    )
