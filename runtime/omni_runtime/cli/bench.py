"""`omni bench`: how fast a bundle is on this machine, alone, against a baseline, or as a plot."""

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
    """A module of `omni_export.baselines`, and the flag that names its model.

    `needs` lists the benchmarks that it has, each with what the bundle must be able to do for it.
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
    model.warm_up(ui.note)
    if options.timeline or options.roofline:
        _pictures(options, model)
    elif options.compare:
        _compare(options, model)
    else:
        _measure(options, model)
    return 0


def _check(options: argparse.Namespace) -> None:
    """Raises UsageError for flags that would do nothing."""
    for name, baseline in BASELINES.items():
        if getattr(options, baseline.flag) and options.compare != name:
            raise UsageError(
                f"--{baseline.flag} is for another comparison", fix=f"--compare {name}"
            )
    if options.compare == "torch" and not options.checkpoint:
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
    baseline = BASELINES[options.compare]
    names = plan.chosen(options.only, list(baseline.needs))
    lacks = {name: plan.missing(model, baseline.needs[name]) for name in names}
    left_out = {name: reason for name, reason in lacks.items() if reason}
    names = [name for name in names if name not in left_out]
    given = getattr(options, baseline.flag)
    pairs: list[Pairs] = []
    with _comparisons(baseline, model, names, Path(given) if given else None) as (name, found):
        try:
            compare(found, options.repetitions, pairs, ui.note, warm_up=options.warm_up)
        finally:
            lines = map(of_pairs, pairs)
            _print(options, model, PAIR_HEADER, lines, left_out, {"theirs": name})


def _comparisons(
    baseline: Baseline, model: Model, names: Sequence[str], given: Path | None
) -> AbstractContextManager[tuple[str, Iterable[Comparison]]]:
    """The name of the baseline and its comparisons. Raises OmniError without its packages."""
    try:
        module = importlib.import_module(f"omni_export.baselines.{baseline.module}")
    except ImportError as error:
        raise OmniError(
            f"--compare needs {error.name}", fix='pip install "pocket-omni[export]"'
        ) from None
    found: AbstractContextManager[tuple[str, Iterable[Comparison]]] = module.comparisons(
        model, names, given, ui.note
    )
    return found


def _pictures(options: argparse.Namespace, model: Model) -> None:
    plots.plotting()  # without it, nothing need be measured
    where = f"{model.bundle.manifest.name}, threads: {model.options.resolved_threads()}, "
    where += machine.describe()
    if options.timeline:
        _ = model.speech  # raises for a bundle without a voice
        ui.note("one spoken reply")
        traced = spans.TracedModel(model.bundle.folder, model.options)
        line = spans.record(traced, typed())
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
        return "ONNX Runtime's, --no-native"
    return (
        "our own where there are any"
        if kernels.find().library
        else f"ONNX Runtime's: {kernels.find().problem}"
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
