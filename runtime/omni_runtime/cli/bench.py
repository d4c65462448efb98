"""`omni bench`: benchmark a bundle, compare it with a baseline, or plot it."""

import argparse
import importlib
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from omni_runtime import machine
from omni_runtime.bench import plan, plots, probes, roofline, spans
from omni_runtime.bench.replies import typed
from omni_runtime.bench.rows import Comparison, Pairs, Row, compare
from omni_runtime.cli import ui
from omni_runtime.cli.bench_report import PAIR_HEADER, ROW_HEADER, Line, of_pairs, of_row, render
from omni_runtime.cli.common import format_size
from omni_runtime.engine import kernels
from omni_runtime.engine.session import SessionOptions
from omni_runtime.errors import OmniError, UsageError
from omni_runtime.model import Model
from omni_runtime.options import SpeechOptions


@dataclass(frozen=True)
class Baseline:
    """A module of `omni_export.baselines`, and the flag for its model.

    `needs` maps its benchmarks to the part that the bundle must have: audio, vision or speech.
    """

    module: str
    flag: str
    needs: dict[str, str]


BASELINES = {
    "llama.cpp": Baseline("llama_cpp", "gguf", {"pp": "", "tg": ""}),
    "torch": Baseline(
        "torch_reference",
        "checkpoint",
        {"audio": "audio", "image": "vision", "dit": "speech", "vocoder": "speech"},
    ),
}


def main(options: argparse.Namespace) -> int:
    """Measure and print. After an interruption the results so far are printed."""
    _check(options)
    settings = SessionOptions(
        options.threads,
        native=options.native,
        prepack_cache=options.prepack_cache,
        kv_cache=options.kv_cache,
    )
    model = Model(options.bundle, settings)
    if options.preset is not None:
        SpeechOptions(preset=options.preset).resolved(model.speech)  # raises before any work
    model.warm_up(ui.note)
    if options.timeline or options.roofline:
        _plot(options, model)
    elif options.compare:
        _compare(options, model)
    else:
        _measure(options, model)
    return 0


def _check(options: argparse.Namespace) -> None:
    """Raise UsageError for flags that would have no effect."""
    for name, baseline in BASELINES.items():
        if getattr(options, baseline.flag) and options.compare != name:
            raise UsageError(
                f"--{baseline.flag} belongs to another comparison", fix=f"--compare {name}"
            )
    if options.compare == "torch" and not options.checkpoint:
        raise UsageError(
            "--compare torch needs the configuration of a checkpoint",
            fix="--checkpoint FOLDER, the checkpoint that the bundle was exported from",
        )
    if options.preset and (options.compare or options.timeline or options.roofline):
        raise UsageError("--preset applies only to the replies of the table", fix="leave it out")
    if (options.timeline or options.roofline) and (options.compare or options.only):
        raise UsageError("a plot has its own measurements", fix="leave out --compare and --only")
    for plot in filter(None, (options.timeline, options.roofline)):
        if not (folder := Path(plot).parent).is_dir():
            raise UsageError(f"there is no folder {folder}", fix=f"mkdir {folder}")


def _measure(options: argparse.Namespace, model: Model) -> None:
    names = plan.select(options.only, list(plan.BENCHMARKS))
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
    baseline = BASELINES[options.compare]
    names = plan.select(options.only, list(baseline.needs))
    reasons = {name: plan.missing_part(model, baseline.needs[name]) for name in names}
    left_out = {name: reason for name, reason in reasons.items() if reason}
    names = [name for name in names if name not in left_out]
    reference = getattr(options, baseline.flag)
    pairs: list[Pairs] = []
    with _comparisons(baseline, model, names, Path(reference) if reference else None) as (
        name,
        comparisons,
    ):
        try:
            compare(comparisons, options.repetitions, pairs, ui.note, warm_up=options.warm_up)
        finally:
            lines = map(of_pairs, pairs)
            _print(options, model, PAIR_HEADER, lines, left_out, {"theirs": name})


def _comparisons(
    baseline: Baseline, model: Model, names: Sequence[str], model_path: Path | None
) -> AbstractContextManager[tuple[str, Iterable[Comparison]]]:
    """Open the baseline: its name and comparisons. Raises OmniError if its packages are missing."""
    try:
        module = importlib.import_module(f"omni_export.baselines.{baseline.module}")
    except ImportError as error:
        raise OmniError(
            f"--compare needs {error.name}", fix='pip install "pocket-omni[export]"'
        ) from None
    comparisons: AbstractContextManager[tuple[str, Iterable[Comparison]]] = module.comparisons(
        model, names, model_path, ui.note
    )
    return comparisons


def _plot(options: argparse.Namespace, model: Model) -> None:
    plots.load_pyplot()  # raises before anything is measured
    title = f"{model.bundle.manifest.name}, threads: {model.options.resolved_threads()}, "
    title += machine.describe()
    if options.timeline:
        _ = model.speech  # raises for a bundle without speech
        ui.note("one spoken reply")
        traced = spans.TracedModel(model.bundle.folder, model.options)
        line = spans.record(traced, typed())
        plots.timeline(Path(options.timeline), line, f"A spoken reply: {title}")
        ui.say(f"{options.timeline}: {timeline_summary(line)}")
    if options.roofline:
        loads: list[roofline.Load] = []
        threads = model.options.resolved_threads()
        ui.note("limits of this machine, measured before and after")
        limits = probes.limits(threads)
        roofline.measure(model, options.repetitions, loads, ui.note)
        limits = limits.best_of(probes.limits(threads))
        plots.roofline(Path(options.roofline), loads, limits, f"Roofline: {title}")
        lines = map(of_row, roofline.rows(loads, limits))
        _print(options, model, ROW_HEADER, lines, {})


def timeline_summary(line: spans.Timeline) -> str:
    """Summarize the timeline in one line."""
    if not line.chunks:
        return f"no speech, done after {line.end:.2f} s"
    underrun = sum(until - begin for begin, until in line.underruns())
    silence = f"playback underran for {underrun:.2f} s" if underrun else "no underrun"
    spoken = sum(chunk.seconds for chunk in line.chunks)
    return (
        f"first audio {line.chunks[0].at:.2f} s, {spoken:.1f} s of speech in "
        f"{line.end:.2f} s, {silence}"
    )


def setting(model: Model, options: argparse.Namespace) -> dict[str, object]:
    """Return the setting of the benchmark, which is the same for all rows."""
    manifest = model.bundle.manifest
    size = format_size(sum(entry.bytes for entry in manifest.files.values()))
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
        return "ONNX Runtime (--no-native)"
    return (
        "native where implemented"
        if kernels.find().library
        else f"ONNX Runtime: {kernels.find().problem}"
    )


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed (checkout)"


def _print(
    options: argparse.Namespace,
    model: Model,
    header: Sequence[str],
    lines: Iterable[Line],
    left_out: Mapping[str, str],
    more: Mapping[str, object] | None = None,
) -> None:
    """Print a report, unless it is empty."""
    rows = list(lines)
    if rows or left_out:
        about = {**setting(model, options), **(more or {})}
        sys.stdout.write(render(options.output, about, header, rows, left_out))
        sys.stdout.flush()
