"""Native kernels against their ONNX functions, and bundles without kernels."""

import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from conftest import relative
from omni_export.graphs.decoder import cached_attention
from omni_export.graphs.vocoder import Activation, anti_aliased_snake
from omni_quantize import dynamic, nbits
from omni_quantize.kv_cache import int8_cached_attention
from omni_quantize.nbits import BlockMatrix
from omni_quantize.recipe import Rule
from omni_runtime import machine, processor_features
from omni_runtime.bundle.contracts import DOMAIN, OPSET
from omni_runtime.engine import kernels as door
from omni_runtime.engine.kernels import build, forget
from omni_runtime.engine.session import SessionOptions
from omni_runtime.model import Model

compiled = pytest.mark.skipif(not build().library, reason=build().problem)
features = processor_features.detect()
plain = features - door.VNNI.keys()
integer_kernel = pytest.mark.skipif(
    not build().library or "avx2" not in features, reason="there is no such kernel"
)

LEVELS = (-32, -26, -21, -16, -12, -9, -6, -2, 0, 3, 6, 10, 13, 17, 22, 31)


@pytest.fixture(autouse=True)
def asked_anew() -> Iterator[None]:
    """Clear the cached search for a compiler after each test."""
    yield
    forget()


@pytest.fixture(params=["", *sorted(door.VNNI.keys() & features)])
def instructions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each set of kernels that this CPU can run."""
    as_if(monkeypatch, plain | {request.param})


@pytest.fixture
def no_vnni(monkeypatch: pytest.MonkeyPatch) -> None:
    as_if(monkeypatch, plain)


def as_if(monkeypatch: pytest.MonkeyPatch, wanted: set[str]) -> None:
    monkeypatch.setattr(processor_features, "detect", lambda: wanted)
    forget()
    assert build().library, build().problem  # or ONNX Runtime would be compared with itself


def both(
    function: ir.Function,
    fed: dict[str, np.ndarray],
    weights: dict[str, np.ndarray],
    **attributes: int,
) -> list[list[np.ndarray]]:
    """Return the outputs of a function by its kernel and by ONNX operators."""
    inputs = [
        ir.Value(
            name=name,
            type=ir.TensorType(ir.DataType.from_numpy(data.dtype)),
            shape=ir.Shape(data.shape),
        )
        for name, data in fed.items()
    ]
    constants = [
        ir.Value(name=name, const_value=ir.tensor(data, name=name))
        for name, data in weights.items()
    ]
    node = ir.node(
        function.name,
        inputs + constants,
        attributes,
        domain=function.domain,
        num_outputs=len(function.outputs),
    )
    for number, output in enumerate(node.outputs):  # a cache comes out as it went in
        output.name, output.type = f"y{number}", inputs[number].type
        output.shape = ir.Shape([None] * (3 if number == 0 else 4))
    graph = ir.Graph(
        inputs,
        node.outputs,
        nodes=[node],
        initializers=constants,
        opset_imports={"": OPSET, DOMAIN: 1, "com.microsoft": 1},
        name="one",
    )
    model = ir.to_proto(ir.Model(graph, ir_version=11, functions=[function])).SerializeToString()
    return [by_kernels(model, fed), evaluate(model, fed, None)]


def evaluate(model: bytes, fed: dict[str, np.ndarray], library: Path | None) -> list[np.ndarray]:
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = 2
    if library:
        settings.register_custom_ops_library(str(library))
    return ort.InferenceSession(model, settings).run(None, fed)


def by_kernels(model: bytes, fed: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Evaluate with the kernels of this machine; `tests.android.arm64` takes another one."""
    return evaluate(model, fed, build().library)


@compiled
@pytest.mark.usefixtures("instructions")
@pytest.mark.parametrize(
    ("bits", "block"), [(4, 32), (4, 64), (4, 128), (4, 256), (8, 32), (8, 128)]
)
@pytest.mark.parametrize("inner", [512, 768, 2816])
def test_block_matmul(bits: int, block: int, inner: int) -> None:
    for outer, rows in (
        (37, 1),
        (64, 2),
        (5, 3),
        (70, 4),
        (33, 7),
        (3, 12),
        (9, 13),
        (40, 31),
        (99, 50),
        (20, 19),
    ):
        compare_block_matmul(bits, block, inner, outer, rows)


