"""One graph from its model in memory to its files in the bundle, quantized as a recipe says.

The float32 graph is always written first, into a scratch folder: dynamic quantization starts
from it, and the error of the quantized graph is measured against it.
"""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir

from omni_export import probe
from omni_quantize import dynamic, nbits
from omni_quantize.recipe import Recipe, Rule
from omni_runtime.bundle.config import ModelConfig
from omni_runtime.bundle.contracts import GraphContract
from omni_runtime.bundle.manifest import GraphEntry


@dataclass(frozen=True)
class GraphWriter:
    """Writes graphs into `folder`, using `scratch` meanwhile."""

    folder: Path
    scratch: Path
    recipe: Recipe
    target: str

    def write(
        self, name: str, model: ir.Model, contract: GraphContract, config: ModelConfig
    ) -> GraphEntry:
        """Write, check and measure one graph. `model` is used up."""
        started = time.perf_counter()
        rules = self._rules(name, model)
        methods = {rule.method for rule in rules.values()} - {"none"}
        exact = self._save(model, self.scratch / "fp32" / name)
        final = exact
        if "nbits" in methods:
            nbits.rewrite(model, rules)
            final = self._save(model, self.scratch / "nbits" / name)
        if "dynamic" in methods:
            quantized = self.scratch / "dynamic" / name
            quantized.mkdir(parents=True)
            dynamic.quantize(final, quantized / final.name, rules, self.target)
            final = quantized / final.name
        onnx.checker.check_model(final)
        error = probe.compare(name, exact, final, contract, config) if methods else None
        fp32_bytes = _size(exact.parent)
        shutil.copytree(final.parent, self.folder / "graphs" / name)
        for stage in ("fp32", "nbits", "dynamic"):
            shutil.rmtree(self.scratch / stage / name, ignore_errors=True)
        return GraphEntry(
            file=f"graphs/{name}/{final.name}",
            contract=contract,
            weights=_describe(rules),
            fp32_bytes=fp32_bytes,
            bytes=_size(self.folder / "graphs" / name),
            error=error,
            seconds=time.perf_counter() - started,
        )

    def _rules(self, name: str, model: ir.Model) -> dict[str, Rule]:
        """The rule of each matrix that a MatMul multiplies with."""
        weights = [
            node.inputs[1].name
            for node in model.graph
            if node.op_type == "MatMul" and node.inputs[1] and node.inputs[1].is_initializer()
        ]
        return {weight: self.recipe.rule(name, weight) for weight in weights if weight}

    @staticmethod
    def _save(model: ir.Model, folder: Path) -> Path:
        folder.mkdir(parents=True)
        path = folder / "model.onnx"
        ir.save(model, path, external_data="model.onnx.data")
        return path


def _describe(rules: dict[str, Rule]) -> str:
    """For people: "4 bit, block 32; 8 bit, block 32" or "float32"."""
    kinds: dict[str, None] = {}
    for rule in rules.values():
        if rule.method == "nbits":
            zero = "" if rule.symmetric else ", zero points"
            kinds[f"{rule.bits} bit, block {rule.block}{zero}"] = None
        elif rule.method == "dynamic":
            kinds["int8, dynamic"] = None
    return "; ".join(kinds) or "float32"


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())
