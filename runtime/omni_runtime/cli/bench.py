"""`omni bench`: how fast a bundle is on this machine, alone, against a baseline, or as a plot."""

import argparse
import importlib
import platform
import sys
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from omni_runtime import machine
from omni_runtime.bench import baseline, gguf_twin, plan, plots, probes, roofline, spans
from omni_runtime.bench.components import DEPTH, PROMPT
from omni_runtime.bench.replies import typed
from omni_runtime.bench.rows import Comparison, Pairs, Row, compare
from omni_runtime.cli import ui
from omni_runtime.cli.bench_report import PAIR_HEADER, ROW_HEADER, Line, of_pairs, of_row, render
from omni_runtime.engine.kernels import kernel_library
from omni_runtime.engine.session import SessionOptions
from omni_runtime.errors import OmniError, UsageError
from omni_runtime.model import Model
from omni_runtime.options import SpeechOptions

LLAMA, TORCH = "llama.cpp", "torch"
NEEDS = {LLAMA: {"pp": "", "tg": ""}}
NEEDS[TORCH] = {"audio": "audio", "image": "vision", "dit": "speech", "vocoder": "speech"}
"""What can be compared with whom, and what the bundle must be able to do for it."""


def main(options: argparse.Namespace) -> int:
    """Measure and print. What was measured before an interruption is printed all the same."""
    _check(options)
    settings = SessionOptions(
        options.threads,
        native=options.native,
        prepack_cache=options.prepack_cache,
        kv_cache=options.kv_cache,
    )
    model = Model(options.bundle, settings)
    if options.preset is not None:
        SpeechOptions(preset=options.preset).resolved(model.speech)  # refused before any work
    if options.timeline or options.roofline:
        _pictures(options, model)
    elif options.compare:
        _compare(options, model)
    else:
        _measure(options, model)
    return 0


def _check(options: argparse.Namespace) -> None:
    """Raises UsageError for flags that would do nothing."""
    for flag, wanted in (("gguf", LLAMA), ("checkpoint", TORCH)):
        if getattr(options, flag) and options.compare != wanted:
            raise UsageError(f"--{flag} is for another comparison", fix=f"--compare {wanted}")
    if options.compare == TORCH and not options.checkpoint:
        raise UsageError(
            "--compare torch needs the shape of a checkpoint",
            fix="--checkpoint FOLDER, the checkpoint that the bundle was made of",
        )
    if options.preset and (options.compare or options.timeline or options.roofline):
        raise UsageError("--preset is for the replies of the table", fix="leave it out")
    if (options.timeline or options.roofline) and (options.compare or options.only):
        raise UsageError("a picture has its own works", fix="leave out --compare and --only")
    for picture in filter(None, (options.timeline, options.roofline)):
        if not (folder := Path(picture).parent).is_dir():
            raise UsageError(f"there is no folder {folder}", fix=f"mkdir {folder}")


def _measure(options: argparse.Namespace, model: Model) -> None:
    names = plan.chosen(options.only, list(plan.BENCHMARKS))
    rows: list[Row] = []
    left_out: dict[str, str] = {}
    try:
        plan.run(
            model,
            names,
            options.repetitions,
            rows,
            left_out,
            ui.note,
            warm_up=options.warm_up,
            preset=options.preset,
        )
    finally:
        _print(options, model, ROW_HEADER, map(of_row, rows), left_out)


def _compare(options: argparse.Namespace, model: Model) -> None:
    needs = NEEDS[options.compare]
    names = plan.chosen(options.only, list(needs))
    lacks = {name: plan.missing(model, needs[name]) for name in names}
    left_out = {name: reason for name, reason in lacks.items() if reason}
    names = [name for name in names if name not in left_out]
    pairs: list[Pairs] = []
    with _rival(options, model, names) as (name, comparisons):
        try:
            compare(comparisons, options.repetitions, pairs, ui.note, warm_up=options.warm_up)
        finally:
            lines = map(of_pairs, pairs)
            _print(options, model, PAIR_HEADER, lines, left_out, {"theirs": name})


@contextmanager
def _rival(
    options: argparse.Namespace, model: Model, names: Sequence[str]
) -> Generator[tuple[str, Iterable[Comparison]]]:
    """Who is compared with, and the comparisons."""
    if options.compare == TORCH:
        torch_baseline = _torch_baseline()
        yield (
            torch_baseline.NAME,
            torch_baseline.comparisons(model, Path(options.checkpoint), names),
        )
        return
    with TemporaryDirectory(prefix="omni-bench-") as folder:
        other = _llama(options, model, Path(folder))
        yield f"{other.name}, {other.detail}", baseline.text_comparisons(model, other, names)


