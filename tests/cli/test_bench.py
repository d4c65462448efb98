"""`omni bench`: all rows are reported, in every format, and errors are explained."""

import csv
import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from conftest import Twin
from omni_export.baselines import gguf_file, llama_cpp
from omni_runtime.bench import cold_start, components, plan, probes, replies, rows
from omni_runtime.bench.spans import Chunk, Timeline
from omni_runtime.bundle.manifest import read_manifest, write_manifest
from omni_runtime.cli import bench, flags
from omni_runtime.engine.kernels import build
from omni_runtime.engine.session import SessionOptions
from omni_runtime.errors import OmniError
from omni_runtime.model import Model

FAST = ("-r", "2", "-t", "1", "--no-warmup")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reduce the sizes of all benchmarks."""
    for name, value in {"PROMPT": 24, "STEPS": 3, "DEPTH": 40, "AUDIO_SECONDS": 3, "CODES": 5,
                        "UTTERANCE_BLOCKS": 3, "COMMIT_BLOCKS": 2,
                        "IMAGES": {"448x448": 112, "1 MP": 168}}.items():  # fmt: skip
        monkeypatch.setattr(components, name, value)
    for name in ("PROMPT", "STEPS"):
        monkeypatch.setattr(llama_cpp, name, getattr(components, name))
    monkeypatch.setattr(replies, "MAX_TOKENS", 4)
    monkeypatch.setattr(replies, "sleep", lambda seconds: None)


EXPECTED = [
    "pp24", "pp24 @ d40", "tg3", "tg3 @ d40", "audio encoder 3 s", "image 448x448", "image 1 MP",
    "talker", "DiT, 1 evaluation", "DiT, faithful", "DiT, balanced", "DiT, fast", "vocoder",
    "code2wav, faithful", "code2wav, balanced", "code2wav, fast",
    "first text, typed", "first audio, typed", "real-time factor, typed",
    "first text, spoken 4 s", "first audio, spoken 4 s", "real-time factor, spoken 4 s",
    "first text, spoken 4 s, streamed", "first audio, spoken 4 s, streamed",
    "real-time factor, spoken 4 s, streamed",
    "load, cold", "load, warm", "peak memory",
]  # fmt: skip


def changed(bundle: Path, **model: object) -> None:
    """Change the model configuration in the manifest of a bundle."""
    manifest = read_manifest(bundle)
    record = msgspec.structs.replace(manifest.model, **model)
    write_manifest(msgspec.structs.replace(manifest, model=record), bundle)


def test_all_rows_are_reported(omni, bundle: Path) -> None:
    ran = omni("bench", bundle, *FAST, "-o", "json")
    assert ran.code == 0
    report = json.loads(ran.out)
    assert [row["test"] for row in report["rows"]] == EXPECTED and not report["left_out"]
    for row in report["rows"]:
        assert len(row["samples"]) == 2
        assert all(0 < value < np.inf for value in row["samples"])
        assert row["mean"] == pytest.approx(np.mean(row["samples"]))
        assert row["sd"] == pytest.approx(np.std(row["samples"], ddof=1))
    assert report["threads"] == 1 and "onnxruntime" in report["versions"]
    notes = {row["test"]: row["note"] for row in report["rows"]}
    assert notes["image 1 MP"] == "resized to 168x168, 36 tokens"
    assert notes["audio encoder 3 s"] == "75 tokens"
    assert "[1/11] pp24\n" in ran.err


def test_output_formats(omni, bundle: Path) -> None:
    words = ("bench", bundle, *FAST, "--only", "vocoder,pp")
    table = omni(*words).out
    cells = [[cell.strip() for cell in line.strip("|").split("|")]
             for line in table.splitlines() if line.startswith("|")]  # fmt: skip
    assert cells[0] == ["test", "unit", "mean ± sd", "note"]
    assert [row[0] for row in cells[2:]] == ["pp24", "pp24 @ d40", "vocoder"]
    assert all(re.fullmatch(r"[\d.]+ ± [\d.]+", row[2]) for row in cells[2:])
    found = list(csv.DictReader(io.StringIO(omni(*words, "-o", "csv").out)))
    assert [row["test"] for row in found] == ["pp24", "pp24 @ d40", "vocoder"]
    assert all(len(row["samples"].split()) == 2 and row["machine"] for row in found)


def test_replies_in_another_preset_and_with_another_cache(omni, bundle: Path) -> None:
    words = ("bench", bundle, *FAST, "--only", "reply", "-o", "json")
    report = json.loads(omni(*words, "--preset", "fast", "--kv-cache", "int8").out)
    assert report["KV cache"] == "int8"
    notes = {row["test"]: row["note"] for row in report["rows"]}
    assert notes["first audio, typed"].endswith("s of speech, fast")
    omni(*words, "--preset", "best").refused("there is no preset 'best'", 2)
    omni("bench", bundle, "--preset", "fast", "--compare", "llama.cpp").refused("leave it out", 2)


def test_depth_ends_with_the_context() -> None:
    assert components.depths(1000, 24) == [(24, 0, ""), (24, 40, "")]
    assert components.depths(50, 24) == [(24, 0, ""), (24, 26, "context length 50")]
    assert components.depths(20, 24) == [(20, 0, "")]


def test_depth_is_the_cache_length(default_twin: Twin) -> None:
    runner = components.ThinkerRunner(default_twin.model)
    for count, depth in ((5, 0), (3, 40), (4, 7), (2, 0)):
        assert runner.prefill(count, depth) > 0
        assert runner._cache.length == count + depth
        assert runner.decode(count, depth) > 0
        assert runner._cache.length == count + depth


def test_unsupported_benchmarks_are_left_out(omni, copied: Path) -> None:
    changed(copied, vision=None, speech=None)
    ran = omni("bench", copied, *FAST, "--only", "image,talker,reply", "-o", "json")
    report = json.loads(ran.out)
    assert ran.code == 0
    assert [row["test"] for row in report["rows"]] == [
        "first text, typed",
        "first text, spoken 4 s",
        "first text, spoken 4 s, streamed",
    ]
    assert report["left_out"] == {"image": "no vision encoder", "talker": "no speech"}
    silent = omni("bench", copied, *FAST, "--only", "image")
    assert silent.out.endswith("left out: image (no vision encoder)\n")


def test_a_quantity_without_a_value_has_no_row() -> None:
    seen = rows.Quantity("seen", "s", False), rows.Quantity("never", "s", False)
    found: list[rows.Row] = []
    values = [(1.0, None), (3.0, None)]
    work = rows.BenchCase(seen, lambda: values.pop(0))
    assert rows.measure([work], 2, found, lambda what: None, warm_up=False) == ["never"]
    assert [(row.quantity.name, row.mean) for row in found] == [("seen", 2.0)]


def test_warm_up_is_not_counted() -> None:
    values = [9.0, 1.0, 3.0]
    found: list[rows.Row] = []
    work = rows.BenchCase((rows.Quantity("a", "s", False),), lambda: [values.pop(0)])
    rows.measure([work], 2, found, lambda what: None)
    assert found[0].samples == [1.0, 3.0] and found[0].deviation == pytest.approx(2**0.5)


def test_the_report_names_the_kernels(omni, bundle: Path) -> None:
    for words, said in (((), "native" if build().library else build().problem),
                        (("--no-native",), "ONNX Runtime (--no-native)")):  # fmt: skip
        ran = omni("bench", bundle, *FAST, *words, "--only", "tg", "-o", "json")
        assert said in json.loads(ran.out)["kernels"]


def test_ctrl_c_prints_the_results_so_far(omni, bundle: Path, monkeypatch) -> None:
    real, runs = components.ThinkerRunner.decode, []

    def decode(self, count: int, depth: int = 0) -> float:
        runs.append(depth)
        if len(runs) == 2:
            raise KeyboardInterrupt
        return real(self, count, depth)

    monkeypatch.setattr(components.ThinkerRunner, "decode", decode)
    ran = omni("bench", bundle, *FAST, "--only", "pp,tg", "-o", "json")
    assert ran.code == 130
    found = json.loads(ran.out)["rows"]
    assert [(r["test"], len(r["samples"])) for r in found] == [
        ("pp24", 2), ("pp24 @ d40", 2), ("tg3", 1)]  # fmt: skip


def test_errors(omni, bundle: Path, here: Path, monkeypatch) -> None:
    omni("bench", bundle, "--only", "pp,gpu").refused("no benchmark 'gpu' (--only pp,tg,", 2)
    omni("bench", bundle, "-r", "0").refused("whole number", 2)
    omni("bench", here / "none").refused("there is no bundle")
    omni("bench", bundle, "--gguf", "a").refused("--compare llama.cpp", 2)
    omni("bench", bundle, "--compare", "torch").refused("--checkpoint FOLDER", 2)
    omni("bench", bundle, "--timeline", "a.png", "--only", "pp").refused("leave out", 2)
    for name in ("llama_cpp", "xllamacpp"):
        monkeypatch.setitem(sys.modules, name, None)
    omni("bench", bundle, "--compare", "llama.cpp").refused("pip install xllamacpp gguf")
    for module, words in (
        ("torch_reference", ("torch", "--checkpoint", here)), ("llama_cpp", ("llama.cpp",))
    ):  # fmt: skip
        monkeypatch.setitem(sys.modules, f"omni_export.baselines.{module}", None)
        ran = omni("bench", bundle, "--compare", *words)
        ran.refused('pip install "pocket-omni[export]"')
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    omni("bench", bundle, "--roofline", "a.png").refused("pip install matplotlib")


def test_a_failing_child_process_is_one_line(default_twin: Twin, monkeypatch) -> None:
    model = Model(default_twin.bundle, SessionOptions(threads=1))
    model.bundle.folder = default_twin.bundle / "gone"
    with pytest.raises(
        OmniError, match=r"the bundle cannot be run in a new process: .*no bundle at"
    ):
        cold_start._child(model, answer=False)


def test_the_help_lists_all_benchmarks() -> None:
    text = Path(flags.__file__).read_text("utf-8")
    (listed,) = re.findall(r'help="of ([\w,]+);', text)
    assert listed.split(",") == list(plan.BENCHMARKS)


class FakeRival:
    """An engine that records its calls and returns prepared times."""

    name, detail = "fake", "half as fast"

    def __init__(self, calls: list[str]) -> None:
        self._calls = calls

    def prefill(self, count: int, depth: int = 0) -> float:
        self._calls.append(f"theirs pp{count} d{depth}")
        return 0.5

    def decode(self, count: int, depth: int = 0) -> float:
        self._calls.append(f"theirs tg{count} d{depth}")
        return 0.25


def test_sides_alternate_and_ratios_are_per_pair(default_twin: Twin, monkeypatch) -> None:
    calls: list[str] = []

    def timed(kind: str, spent: float) -> Callable[..., float]:
        def work(self: object, count: int, depth: int = 0) -> float:
            calls.append(f"ours {kind}{count} d{depth}")
            return spent

        return work

    monkeypatch.setattr(components.ThinkerRunner, "prefill", timed("pp", 0.25))
    monkeypatch.setattr(components.ThinkerRunner, "decode", timed("tg", 0.5))
    comparisons = llama_cpp.text_comparisons(default_twin.model, FakeRival(calls), ["pp", "tg"])
    pairs: list[rows.Pairs] = []
    rows.compare(comparisons, 2, pairs, lambda what: None, warm_up=False)
    assert calls[:4] == ["ours pp24 d0", "theirs pp24 d0", "theirs pp24 d0", "ours pp24 d0"]
    assert calls[-1] == "ours tg3 d40"
    assert [pair.quantity.name for pair in pairs] == ["pp24", "pp24 @ d40", "tg3", "tg3 @ d40"]
    assert pairs[0].ours == [96, 96] and pairs[0].theirs == [48, 48]
    assert [pair.ratios for pair in pairs] == [[2.0, 2.0]] * 2 + [[0.5, 0.5]] * 2
    shorter = rows.Pairs(rows.Quantity("a", "s", False), [1.0, 2.0], [3.0, 1.0])
    assert shorter.ratios == [3.0, 0.5]  # of durations, the smaller is better


class FakeLlama:
    """A fake of llama-cpp-python's Llama."""

    def __init__(self, path: str, **options: object) -> None:
        if b"GGUF" not in Path(path).read_bytes()[:4]:
            raise ValueError(f"Failed to load model from file: {path}")
        self.n_tokens, self.options = 0, options

    def eval(self, tokens: list[int]) -> None:
        assert all(0 <= token < 50 for token in tokens)
        self.n_tokens += len(tokens)
        assert self.n_tokens <= self.options["n_ctx"]

    def n_vocab(self) -> int:
        return 50


