"""Runs every kernel on hostile attributes, shapes and lengths: an error is right, a signal is not.

    python -m tests.trust.kernels --runs 20000 [--seed N] [--sanitize]

`--sanitize` compiles the kernels with AddressSanitizer and UndefinedBehaviorSanitizer first.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from onnx import TensorProto as T
from onnx import helper

from omni_runtime import processor_features
from omni_runtime.engine import kernels

# isort: split
import onnxruntime as ort  # after omni_runtime, which turns its telemetry off

NUMPY = {T.FLOAT: np.float32, T.UINT8: np.uint8, T.INT8: np.int8, T.INT32: np.int32,
         T.FLOAT16: np.float16}  # fmt: skip
EXTREME = (-(2**31), -7, -1, 0, 1, 2, 3, 31, 33, 1000, 2**20, 2**31 - 1, 2**33)
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-g", "-O1")


@dataclass
class Call:
    """One call of a kernel: attributes, and for each input a type and a shape, or a number."""

    name: str
    attributes: dict[str, int]
    inputs: list[tuple[int, list[int]]]
    outputs: list[int]
    numbers: dict[int, int] = field(default_factory=dict[int, int])


def block_matmul(r: random.Random) -> Call:
    bits, block = r.choice((4, 8)), r.choice((32, 64, 128, 256))
    inner, outer, rows = block * r.randint(1, 17), r.randint(1, 70), r.choice((0, 1, 2, 5, 12, 33))
    attributes = {"K": inner, "N": outer, "bits": bits, "block_size": block}
    blocks = inner // block
    packed = [outer, blocks, block * bits // 8]
    inputs = [(T.FLOAT, [1, rows, inner]), (T.UINT8, packed), (T.FLOAT16, [outer, blocks])]
    return Call("BlockMatMul", attributes, inputs, [T.FLOAT])


def table_matmul(r: random.Random) -> Call:
    call = block_matmul(r)
    bits = call.attributes.pop("bits")
    call.inputs[1][1][2] = call.inputs[1][1][2] * 4 // bits  # the packed weights
    return Call("TableMatMul", call.attributes, [*call.inputs, (T.INT8, [16])], [T.FLOAT])


def attention(r: random.Random) -> Call:
    scaled = r.random() < 0.5
    kv, groups, width = r.randint(1, 3), r.randint(1, 4), 2 * r.randint(1, 20)
    capacity, rows = r.randint(1, 64), r.choice((1, 2, 9))
    capacity = max(capacity, rows)
    total = r.randint(rows, capacity)
    kind = T.INT8 if scaled else T.FLOAT
    cache = [1, kv, capacity, width]
    inputs = [(T.FLOAT, [1, rows, (kv * groups + 2 * kv) * width]), (kind, cache), (kind, cache),
              (T.INT32, [1]), (T.INT32, []), (T.FLOAT, [capacity, width // 2]),
              (T.FLOAT, [capacity, width // 2])]  # fmt: skip
    if scaled:
        inputs += [(T.FLOAT, [1, kv, 1, width])] * 2
    name = "Int8CachedAttention" if scaled else "CachedAttention"
    attributes = {"num_heads": kv * groups, "kv_num_heads": kv}
    return Call(name, attributes, inputs, [T.FLOAT, kind, kind], {3: total - 1, 4: total})


def snake(r: random.Random) -> Call:
    channels, time = r.randint(1, 5), r.choice((1, 2, 3, 11, 512, 515))
    vector = [channels, 1, 1]
    inputs = [(T.FLOAT, [1, channels, time]), (T.FLOAT, vector), (T.FLOAT, vector),
              (T.FLOAT, [2, 1, 7]), (T.FLOAT, [1, 2, 7])]  # fmt: skip
    return Call("AntiAliasedSnake", {}, inputs, [T.FLOAT])


def integer_matmul(r: random.Random) -> Call:
    inner, outer, rows = r.randint(1, 130), r.randint(1, 70), r.choice((0, 1, 2, 7, 20))
    scale = [] if r.random() < 0.5 else [outer]
    inputs = [(T.FLOAT, [1, rows, inner]), (T.INT8, [inner, outer]), (T.FLOAT, scale),
              (T.INT8, scale)]  # fmt: skip
    if r.random() < 0.5:
        return Call("BiasedIntegerMatMul", {}, [*inputs, (T.FLOAT, [outer])], [T.FLOAT])
    return Call("IntegerMatMul", {}, inputs, [T.FLOAT])


KERNELS: tuple[Callable[[random.Random], Call], ...] = (
    block_matmul, table_matmul, attention, snake, integer_matmul,
)  # fmt: skip


def spoil(call: Call, r: random.Random) -> None:
    """Change one to three attributes, dimensions, ranks or numbers."""
    for _ in range(r.randint(1, 3)):
        kind = r.random()
        if kind < 0.35 and call.attributes:
            call.attributes[r.choice([*call.attributes])] = r.choice(EXTREME)
        elif kind < 0.5 and call.numbers:
            call.numbers[r.choice([*call.numbers])] = r.choice(EXTREME[:-1])
        else:
            index = r.randrange(len(call.inputs))
            element, shape = call.inputs[index]
            shape = [*shape]
            if shape and r.random() < 0.8:
                where = r.randrange(len(shape))
                shape[where] = max(0, r.choice((0, 1, 2, shape[where] - 1, shape[where] + 1, 66)))
            elif shape and r.random() < 0.5:
                shape.pop()
            else:
                shape.append(r.choice((0, 1, 2)))
            call.inputs[index] = (element, shape)


Evaluate = Callable[[bytes, dict[str, np.ndarray], Path], object]


def evaluate(model: bytes, fed: dict[str, np.ndarray], library: Path) -> None:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 2, 4
    options.register_custom_ops_library(str(library))
    ort.InferenceSession(model, options).run(None, fed)


def run(call: Call, library: Path, by: Evaluate = evaluate) -> str:
    """Return "ran" or "refused". Raises EOFError when the process of `by` ended."""
    names = [f"x{i}" for i in range(len(call.inputs))]
    inputs = [
        helper.make_tensor_value_info(name, element, [None] * len(shape))
        for name, (element, shape) in zip(names, call.inputs, strict=True)
    ]
    outputs = [
        helper.make_tensor_value_info(f"y{i}", element, None)
        for i, element in enumerate(call.outputs)
    ]
    node = helper.make_node(
        call.name, names, [o.name for o in outputs], domain="pocket_omni", **call.attributes
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("pocket_omni", 1)]
    model = helper.make_model(
        helper.make_graph([node], "one", inputs, outputs), opset_imports=opsets, ir_version=10
    )
    rng = np.random.default_rng(0)
    fed = {}
    for index, (name, (element, shape)) in enumerate(zip(names, call.inputs, strict=True)):
        data = rng.integers(-8, 8, shape) if element != T.UINT8 else rng.integers(0, 255, shape)
        if index in call.numbers:
            data = np.full(shape, call.numbers[index])
        fed[name] = np.asarray(data).astype(NUMPY[element])
    try:
        by(model.SerializeToString(), fed, library)
    except EOFError:
        raise
    except Exception as error:
        if "std::" in str(error):
            raise
        return "refused"
    return "ran"


def compiled_in(vnni: bool) -> tuple[Callable[[random.Random], Call], ...]:
    """The kernels of a library: only AVX2 without VNNI has one for integers."""
    features = processor_features.detect()
    if not features & {"avx2", "asimd"}:
        return (snake,)
    integers = "avx2" in features and not vnni
    return tuple(one for one in KERNELS if integers or one is not integer_matmul)


def hostile(
    runs: int, seed: int, library: Path, *, vnni: bool, by: Evaluate = evaluate
) -> Counter[str]:
    """Run that many calls, a tenth of them valid; the last one is in the file of its recipe."""
    recipe = Path(tempfile.gettempdir()) / f"omni-kernels-{os.getpid()}"
    found: Counter[str] = Counter()
    for number in range(runs):
        r = random.Random(seed + number)
        call = r.choice(compiled_in(vnni))(r)
        valid = r.random() < 0.1
        if not valid:
            spoil(call, r)
        recipe.write_text(f"--seed {seed + number} --runs 1: {call}")
        what = run(call, library, by)
        found[f"valid, {what}" if valid else what] += 1
    recipe.unlink()
    return found


def sanitized(folder: Path, *, vnni: bool) -> dict[str, str]:
    """Compile with sanitizers; returns the environment to run the library in."""
    plan = kernels._plan()
    assert isinstance(plan, kernels._Build)
    library = folder / f"kernels-{vnni}.so"
    unwanted = {"-O3"}
    if not vnni:
        unwanted |= {flag for flags in kernels.VNNI.values() for flag in flags}
    command = [word for word in plan.command if word not in unwanted]
    subprocess.run([*command, *SANITIZERS, "-o", str(library)], check=True, timeout=300)
    preload = [_library(plan.command[0], name) for name in ("libasan.so", "libstdc++.so")]
    return os.environ | {
        "LD_PRELOAD": " ".join(preload),  # the sanitizer looks for the functions of libstdc++
        "ASAN_OPTIONS": "detect_leaks=0",
        "OMNI_KERNELS": str(library),
        "OMNI_KERNELS_VNNI": str(int(vnni)),
    }


def _library(compiler: str, name: str) -> str:
    asked = [compiler, f"-print-file-name={name}"]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()


def main() -> int:
    """Run, and print how many calls ran and how many were refused."""
    parser = argparse.ArgumentParser(prog="python -m tests.trust.kernels", description=__doc__)
    parser.add_argument("--runs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sanitize", action="store_true")
    options = parser.parse_args()
    has_vnni = bool(kernels.VNNI.keys() & processor_features.detect())
    if options.sanitize:
        again = [sys.executable, "-m", "tests.trust.kernels", "--runs", str(options.runs),
                 "--seed", str(options.seed)]  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            kinds = [sanitized(Path(folder), vnni=vnni) for vnni in {False, has_vnni}]
            return max(abs(subprocess.run(again, env=env, check=False).returncode) for env in kinds)
    given = os.environ.get("OMNI_KERNELS")
    library = Path(given) if given else kernels.build().library
    if library is None:
        print(kernels.build().problem)  # noqa: T201
        return 1
    vnni = os.environ.get("OMNI_KERNELS_VNNI", str(int(has_vnni))) == "1"
    print(dict(hostile(options.runs, options.seed, library, vnni=vnni)))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