@compiled
@pytest.mark.usefixtures("instructions")
@pytest.mark.parametrize(("bits", "block"), [(4, 32), (4, 64), (8, 32), (8, 64)])
def test_block_matmul_of_half_a_register(bits: int, block: int) -> None:
    for outer, rows in ((37, 1), (9, 4), (33, 7), (40, 31), (50, 17), (11, 22), (3, 36)):
        compare_block_matmul(bits, block, 576, outer, rows)


@compiled
@pytest.mark.usefixtures("instructions")
@pytest.mark.parametrize(("bits", "block"), [(4, 32), (4, 256), (8, 32)])
def test_block_matmul_part_by_part(bits: int, block: int) -> None:
    """More rows than fit in the cache of a core."""
    compare_block_matmul(bits, block, inner=4352, outer=53, rows=330)


def compare_block_matmul(bits: int, block: int, inner: int, outer: int, rows: int) -> None:
    """Compare BlockMatMul with its function, and with 4 bits TableMatMul too."""
    random = np.random.default_rng(bits + block + inner)
    values = random.standard_normal((inner, outer)).astype(np.float32)
    values[:, 0] = 0
    x = random.standard_normal((1, rows, inner)).astype(np.float32)
    x[0, 0, :block] *= 1000  # one block far above the others
    if inner > block:
        x[0, -1, -block:] = 0
    for levels in ((), LEVELS) if bits == 4 else ((),):
        rule = Rule(match="w", method="nbits", reason="test", bits=bits, block=block, levels=levels)
        matrix = BlockMatrix("w", inner, outer, rule, lambda start, stop: values[:, start:stop])
        assert matrix.has_kernel
        weights, attributes = matrix.quantize(values), nbits.attributes(inner, outer, rule)
        del attributes["accuracy_level"]
        if levels:
            del attributes["bits"]
            weights["levels"] = np.array(levels, np.int8)
        function = nbits.table_matmul() if levels else nbits.block_matmul()
        (ours,), (theirs,) = both(function, {"rows": x}, weights, **attributes)
        assert relative(ours, theirs) < 1e-4, (outer, rows, levels)


def test_unsupported_weights_use_onnx_runtime() -> None:
    def has_kernel(inner: int, **changes: int) -> bool:
        rule = Rule(match="w", method="nbits", reason="test", **{"bits": 4, **changes})
        return BlockMatrix("w", inner, 8, rule, lambda *_: np.zeros(0)).has_kernel

    assert has_kernel(128) and has_kernel(128, block=128)
    assert not has_kernel(96) and not has_kernel(128, block=256) and not has_kernel(128, block=16)
    assert not has_kernel(128, symmetric=False) and not has_kernel(128, accuracy_level=0)


def rounded_product(x: np.ndarray, parts: dict[str, np.ndarray]) -> np.ndarray:
    """Compute IntegerMatMul as the kernel does: rows quantized to 0 ... 90 in blocks of 64."""
    inner = x.shape[-1]
    total = np.zeros((*x.shape[:-1], parts["quantized"].shape[1]))
    for start in range(0, inner, 64):
        block = x[..., start : start + 64]
        weights = parts["quantized"][start : start + 64].astype(np.float64)
        least = block.min(axis=-1, keepdims=True)
        step = (block.max(axis=-1, keepdims=True) - least) / np.float32(90)
        inverse = np.where(step > 0, 1 / np.where(step > 0, step, np.float32(1)), np.float32(0))
        integers = np.rint((block - least) * inverse).astype(np.float64)
        assert integers.min() >= 0 and integers.max() <= 90
        total += step * (integers @ weights) + least * weights.sum(axis=0)
    return total * parts["scale"] + parts.get("bias", 0)


def integer_matrix(values: np.ndarray, steps: int, per_channel: bool) -> dict[str, np.ndarray]:
    matrix = dynamic.IntegerMatrix(
        "w", *values.shape, steps, per_channel, lambda start, stop: values[:, start:stop]
    )
    return matrix.quantize(values, None if per_channel else np.abs(values).max())


