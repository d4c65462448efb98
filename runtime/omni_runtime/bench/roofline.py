"""Roofline model: operations, bytes read and speed of each graph against the machine's limits.

Operations are counted from ONNX Runtime's profile of one run: matrix products, convolutions and
attention, without elementwise operators. Bytes are the weights, once per run, and the KV cache;
activations are assumed to stay in the CPU caches.
"""

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from omni_runtime.bench import components
from omni_runtime.bench.probes import Limits
from omni_runtime.bench.rows import ProgressCallback, Quantity, Row, seconds
from omni_runtime.bundle.config import DecoderConfig
from omni_runtime.engine.kv_cache import KVCache
from omni_runtime.engine.session import Graph, SessionOptions
from omni_runtime.model import Model

INTEGER = (
    "BlockMatMul",
    "IntegerMatMul",
    "BiasedIntegerMatMul",
    "MatMulNBits",
    "DynamicQuantizeMatMul",
    "MatMulIntegerToFloat",
    "MatMulInteger",
)
PRODUCTS = (*INTEGER, "MatMul", "FusedMatMul", "Gemm")
INTEGER_CONVOLUTIONS = ("QLinearConv", "ConvInteger")
CONVOLUTIONS = (*INTEGER_CONVOLUTIONS, "Conv", "FusedConv", "NhwcFusedConv")
KERNEL_OVER_STRIDE = 2
"""Kernel size over stride of BigVGAN's transposed convolutions; the profile lacks weights."""


@dataclass(frozen=True)
class Task:
    """A measurement of one graph. `act` prepares its inputs and returns the function to time.

    `context` is the average context length of the attention, for a decoder.
    """

    name: str
    graph: str
    needs: str
    act: Callable[[Model], Callable[[], object]]
    context: int = 0


@dataclass(frozen=True)
class Load:
    """Operations, bytes and time of a task. `integer`: share of `flops` in int8 or int4."""

    name: str
    flops: float
    integer: float
    bytes: float
    seconds: float

    @property
    def intensity(self) -> float:
        """Operations per byte."""
        return self.flops / self.bytes

    @property
    def speed(self) -> float:
        """Operations per second."""
        return self.flops / self.seconds

    def utilization(self, limits: Limits) -> float:
        """Return the speed over the limit of the machine at this intensity."""
        peak = limits.int8 if self.integer > 0.5 else limits.fp32
        return self.speed / min(peak, self.intensity * limits.bandwidth)


class ProfiledModel(Model):
    """A model whose graphs write ONNX Runtime's profile. `opened` holds the open graphs."""

    def __init__(self, folder: Path, options: SessionOptions) -> None:
        super().__init__(folder, options)
        self.opened: dict[str, Graph] = {}

    def graph(self, graph: str) -> Graph:
        """Open one graph and add it to `opened`."""
        self.opened[graph] = super().graph(graph)
        return self.opened[graph]