def _torch_baseline() -> Any:
    try:
        return importlib.import_module("omni_export.torch_baseline")
    except ImportError as error:
        raise OmniError(
            f"--compare torch needs {error.name}", fix='pip install "pocket-omni[export]"'
        ) from None


def _llama(options: argparse.Namespace, model: Model, folder: Path) -> baseline.Baseline:
    """llama.cpp on the named file, or on one of the Thinker's shape made in `folder`."""
    config = model.config.thinker.decoder
    context = min(DEPTH + PROMPT, config.max_context) + baseline.ROOM
    gguf = Path(options.gguf or folder / "same-shape-Q4_K_M.gguf")
    baseline.llama_package()
    if not options.gguf:
        ui.note("writing a GGUF of the same shape, Q4_K_M, random weights")
        gguf_twin.write(gguf, config, gguf_twin.inner_size(model.bundle.manifest), context)
    return baseline.llama(gguf, context, model.options.resolved_threads())


def _pictures(options: argparse.Namespace, model: Model) -> None:
    plots.plotting()  # without it, nothing need be measured
    where = f"{model.bundle.manifest.name}, threads: {model.options.resolved_threads()}, "
    where += machine.describe()
    if options.timeline:
        _ = model.speech  # raises for a bundle without a voice
        ui.note("one spoken reply")
        watched = spans.TracedModel(model.bundle.folder, model.options)
        line = spans.record(watched, typed())
        plots.timeline(Path(options.timeline), line, f"A spoken reply: {where}")
        ui.say(f"{options.timeline}: {timeline_summary(line)}")
    if options.roofline:
        loads: list[roofline.Load] = []
        threads = model.options.resolved_threads()
        ui.note("limits of this machine, before and after")
        limits = probes.limits(threads)
        roofline.measure(model, options.repetitions, loads, ui.note)
        limits = limits.or_better(probes.limits(threads))
        plots.roofline(Path(options.roofline), loads, limits, f"Roofline: {where}")
        lines = map(of_row, roofline.rows(loads, limits))
        _print(options, model, ROW_HEADER, lines, {})


def timeline_summary(line: spans.Timeline) -> str:
    """The picture in a line."""
    if not line.sounds:
        return f"no sound came, all made after {line.end:.2f} s"
    dry = sum(until - begin for begin, until in line.dry())
    silence = f"playback ran dry for {dry:.2f} s" if dry else "playback never ran dry"
    spoken = sum(sound.seconds for sound in line.sounds)
    return (
        f"first sound {line.sounds[0].at:.2f} s, {spoken:.1f} s of speech made in "
        f"{line.end:.2f} s, {silence}"
    )


def setting(model: Model, options: argparse.Namespace) -> dict[str, object]:
    """What holds for every row."""
    manifest = model.bundle.manifest
    size = ui.size(sum(entry.bytes for entry in manifest.files.values()))
    packages = ("pocket-omni", "onnxruntime", "numpy")
    versions = [f"{name} {_version(name)}" for name in packages]
    return {
        "bundle": f"{manifest.name}, {manifest.recipe} for {manifest.target}, {size}",
        "machine": machine.describe(),
        "threads": model.options.resolved_threads(),
        "kernels": _kernels(options),
        "KV cache": options.kv_cache,
        "versions": ", ".join([*versions, f"Python {platform.python_version()}"]),
        "repetitions": options.repetitions,
        "warm-up": options.warm_up,
    }


def _kernels(options: argparse.Namespace) -> str:
    if not options.native:
        return "ONNX Runtime's, --no-native"
    return (
        "our own where there are any"
        if kernel_library().library
        else f"ONNX Runtime's: {kernel_library().problem}"
    )


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed, a checkout"


def _print(
    options: argparse.Namespace,
    model: Model,
    header: Sequence[str],
    lines: Iterable[Line],
    left_out: Mapping[str, str],
    more: Mapping[str, object] | None = None,
) -> None:
    """Print a report, unless nothing came of it."""
    found = list(lines)
    if found or left_out:
        about = {**setting(model, options), **(more or {})}
        sys.stdout.write(render(options.output, about, header, found, left_out))
        sys.stdout.flush()
