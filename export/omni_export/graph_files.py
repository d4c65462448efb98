"""Quantize a graph as the recipe says, and write it to the bundle.

Weights are read from the checkpoint, quantized and written one slice at a time, without a float32
copy of the graph. A small graph is also written in float32 to a scratch folder, to compare the
outputs of both. For a large graph the error of each quantized matrix is measured while it is
written.
"""

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir

from omni_export import calibration, external_data, probe
from omni_quantize import dynamic, imported, nbits, static
from omni_quantize.products import ProductMeter
from omni_quantize.recipe import Recipe, Rule, layers_in
from omni_runtime.arrays import FloatArray
from omni_runtime.bundle.config import ModelConfig
from omni_runtime.bundle.contracts import GraphContract
from omni_runtime.bundle.manifest import GraphEntry
from omni_runtime.engine.session import available_cores
from omni_runtime.errors import UsageError

MAX_COMPARED_BYTES = 2**28
"""Float32 bytes of the largest graph that is run in float32, to compare outputs.

ONNX Runtime needs about twice that: the file, and the prepacked weights. A graph with static
rules is always run in float32, for calibration. That is the vocoder, at most half a GB.
"""

MEL_FRAMES = 200


@dataclass(frozen=True)
class GraphWriter:
    """Writes graphs by `recipe` for the CPU family `target`. `scratch` holds temporary files.

    The Thinker's 4-bit blocks are fitted to its activations on the text `calibration`, if any.
    """

    scratch: Path
    recipe: Recipe
    target: str
    calibration: str = ""

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
        measure: nbits.Measure | None = None,
    ) -> GraphEntry:
        """Quantize a graph by its `rules`, write it below the bundle `folder`, measure its error.

        `model` cannot be used afterwards. `mels`, float32 (frames, mel_dim), calibrate and test the
        vocoder. `measure` gives the moments of inputs (`second_moments`). `advance` receives
        the number of weights written since its last call. Raises UsageError for contradictory
        rules.
        """
        started = time.perf_counter()
        quantized = any(rule.method != "none" for rule in rules.values())
        fixed = [weight for weight, rule in rules.items() if rule.method == "static"]
        weight_bytes = 4 * weights(model)
        compared = quantized and (bool(fixed) or weight_bytes <= MAX_COMPARED_BYTES)
        exact = self._float32(name, model) if compared else None
        weight_streams = [
            *imported.rewrite(model, rules),
            *nbits.rewrite(model, rules, measure),
            *dynamic.rewrite(model, rules, self.target),
        ]
        if exact is not None and fixed:
            inputs = (probe.inputs(name, contract, config, mel) for mel in windows(mels))
            ranges = calibration.ranges(exact, fixed, inputs)
            weight_streams += static.rewrite(model, rules, ranges, self.target)
        meter = ProductMeter() if quantized and not compared else None
        final = external_data.save(
            model,
            folder / "graphs" / name,
            weight_streams,
            on_slice=meter and meter.on_slice,
            advance=advance,
            workers=available_cores(),
            in_order=measure is not None,
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
        """Return the rule of each weight of a MatMul, and of each convolution with a static rule.

        Raises UsageError for a static rule that matches no convolution.
        """
        rules: dict[str, Rule] = {}
        unmatched = {rule.match for rule in self.recipe.graphs[name] if rule.method == "static"}
        layers = layers_in(model.graph.initializers)
        for node in model.graph:
            weight = node.inputs[1] if node.op_type in ("MatMul", "Conv") else None
            if weight is None or weight.name is None or not weight.is_initializer():
                continue
            rule = self.recipe.rule(name, weight.name, layers)
            if (packed := imported.packed_of(weight)) is not None and rule.method != "none":
                rules[weight.name] = imported.rule_of(weight.name, packed)
                continue
            convolution = node.op_type == "Conv"
            if convolution == (rule.method == "static"):
                unmatched.discard(rule.match)
                if not convolution or static.wide(weight):
                    rules[weight.name] = rule
        if unmatched:
            raise UsageError(
                f"no convolution of the {name} matches the static rule "
                f"for {', '.join(sorted(unmatched))}",
                fix="correct the pattern: static rules are for weights of convolutions",
            )
        return rules

    def _float32(self, name: str, model: ir.Model) -> Path:
        folder = self.scratch / name
        folder.mkdir(parents=True)
        path = folder / external_data.GRAPH
        ir.save(model, path, external_data=external_data.DATA)
        return path


def windows(mels: Sequence[FloatArray]) -> Iterator[FloatArray]:
    """Yield windows of MEL_FRAMES frames, float32 (frames, mel_dim), to bound the memory."""
    for mel in mels:
        for start in range(0, len(mel), MEL_FRAMES):
            yield mel[start : start + MEL_FRAMES]


def weights(model: ir.Model) -> int:
    """Return the number of weights of a float32 graph."""
    tensors = [value.const_value for value in model.graph.initializers.values()]
    return sum(tensor.size for tensor in tensors if tensor is not None)


def _describe(rules: dict[str, Rule]) -> str:
    """Format rules, for example "4 bit, block 32; 8 bit, block 32" or "float32"."""
    formats: dict[str, None] = {}
    for rule in rules.values():
        if rule.method == "nbits":
            zero = "" if rule.symmetric else ", zero points"
            formats[f"{rule.bits} bit, block {rule.block}{zero}"] = None
        elif rule.method == "dynamic":
            formats["int8, dynamic"] = None
        elif rule.method == "static":
            formats["int8 convolutions, static"] = None
    return "; ".join(formats) or "float32"