@integer_kernel
@pytest.mark.usefixtures("no_vnni")
@pytest.mark.parametrize("steps", [64, 127])
@pytest.mark.parametrize("inner", [4, 64, 68, 100, 1280, 3420])
def test_integer_matmul(inner: int, steps: int) -> None:
    random = np.random.default_rng(inner + steps)
    for rows, outer in ((1, 16), (2, 5), (3, 40), (4, 1), (5, 48), (9, 100), (33, 49), (100, 17)):
        values = random.standard_normal((inner, outer)).astype(np.float32)
        x = random.standard_normal((1, rows, inner)).astype(np.float32)
        x[0, 0, :64] *= 1000  # one block far above the others
        x[0, -1, -64:] = 3  # no range
        x[0, 1:2] = 0
        parts = integer_matrix(values, steps, per_channel=outer != 40)
        for biased in (False, True):
            if biased:
                parts["bias"] = random.standard_normal(outer).astype(np.float32) * 9
            (ours,), _ = both(dynamic.integer_matmul(biased), {"rows": x}, parts)
            assert relative(ours, rounded_product(x, parts)) < 1e-5, (rows, outer, biased)


@integer_kernel
@pytest.mark.usefixtures("no_vnni")
@pytest.mark.parametrize("steps", [64, 127, -128])
@pytest.mark.parametrize("inner", [64, 100, 1280])
def test_integer_matmul_does_not_overflow(inner: int, steps: int) -> None:
    """For any neighbours of an extreme column, and for any order of its signs."""
    random = np.random.default_rng(inner)
    quantized = random.integers(-abs(steps) + 1, abs(steps), (inner, 67))
    quantized[:, :64] //= 8  # so that some panels have none that is extreme
    quantized[:, 0], quantized[:, 17] = steps, -max(steps, -127)
    quantized[::2, 20], quantized[1::2, 20] = steps, -max(steps, -127)
    quantized[:, 40] = 22  # just within what eight products of four may add up to
    quantized[:, 60] = min(91, abs(steps))  # and two
    quantized[:, 65] = steps
    parts = {
        "quantized": quantized.astype(np.int8),
        "scale": random.uniform(0.5, 2, 67).astype(np.float32),
        "zero_point": np.zeros(67, np.int8),
    }
    x = np.full((1, 6, inner), 90, np.float32)
    x[..., ::64] = 0  # the least of each block, so that the others are 90 steps above it
    x[0, 1, 1::2] = 0
    x[0, 2] *= -1
    x[0, 3] = random.choice([-1, 1], inner)
    x[0, 4:] = random.standard_normal((2, inner))
    (ours,), _ = both(dynamic.integer_matmul(), {"rows": x}, parts)
    wanted = rounded_product(x, parts)
    assert (np.abs(ours - wanted).max(axis=(0, 1)) < 1e-5 * np.abs(wanted).max(axis=(0, 1))).all()


@integer_kernel
@pytest.mark.usefixtures("no_vnni")
def test_integer_matmul_of_nan_and_infinity() -> None:
    """Invalid rows do not affect other rows."""
    random = np.random.default_rng(0)
    parts = integer_matrix(random.standard_normal((200, 33)).astype(np.float32), 64, True)
    x = random.standard_normal((1, 8, 200)).astype(np.float32)
    x[0, 1, 5], x[0, 2, 70], x[0, 3, 199], x[0, 4] = np.nan, np.inf, -np.inf, np.nan
    (ours,), _ = both(dynamic.integer_matmul(), {"rows": x}, parts)
    sound = [0, 5, 6, 7]
    assert relative(ours[:, sound], rounded_product(x[:, sound], parts)) < 1e-5
    assert not np.isfinite(ours[0, 2:5]).any()
    (none,), _ = both(dynamic.integer_matmul(), {"rows": x[:, :0]}, parts)
    assert none.shape == (1, 0, 33)