@pytest.fixture
def llama(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llama_cpp", SimpleNamespace(Llama=FakeLlama))
    monkeypatch.setattr(llama_cpp, "llama_version", lambda: "llama-cpp-python 0")


def test_compare_with_llama_cpp(omni, bundle: Path, here: Path, llama: None) -> None:
    (here / "a.gguf").write_bytes(b"GGUF")
    words = ("bench", bundle, *FAST, "--compare", "llama.cpp", "--gguf")
    report = json.loads(omni(*words, here / "a.gguf", "-o", "json").out)
    assert report["theirs"] == "llama.cpp (llama-cpp-python 0), a.gguf"
    assert [row["test"] for row in report["rows"]] == EXPECTED[:4]
    for row in report["rows"]:
        pairs = zip(row["ours_samples"], row["theirs_samples"], strict=True)
        assert row["ratio_samples"] == pytest.approx([a / b for a, b in pairs])
    table = omni(*words, here / "a.gguf", "--only", "tg").out
    assert "times faster" in table and "pp24" not in table
    omni(*words, here / "b.gguf").refused("there is no file")
    (here / "c.gguf").write_bytes(b"PNG")
    omni(*words, here / "c.gguf").refused("llama.cpp cannot load")


class FakeServer:
    """A fake of xllamacpp's Server: caches the prefix of its last prompt."""

    def __init__(self, params: SimpleNamespace) -> None:
        self.context, self.kept = params.n_ctx, []

    def handle_completions(self, request: dict) -> dict:
        prompt, count = request["prompt"], request["n_predict"]
        same = [a == b for a, b in zip(self.kept, prompt, strict=False)]
        known = min(same.index(False) if False in same else len(same), len(prompt) - 1)
        self.kept = [*prompt, *[-1] * count]
        assert len(self.kept) <= self.context
        read = len(prompt) - known
        times = {"prompt_n": read, "prompt_ms": read, "predicted_ms": 10.0 * (count - 1)}
        return {"timings": times}


def test_the_server_prefills_only_the_timed_tokens(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def params() -> SimpleNamespace:
        return SimpleNamespace(
            model=SimpleNamespace(), cpuparams=SimpleNamespace(), cpuparams_batch=SimpleNamespace()
        )

    fake = SimpleNamespace(Server=FakeServer, CommonParams=params)
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    monkeypatch.setitem(sys.modules, "xllamacpp", fake)
    monkeypatch.setattr(llama_cpp.importlib.metadata, "version", lambda name: "0")
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    server = llama_cpp.llama(tmp_path / "a.gguf", 64 + llama_cpp.EXTRA_CONTEXT, 1)
    assert server.name == "llama.cpp (xllamacpp 0)"
    for depth in (0, 40, 40, 8):
        assert server.prefill(24, depth) == pytest.approx(0.024)
        assert server.decode(3, depth) == pytest.approx(0.03)


def test_gguf_tensors_have_the_same_shape(make_twin, tmp_path: Path) -> None:
    """Shapes and sizes, without llama.cpp."""
    for name, inner in (("default", 256), ("narrow", 96), ("wide", 192)):
        manifest = read_manifest(make_twin(name).bundle)
        assert gguf_file.inner_size(manifest) == inner
        config = manifest.model.thinker.decoder
        plans = {plan.name: plan for plan in gguf_file.tensors(config, inner)}
        assert len(plans) == 12 * config.layers + 3
        for one in plans.values():
            content = gguf_file.values(one, np.random.default_rng(0))
            shape, size = gguf_file._layout(one)
            assert content.shape == shape and content.nbytes == size
    wide = {name: plan.kind for name, plan in plans.items()}
    assert wide["token_embd.weight"] == "Q4_K" and wide["output.weight"] == "Q6_K"
    assert wide["blk.0.ffn_down.weight"] in ("Q5_0", "Q8_0")  # rows of 192 are no whole blocks


def test_the_gguf_file_can_be_read(default_twin: Twin, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    config = default_twin.model.config.thinker.decoder
    gguf_file.write(tmp_path / "a.gguf", config, 256, 512)
    reader = gguf.GGUFReader(tmp_path / "a.gguf")
    found = {tensor.name: tensor for tensor in reader.tensors}
    assert list(found) == [plan.name for plan in gguf_file.tensors(config, 256)]
    for name in ("output.weight", "token_embd.weight"):
        tensor = found[name]
        assert list(tensor.shape) == [config.hidden_size, config.vocab_size]
        weights = gguf.dequantize(tensor.data, tensor.tensor_type)
        assert 0.5 < np.std(weights) * config.hidden_size**0.5 < 2


def test_compare_with_torch(omni, bundle: Path, default_twin: Twin, make_twin) -> None:
    words = ("bench", bundle, *FAST, "--compare", "torch", "-o", "json", "--checkpoint")
    ran = omni(*words, default_twin.folder)
    report = json.loads(ran.out)
    assert [row["test"] for row in report["rows"]] == [
        "audio encoder 3 s", "image 448x448", "image 1 MP", "DiT, 1 evaluation", "vocoder"
    ]  # fmt: skip
    assert all(row["ratio_mean"] > 0 and len(row["ratio_samples"]) == 2 for row in report["rows"])
    assert "torch" in report["theirs"]
    omni(*words, make_twin("narrow").folder).refused("another shape", 2)


def test_a_timeline_reports_underruns() -> None:
    sounds = [Chunk(1.0, 0.5), Chunk(1.2, 0.5), Chunk(3.0, 1.0), Chunk(3.5, 1.0)]
    line = Timeline([], [0.5], sounds, 3.5)
    assert line.playback() == [(1.0, 2.0), (3.0, 5.0)]
    assert line.underruns() == [(2.0, 3.0)]
    corners = np.array(line.buffered())
    wanted = [(1, 0), (1, 0.5), (1.2, 0.3), (1.2, 0.8), (2, 0), (3, 0), (3, 1), (3.5, 0.5),
              (3.5, 1.5), (5, 0)]  # fmt: skip
    assert corners == pytest.approx(np.array(wanted))
    assert bench.timeline_summary(line) == (
        "first audio 1.00 s, 3.0 s of speech in 3.50 s, playback underran for 1.00 s"
    )


def test_plots(omni, bundle: Path, here: Path, monkeypatch) -> None:
    monkeypatch.setattr(probes, "SQUARE", 64)
    monkeypatch.setattr(probes, "READ_BYTES", 2**16)
    ran = omni("bench", bundle, *FAST, "--timeline", "a.png", "--roofline", "b.png", "-o", "json")
    assert ran.code == 0
    line, _, table = ran.out.partition("\n")
    assert re.match(r"a.png: first audio [\d.]+ s, [\d.]+ s of speech in ", line)
    names = [row["test"] for row in json.loads(table)["rows"]]
    assert names == ["memory read", "fp32 peak", "int8 peak", "prefill 24", "decode 3",
                     "audio encoder", "image 1 MP", "talker", "DiT", "vocoder"]  # fmt: skip
    assert all(row["mean"] > 0 for row in json.loads(table)["rows"])
    for name in ("a.png", "b.png"):
        assert (here / name).read_bytes().startswith(b"\x89PNG")
    omni("bench", bundle, *FAST, "--timeline", "no/a.png").refused("there is no folder no", 2)
    ending = omni("bench", bundle, *FAST, "--timeline", "a.wrong")
    assert ending.code == 1 and not ending.out
    assert ending.err.splitlines()[-1].startswith("error: a.wrong cannot be written: ")
