"""One graph from its model in memory to its files in the bundle, quantized as a recipe says.

Weights go from the checkpoint through the recipe's methods into the final file, a slice at a
time; no float32 copy of the graph is made. Only a small graph is also written in float32, into a
scratch folder, so that both can be run on the same inputs; of a larger one every quantized matrix
is tried by itself while it is written.
"""

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir

from omni_export import calibration, external_data, probe
from omni_quantize import dynamic, nbits, static
from omni_quantize.products import ProductMeter
from omni_quantize.recipe import Recipe, Rule
from omni_runtime.arrays import FloatArray
from omni_runtime.bundle.config import ModelConfig
from omni_runtime.bundle.contracts import GraphContract
from omni_runtime.bundle.manifest import GraphEntry
from omni_runtime.engine.session import available_cores
from omni_runtime.errors import UsageError

LARGEST_RUN_TWICE = 2**28
"""Float32 bytes of the largest graph that is run whole beside its float32 twin.

ONNX Runtime needs about twice that for the twin: the file, and the weights as its kernels want
them. A graph with static rules is run whole anyhow, for the ranges of its activations: the vocoder,
which is half a GB at most.
"""

MEL_FRAMES = 200


@dataclass(frozen=True)
class GraphWriter:
    """Writes graphs as `recipe` says for the CPU family `target`, using `scratch` meanwhile."""

    scratch: Path
    recipe: Recipe
    target: str

    def write(
        self,
        folder: Path,
        name: str,
        model: ir.Model,
        rules: dict[str, Rule],
        contract: GraphContract,
        config: ModelConfig,
        mels: Sequence[FloatArray],
        advance: Callable[[int], None],
    ) -> GraphEntry:
        """Write, check and measure one graph below the bundle's `folder`, by its `rules`.

        `model` is used up. `mels`, float32 (frames, mel_dim), are what the vocoder is calibrated
        and tried with. `advance` is told the number of weights written since it was told last.
        Raises UsageError for rules that contradict each other.
        """
        started = time.perf_counter()
        quantized = any(rule.method != "none" for rule in rules.values())
        fixed = [weight for weight, rule in rules.items() if rule.method == "static"]
        weight_bytes = 4 * weights(model)
        twice = quantized and (bool(fixed) or weight_bytes <= LARGEST_RUN_TWICE)
        exact = self._float32(name, model) if twice else None
        weight_streams = [
            *nbits.rewrite(model, rules),
            *dynamic.rewrite(model, rules, self.target),
        ]
        if exact is not None and fixed:
            inputs = (probe.inputs(name, contract, config, mel) for mel in windows(mels))
            ranges = calibration.ranges(exact, fixed, inputs)
            weight_streams += static.rewrite(model, rules, ranges, self.target)
        meter = ProductMeter() if quantized and not twice else None
        final = external_data.save(
            model,
            folder / "graphs" / name,
            weight_streams,
            on_slice=meter and meter.on_slice,
            advance=advance,
            workers=available_cores(),
        )
        onnx.checker.check_model(final)
        error = meter.result() if meter else None
        if exact is not None:
            mel = next(windows(mels), None)
            error = probe.compare(name, exact, final, contract, config, mel)
            shutil.rmtree(exact.parent)
        return GraphEntry(
            file=f"graphs/{name}/{final.name}",
            contract=contract,
            weights=_describe(rules),
            fp32_bytes=weight_bytes + final.stat().st_size,
            bytes=sum(path.stat().st_size for path in final.parent.iterdir()),
            error=error,
            seconds=time.perf_counter() - started,
        )

    def rules(self, name: str, model: ir.Model) -> dict[str, Rule]:
        """The rule of each matrix that a MatMul multiplies with, and of static convolutions.

        Raises UsageError for a static rule that no convolution has.
        """
        found: dict[str, Rule] = {}
        idle = {rule.match for rule in self.recipe.graphs[name] if rule.method == "static"}
        for node in model.graph:
            weight = node.inputs[1] if node.op_type in ("MatMul", "Conv") else None
            if weight is None or weight.name is None or not weight.is_initializer():
                continue
            rule = self.recipe.rule(name, weight.name)
            convolution = node.op_type == "Conv"
            if convolution == (rule.method == "static"):
                idle.discard(rule.match)
                if not convolution or static.wide(weight):
                    found[weight.name] = rule
        if idle:
            raise UsageError(
                f"no convolution of the {name} has the static rule for {', '.join(sorted(idle))}",
                fix="correct the pattern: static is for weights of convolutions",
            )
        return found

    def _float32(self, name: str, model: ir.Model) -> Path:
        folder = self.scratch / name
        folder.mkdir(parents=True)
        path = folder / external_data.GRAPH
        ir.save(model, path, external_data=external_data.DATA)
        return path


def windows(mels: Sequence[FloatArray]) -> Iterator[FloatArray]:
    """What the vocoder runs over at once, which bounds the memory: a stretch of one mel."""
    for mel in mels:
        for start in range(0, len(mel), MEL_FRAMES):
            yield mel[start : start + MEL_FRAMES]


def weights(model: ir.Model) -> int:
    """How many weights a float32 graph has."""
    tensors = [value.const_value for value in model.graph.initializers.values()]
    return sum(tensor.size for tensor in tensors if tensor is not None)


def _describe(rules: dict[str, Rule]) -> str:
    """For people: "4 bit, block 32; 8 bit, block 32" or "float32"."""
    kinds: dict[str, None] = {}
    for rule in rules.values():
        if rule.method == "nbits":
            zero = "" if rule.symmetric else ", zero points"
            kinds[f"{rule.bits} bit, block {rule.block}{zero}"] = None
        elif rule.method == "dynamic":
            kinds["int8, dynamic"] = None
        elif rule.method == "static":
            kinds["int8 convolutions, static"] = None
    return "; ".join(kinds) or "float32"