@integer_kernel
@pytest.mark.usefixtures("no_vnni")
@pytest.mark.parametrize(
    ("kind", "most", "error", "apart"),
    [
        ("normal", 1.2, 0.024, 0.02),
        ("channels", 0.7, 0.032, 0.12),
        ("rows", 0.7, 0.024, 0.28),
        ("gelu", 0.95, 0.026, 0.033),
    ],
)
def test_errors_of_integer_matmul(kind: str, most: float, error: float, apart: float) -> None:
    """Less than ONNX Runtime's, which rounds all rows alike, where some values are far above the
    others; where none is, its finer levels count. `error` bounds the kernel's against float32,
    `apart` its difference from the function, both of the median row."""
    random = np.random.default_rng(0)
    values = random.standard_normal((1280, 64)).astype(np.float32)
    x = random.standard_normal((1, 40, 1280)).astype(np.float32)
    if kind == "channels":
        x[..., random.choice(1280, 4)] *= 30
    elif kind == "rows":
        x[:, :3] *= 30
    elif kind == "gelu":
        x *= np.exp(0.7 * random.standard_normal(1280)).astype(np.float32)
        x = x / (1 + np.exp(-1.7 * x))
    parts = integer_matrix(values, 64, per_channel=True)
    exact = x @ values
    (kernel,), (function,) = both(dynamic.integer_matmul(), {"rows": x}, parts)
    size = np.linalg.norm(exact, axis=-1, keepdims=True)
    ours, theirs = (np.linalg.norm((found - exact) / size) for found in (kernel, function))
    assert ours < most * theirs

    def median(difference: np.ndarray) -> float:
        return float(np.median(np.linalg.norm(difference / size, axis=-1)))

    assert median(kernel - exact) < error
    assert 0.01 < median(kernel - function) < apart


