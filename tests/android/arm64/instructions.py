"""Instructions of our kernels and of ONNX Runtime's own operators, counted by a plugin of qemu."""

import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np
from msgspec.structs import replace
from tests.android.arm64.emulator import Guest
from tests.engine import test_kernels as tests

from omni_export.graphs.vocoder import Activation, anti_aliased_snake
from omni_quantize import nbits, recipe
from omni_quantize.nbits import BlockMatrix
from omni_quantize.recipe import Rule

WITHOUT_KLEIDIAI = {"mlas.disable_kleidiai": "1"}


@dataclass
class Count:
    """Millions of instructions of one evaluation; ONNX Runtime's with and without KleidiAI."""

    name: str
    ours: float
    theirs: float
    without_kleidiai: float


def plugin(folder: Path) -> Path:
    """Compile the plugin."""
    made = folder / "count.so"
    source = Path(__file__).parent / "count.c"
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", made, source], check=True)
    return made


def counts(cpu: str, library: Path) -> Iterator[Count]:
    """Yield the counts of each shape."""
    with tempfile.TemporaryDirectory() as folder, Guest(cpu, plugin=plugin(Path(folder))) as guest:
        table = recipe.load("int4").graphs["thinker"][-1]
        even = Rule(match="w", method="nbits", reason="even levels", bits=4)
        for rule in (table, even, replace(even, bits=8)):
            for rows in (1, 64):
                what = f"{rule.bits} bits{' by table' * bool(rule.levels)}"
                name = f"product 2048 x 11008, {what}, {rows} {'row' if rows == 1 else 'rows'}"
                yield _count(guest, library, name, lambda r=rule, n=rows: _product(r, n))
        yield _count(guest, library, "vocoder's activation, 96 x 4800 samples", _activation)


def _count(guest: Guest, library: Path, name: str, evaluate) -> Count:
    found: list[float] = []

    def by_all(model: bytes, fed: dict[str, np.ndarray]) -> list[np.ndarray]:
        for used, config in ((library, {}), (None, {}), (None, WITHOUT_KLEIDIAI)):
            found.append(guest.instructions(model, fed, used, config=config) / 1e6)
        return []

    nothing = patch.object(tests, "evaluate", lambda *_: [])
    with patch.object(tests, "by_kernels", by_all), nothing:
        evaluate()
    return Count(name, *found)


def _product(rule: Rule, rows: int, inner: int = 2048, outer: int = 11008) -> None:
    random = np.random.default_rng(0)
    values = random.standard_normal((inner, outer)).astype(np.float32)
    matrix = BlockMatrix("w", inner, outer, rule, lambda start, stop: values[:, start:stop])
    x = random.standard_normal((1, rows, inner)).astype(np.float32)
    attributes = nbits.attributes(inner, outer, rule)
    del attributes["accuracy_level"]
    weights, function = matrix.quantize(values), nbits.block_matmul()
    if rule.levels:
        del attributes["bits"]
        weights["levels"] = np.array(rule.levels, np.int8)
        function = nbits.table_matmul()
    tests.both(function, {"rows": x}, weights, **attributes)


def _activation(channels: int = 96, time: int = 4800) -> None:
    random = np.random.default_rng(0)
    filters = Activation(1)
    weights = {
        "alpha": np.ones((channels, 1, 1), np.float32),
        "beta": np.ones((channels, 1, 1), np.float32),
        "up": filters.up.const_value.numpy(),
        "down": filters.down.const_value.numpy(),
    }
    x = random.standard_normal((1, channels, time)).astype(np.float32)
    tests.both(anti_aliased_snake(), {"x": x}, weights)
