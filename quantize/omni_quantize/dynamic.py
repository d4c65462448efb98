"""INT8 for graphs that work on many rows at once: int8 weights, activations quantized on the fly.

Done by optimum's ORTQuantizer with its configuration for the target CPU; the recipe only says
which weights stay as they are.
"""

import contextlib
import logging
import platform
import warnings
from collections.abc import Generator
from pathlib import Path
from typing import Any

import onnx

from omni_quantize.recipe import Rule
from omni_runtime.errors import UsageError

TARGETS = ("native", "avx2", "avx512_vnni", "arm64")


def resolve_target(name: str) -> str:
    """The CPU family that "native" means on this machine; any other name as it is.

    Raises UsageError for an unknown name.
    """
    if name not in TARGETS:
        raise UsageError(f"there is no target {name!r}", fix=f"choose one of {', '.join(TARGETS)}")
    if name != "native":
        return name
    if platform.machine().lower() in ("arm64", "aarch64"):
        return "arm64"
    import torch  # noqa: PLC0415 - only this question needs it

    return "avx512_vnni" if torch.cpu.get_capabilities().get("avx512_vnni") else "avx2"


def quantize(source: Path, destination: Path, rules: dict[str, Rule], target: str) -> None:
    """Write the graph of `source` to `destination` with the matrices of "dynamic" rules in int8.

    `target` is one of TARGETS but "native". All dynamic rules of a graph share `per_channel`.
    """
    from optimum.onnxruntime import ORTQuantizer  # noqa: PLC0415 - takes seconds to import
    from optimum.onnxruntime.configuration import AutoQuantizationConfig  # noqa: PLC0415

    per_channel = {rule.per_channel for rule in rules.values() if rule.method == "dynamic"}
    if len(per_channel) != 1:
        raise UsageError(
            "dynamic rules of one graph differ in per_channel", fix="give them the same value"
        )
    make = {
        "avx2": AutoQuantizationConfig.avx2,
        "avx512_vnni": AutoQuantizationConfig.avx512_vnni,
        "arm64": AutoQuantizationConfig.arm64,
    }[target]
    settings: Any = make(
        is_static=False,
        per_channel=per_channel.pop(),
        operators_to_quantize=["MatMul"],
        nodes_to_exclude=_excluded(source, rules),
    )
    with _quiet():
        quantizer: Any = ORTQuantizer.from_pretrained(source.parent, file_name=source.name)
        quantizer.quantize(
            save_dir=destination.parent,
            quantization_config=settings,
            file_suffix=None,
            use_external_data_format=True,
        )
    produced = destination.parent / source.name
    assert produced.exists(), "ORTQuantizer keeps the name of its source"


def _excluded(path: Path, rules: dict[str, Rule]) -> list[str]:
    """Nodes whose weight another method keeps."""
    graph = onnx.load(path, load_external_data=False).graph
    keep = {name for name, rule in rules.items() if rule.method != "dynamic"}
    return [
        node.name
        for node in graph.node
        if node.op_type == "MatMul" and (node.input[1] in keep or node.input[1] not in rules)
    ]


@contextlib.contextmanager
def _quiet() -> Generator[None]:
    """Hide two remarks that do not apply: no model config beside the graph, no preprocessing."""
    root, optimum = logging.getLogger(), logging.getLogger("optimum")
    levels = root.level, optimum.level
    root.setLevel(logging.ERROR)
    optimum.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.setLevel(levels[0])
        optimum.setLevel(levels[1])