@pytest.mark.slow
@compiled
def test_integer_matmul_without_kernel_where_onnx_runtime_is_faster(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(machine, "cache_folder", lambda: tmp_path)
    as_if(monkeypatch, plain | {"avx_vnni"})  # compiled for it, though none of that is run
    random = np.random.default_rng(0)
    parts = integer_matrix(random.standard_normal((128, 33)).astype(np.float32), 64, True)
    x = random.standard_normal((1, 8, 128)).astype(np.float32)
    parts["bias"] = np.ones(33, np.float32)
    (left,), (theirs,) = both(dynamic.integer_matmul(biased=True), {"rows": x}, parts)
    assert np.array_equal(left, theirs)


@compiled
@pytest.mark.usefixtures("instructions")
@pytest.mark.parametrize("time", [1, 2, 3, 4, 7, 511, 512, 513, 1100])
def test_anti_aliased_snake(time: int) -> None:
    random = np.random.default_rng(time)
    filters = Activation(1)
    channels = 5
    x = random.standard_normal((1, channels, time)).astype(np.float32) * 3
    weights = {
        "alpha": np.exp(random.standard_normal((channels, 1, 1))).astype(np.float32) * 5,
        "beta": np.exp(random.standard_normal((channels, 1, 1))).astype(np.float32),
        "up": filters.up.const_value.numpy(),
        "down": filters.down.const_value.numpy(),
    }
    (ours,), (theirs,) = both(anti_aliased_snake(), {"x": x}, weights)
    assert relative(ours, theirs) < 1e-5


@pytest.fixture(scope="module")
def int4(export_default: Callable[[str], Path]) -> Path:
    return export_default("int4")


@compiled
@pytest.mark.usefixtures("instructions")
def test_a_bundle_gives_the_same_results_without_kernels(int4: Path) -> None:
    random = np.random.default_rng(0)
    models = [Model(int4, SessionOptions(threads=2, native=wanted)) for wanted in (True, False)]
    mel = random.standard_normal((30, 80)).astype(np.float32) - 3
    waves = [model.vocoder.synthesize(mel, 0, 0) for model in models]
    assert np.abs(waves[0] - waves[1]).mean() < 1e-3 * np.abs(waves[1]).mean()
    width = models[0].config.thinker.decoder.hidden_size
    where = np.tile(np.arange(3), (3, 1))
    differences: list[float] = []
    for _ in range(9):
        rows = random.standard_normal((3, width)).astype(np.float32)
        logits: list[np.ndarray] = []
        for model in models:
            cache, found = model.thinker.new_cache(), {}
            for some in (slice(0, 2), slice(2, 3)):
                found = model.thinker._decoder.extend(cache, rows[some], where[:, some])
            logits.append(found["logits"])
        differences.append(relative(logits[0], logits[1]))
    # Sums in another order move an activation over the border between two integers now and then.
    assert np.median(differences) < 1e-4 and max(differences) < 0.05, differences


def test_without_a_compiler(int4: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    forget()
    assert build().library is None and "no C++ compiler" in build().problem and build().fix
    assert (
        Model(int4, SessionOptions(threads=1))
        .vocoder.synthesize(np.zeros((4, 80), np.float32), 0, 0)
        .size
    )


@pytest.mark.skipif(sys.platform == "win32", reason="the compiler is a script")
def test_a_failing_compiler_leaves_no_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "c++"
    broken.write_text("#!/bin/sh\necho 'x.cpp:1: error: no such header' >&2\nexit 1\n")
    broken.chmod(broken.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CXX", str(broken))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.setenv("HOME", str(tmp_path))
    forget()
    assert build().library is None and "error: no such header" in build().problem
    assert not any(path.is_file() for path in machine.cache_folder().rglob("*"))


@compiled
def test_a_library_that_cannot_be_loaded_is_reported(
    monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    monkeypatch.setattr(machine, "cache_folder", lambda: tmp_path)

    def compiler(command: list[str], **_: object) -> None:
        Path(command[-1]).write_bytes(b"no code")

    monkeypatch.setattr(door.subprocess, "run", compiler)
    forget()
    assert build().library is None and "kept or loaded" in build().problem and build().fix


@compiled
def test_it_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = build().library
    forget()
    monkeypatch.setattr(door, "_compile", lambda plan: pytest.fail("compiled again"))
    assert build().library == first


@compiled
@pytest.mark.usefixtures("instructions")
@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("heads", [(8, 1, 16), (6, 2, 32), (16, 2, 128), (4, 4, 48)])
def test_cached_attention(heads: tuple[int, int, int], int8: bool) -> None:
    """Short and long contexts, single rows and many rows, with the cache in between."""
    query, kv, width = heads
    function = int8_cached_attention() if int8 else cached_attention()
    random = np.random.default_rng(width)
    capacity = 1500
    attributes = {"num_heads": query, "kv_num_heads": kv}
    for before, rows in (
        (0, 1),
        (0, 9),
        (3, 1),
        (63, 2),
        (255, 1),
        (1300, 1),
        (1290, 70),
        (0, 600),
    ):
        total = before + rows
        angles = random.uniform(0, 6, (capacity, width // 2)).astype(np.float32)
        past = random.standard_normal((2, 1, kv, capacity, width)).astype(np.float32)
        past[:, :, :, before:] = 0
        packed = random.standard_normal((1, rows, (query + 2 * kv) * width)).astype(np.float32)
        fed = {
            "packed": packed * 2,
            "key": past[0],
            "value": past[1],
            "last_position": np.array([total - 1], np.int32),
            "total_length": np.array(total, np.int32),
            "cos": np.cos(angles),
            "sin": np.sin(angles),
        }
        scales: dict[str, np.ndarray] = {}
        if int8:
            for name in ("key", "value"):
                scale = random.uniform(0.02, 0.06, (1, kv, 1, width)).astype(np.float32)
                fed[name] = np.rint(np.clip(fed[name] / scale, -128, 127)).astype(np.int8)
                scales[f"{name}_scales"] = scale
        ours, theirs = both(function, fed, scales, **attributes)
        # Of int8 a value between two integers may fall to either side.
        assert relative(ours[0], theirs[0]) < (2e-3 if int8 else 1e-4), (before, rows)
        for found, wanted in zip(ours[1:], theirs[1:], strict=True):
            if int8:
                apart = found.astype(int) - wanted.astype(int)
                assert np.abs(apart).max() <= 1 and np.count_nonzero(apart) <= 1e-3 * apart.size
            else:
                assert relative(found, wanted) < 1e-4, (before, rows)