def tasks(model: Model) -> list[Task]:
    """Return the tasks that this bundle supports."""
    limit = model.config.thinker.decoder.max_context
    prompt, steps = min(components.PROMPT, limit), min(components.STEPS, limit)
    candidates = [
        Task(f"prefill {prompt}", "thinker", "", _prefill(prompt), prompt // 2),
        Task(f"decode {steps}", "thinker", "", _decode(steps), steps // 2),
        Task("audio encoder", "audio_encoder", "audio", _audio),
        Task("image 1 MP", "vision_encoder", "vision", _image),
        Task("talker", "talker", "speech", _talker, components.CODES // 2),
        Task("DiT", "dit", "speech", lambda model: components.dit_evaluation(model).run),
        Task("vocoder", "vocoder", "speech", _vocoder),
    ]
    return [task for task in candidates if not task.needs or getattr(model.config, task.needs)]


def _prefill(count: int) -> Callable[[Model], Callable[[], object]]:
    def act(model: Model) -> Callable[[], object]:
        runner = components.ThinkerRunner(model)
        return lambda: runner.prefill(count)

    return act


def _decode(count: int) -> Callable[[Model], Callable[[], object]]:
    def act(model: Model) -> Callable[[], object]:
        runner = components.ThinkerRunner(model)
        return lambda: runner.decode(count)

    return act


def _audio(model: Model) -> Callable[[], object]:
    mel = components.mel_of_audio(model)
    return lambda: model.audio_encoder.encode(mel)


def _image(model: Model) -> Callable[[], object]:
    patches = components.patches_of_image(model, components.IMAGES["1 MP"])
    return lambda: model.vision_encoder.encode(patches)


def _talker(model: Model) -> Callable[[], object]:
    (work,) = components.talker(model)
    return work.run


def _vocoder(model: Model) -> Callable[[], object]:
    speech = model.speech
    mel = components.random_mel(speech, components.COMMIT_BLOCKS * speech.dit.block_frames)
    return lambda: model.vocoder.synthesize(mel, 0, 0)


def measure(model: Model, repetitions: int, loads: list[Load], progress: ProgressCallback) -> None:
    """Time each task on `model`, count its operations in a profile, and append it to `loads`."""
    for task in tasks(model):
        progress(task.name)
        act = task.act(model)
        act()
        elapsed = min(seconds(act) for _ in range(repetitions))
        loads.append(_profile(model, task, elapsed))


def _profile(model: Model, task: Task, elapsed: float) -> Load:
    with TemporaryDirectory(prefix="omni-bench-") as folder:
        options = replace(model.options, profile=Path(folder) / "profile")
        profiled = ProfiledModel(model.bundle.folder, options)
        task.act(profiled)()
        events = json.loads(
            Path(profiled.opened[task.graph].session.end_profiling()).read_text("utf-8")
        )
    runs = sum(event["name"] == "model_run" for event in events)
    flops, integer = count(events, task.context)
    weights = model.bundle.manifest.graphs[task.graph].bytes
    read = runs * (weights + _cache_bytes(model, task))
    return Load(task.name, flops, integer / flops, read, elapsed)


def _cache_bytes(model: Model, task: Task) -> float:
    """Return the bytes of the KV cache that attention reads in one run."""
    decoders: dict[str, DecoderConfig] = {"thinker": model.config.thinker.decoder}
    if model.config.speech is not None:
        decoders["talker"] = model.config.speech.talker.decoder
    if (config := decoders.get(task.graph)) is None:
        return 0
    return KVCache.state_bytes(config, task.context, model.options.kv_cache)


def count(events: Iterable[dict[str, Any]], context: int) -> tuple[float, float]:
    """Return the operations in a profile: all, and integer ones. A multiply-add counts as two."""
    total = integer = 0.0
    for event in events:
        operator = event.get("args", {}).get("op_name", "")
        if event["cat"] != "Node" or not operator:
            continue
        flops = _flops(operator, _shapes(event, "input"), _shapes(event, "output"), context)
        total += flops
        if operator in INTEGER or operator in INTEGER_CONVOLUTIONS:
            integer += flops
    return total, integer


def _shapes(event: dict[str, Any], side: str) -> list[list[int]]:
    return [next(iter(shape.values())) for shape in event["args"].get(f"{side}_type_shape", [])]


def _flops(operator: str, ins: list[list[int]], outs: list[list[int]], context: int) -> float:
    if operator in PRODUCTS:
        return 2.0 * math.prod(outs[0]) * ins[0][-1]
    if operator in CONVOLUTIONS:
        # A quantized convolution has its scale and zero point between input and weights.
        weights = next(shape for shape in ins[1:] if len(shape) > 1)
        return 2.0 * math.prod(outs[0]) * math.prod(weights[1:])
    if operator == "ConvTranspose":
        return 2.0 * math.prod(outs[0]) * ins[0][1] * KERNEL_OVER_STRIDE
    if operator == "MultiHeadAttention":
        return 4.0 * math.prod(ins[0]) * ins[1][1]
    if operator in ("CachedAttention", "GroupQueryAttention"):
        return 4.0 * math.prod(outs[0]) * context
    return 0.0


def rows(loads: Iterable[Load], limits: Limits) -> list[Row]:
    """Return the limits and loads as rows of a table."""
    found = [
        Row(
            Quantity("memory read", "GB/s", True, "limit of this machine"), [limits.bandwidth / 1e9]
        ),
        Row(Quantity("fp32 peak", "GFLOP/s", True, "limit"), [limits.fp32 / 1e9]),
        Row(Quantity("int8 peak", "GOP/s", True, "limit"), [limits.int8 / 1e9]),
    ]
    for load in loads:
        note = f"{load.flops / 1e9:.3g} GFLOP, {load.intensity:.3g} per byte, "
        note += f"{load.integer:.0%} integer, {load.utilization(limits):.0%} of the limit"
        found.append(Row(Quantity(load.name, "GFLOP/s", True, note), [load.speed / 1e9]))
    return found
