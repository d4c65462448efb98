"""Command line of the export: flags, progress, and the final table."""

import argparse
import os
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from subprocess import list2cmdline
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import TYPE_CHECKING

from omni_runtime.cli.common import (
    INTERRUPTED,
    OneLineParser,
    complain,
    format_size,
    notes,
    terminable,
)
from omni_runtime.errors import OmniError, UsageError

if TYPE_CHECKING:
    from omni_export.hub import LocalCheckpoint
    from omni_export.progress import Progress

RANDOM = re.compile(r"random(?::(.*))?")
TINY = "tiny"
EMBEDDED = Path(__file__).parents[2] / "tiny" / "checkpoint"
"""The small trained checkpoint of the repository."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Export one checkpoint. Return the exit code."""
    try:
        options = _parser().parse_args(arguments)
    except SystemExit as stop:
        return int(stop.code or 0)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        with terminable():  # SIGTERM cleans up like Ctrl-C
            return _run(options)
    except OmniError as error:
        return complain(error)
    except ModuleNotFoundError as error:
        fix = 'pip install "pocket-omni[export]"'
        return complain(OmniError(f"the export needs {error.name}", fix=fix))
    except OSError as error:  # a full or missing disk, or no permission
        return complain(OmniError(str(error), fix="check the disk and its permissions"))
    except (KeyboardInterrupt, SystemExit) as stop:
        left = "; ".join(notes(stop)) or "no files are left"
        sys.stderr.write(f"stopped; {left}\n")
        return int(stop.code or 0) if isinstance(stop, SystemExit) else INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="export/run.py", description="Export a checkpoint of Qwen2.5-Omni to a bundle."
    )
    parser.add_argument(
        "--model",
        default=TINY,
        help="checkpoint folder, or hub id such as Qwen/Qwen2.5-Omni-3B; tiny (default) is the "
        "small trained model of this repository; random is small and has random weights; random:3b "
        "and random:7b have the shapes of the published models; modelscope:OWNER/NAME is an id of "
        "ModelScope",
    )
    parser.add_argument(
        "--adapter",
        type=Path,
        metavar="FOLDER",
        help="LoRA adapter of PEFT to merge into the model",
    )
    speech = parser.add_mutually_exclusive_group()
    speech.add_argument(
        "--speech-from",
        metavar="NAME",
        help="take speech from this checkpoint (as --model), for a model without voices or Talker",
    )
    speech.add_argument("--mute", action="store_true", help="export without speech")
    parser.add_argument(
        "--check",
        action="store_true",
        help="only report kind, sizes, licence, memory, time and what is dropped; reads the "
        "configuration and the names of the tensors",
    )
    recipe = parser.add_mutually_exclusive_group()
    recipe.add_argument(
        "--quant",
        default="int4",
        help="quantization recipe: fp32, int8, int4 (default), int4-64, which decodes faster and "
        "loses twice as much, or int4-uniform for machines without a C++ compiler",
    )
    recipe.add_argument(
        "--recipe", type=Path, metavar="FILE", help="your own quantization recipe, a JSON file"
    )
    parser.add_argument(
        "--target",
        default="native",
        help="CPU family to export for: native (default), avx2, avx512_vnni or arm64",
    )
    calibration = parser.add_mutually_exclusive_group()
    calibration.add_argument(
        "--calibrate",
        type=Path,
        metavar="FILE",
        help="text to fit the 4-bit weights on, UTF-8; default: calibration.txt of the checkpoint, "
        "else a text that ships with the exporter",
    )
    calibration.add_argument(
        "--no-calibration",
        action="store_true",
        help="fit the 4-bit weights without a text: faster, and less accurate",
    )
    parser.add_argument(
        "--output", type=Path, metavar="FOLDER", help="bundle folder to write (bundles/NAME-RECIPE)"
    )
    parser.add_argument(
        "--write",
        type=Path,
        metavar="FOLDER",
        help="only write the random checkpoint in the Hugging Face format; export nothing",
    )
    return parser


def _run(options: argparse.Namespace) -> int:
    # Check the flags before importing torch, which takes seconds.
    from omni_quantize.dynamic import resolve_target  # noqa: PLC0415
    from omni_quantize.recipe import load, load_file  # noqa: PLC0415

    recipe = load_file(options.recipe) if options.recipe else load(options.quant)
    target = resolve_target(options.target)

    calibration = _calibration(options)

    if options.write is not None:
        return _write(options.model, options.write)

    if options.check:
        with TemporaryDirectory(prefix="omni-") as scratch:
            from omni_export import check  # noqa: PLC0415

            local = _checkpoint(options, Path(scratch))
            sys.stdout.write(check.report(local, recipe, calibrated=calibration != "") + "\n")
        return 0

    from omni_export import second_moments  # noqa: PLC0415
    from omni_export.exporter import ExportRequest, check_destination, export  # noqa: PLC0415
    from omni_runtime import machine  # noqa: PLC0415
    from omni_runtime.cli import ui  # noqa: PLC0415
    from omni_runtime.cli.show import cost_table  # noqa: PLC0415
    from omni_runtime.engine import kernels  # noqa: PLC0415

    started = perf_counter()
    if options.output is not None:
        check_destination(options.output)  # before a large download
    with TemporaryDirectory(prefix="omni-") as scratch:
        checkpoint = _checkpoint(options, Path(scratch))
        destination = options.output or Path("bundles") / f"{checkpoint.name}-{recipe.name}"
        if calibration is None:
            calibration = second_moments.text_for(checkpoint.folder)
        kernels.build(ui.note)
        line = _ProgressLine()
        try:
            request = ExportRequest(checkpoint, recipe, target, destination, calibration)
            manifest = export(request, line.report)
        finally:
            line.end()
    total = sum(entry.bytes for entry in manifest.files.values())
    sys.stdout.write(f"\n{cost_table(manifest)}\n\n")
    if manifest.not_measured is not None:
        sys.stdout.write(f"not measured: {manifest.not_measured}\n")
    if manifest.graphs["thinker"].int8_cache is None:
        sys.stdout.write("no reply was made: no int8 KV cache, and no fit to own speech\n")
    sys.stdout.write(
        f"{destination}  {format_size(total)} in {perf_counter() - started:.0f} s, "
        f"peak {format_size(machine.peak_memory())}\n"
    )
    sys.stdout.write(
        f"run it:  {run_line(destination, speaks=manifest.model.speech is not None)}\n"
    )
    return 0


def run_line(bundle: Path, *, speaks: bool) -> str:
    """Return the command that asks a bundle, with its path quoted for the shell."""
    quote = (lambda word: list2cmdline([word])) if sys.platform == "win32" else shlex.quote
    return f'omni run {quote(str(bundle))} "Hello"' + (" -o answer.wav" if speaks else "")


def _calibration(options: argparse.Namespace) -> str | None:
    """Return the text to calibrate on, "" for none, or None for the default of the checkpoint.

    Raises UsageError for a file that is no text.
    """
    if options.no_calibration:
        return ""
    if options.calibrate is None:
        return None
    try:
        text = options.calibrate.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{options.calibrate}: {error}", fix="check --calibrate") from None
    if not text.strip():
        raise UsageError(f"{options.calibrate} is empty", fix="check --calibrate")
    return text


def _checkpoint(options: argparse.Namespace, scratch: Path) -> "LocalCheckpoint":
    """Find the checkpoint, its adapter, and the checkpoint with its speech."""
    weights = not options.check
    found = _find(options.model, scratch / "model", weights=weights)
    voiced = options.speech_from
    speech_from = _find(voiced, scratch / "speech", weights=weights).folder if voiced else None
    return replace(found, adapter=options.adapter, speech_from=speech_from, mute=options.mute)


def _find(model: str, scratch: Path, *, weights: bool) -> "LocalCheckpoint":
    """Find a checkpoint by name. A random one is described in `scratch`."""
    from omni_export.hub import LocalCheckpoint, resolve  # noqa: PLC0415

    if (size := _random_size(model)) is not None:
        from omni_export import random_checkpoint  # noqa: PLC0415

        random_checkpoint.describe(scratch, random_checkpoint.shape_of(size))
        return LocalCheckpoint(scratch, model, random_checkpoint.REVISION)
    if model == TINY:
        if not EMBEDDED.is_dir():
            raise UsageError(
                "the small trained model is only in a checkout of the repository",
                fix="--model random, or a hub id such as Qwen/Qwen2.5-Omni-3B",
            )
        return replace(resolve(str(EMBEDDED)), model=TINY)
    return resolve(model, weights=weights)


def _random_size(model: str) -> str | None:
    """Return the part after "random:", "" for "random" alone, None for any other model."""
    match = RANDOM.fullmatch(model)
    return None if match is None else match.group(1) or ""


def _write(model: str, folder: Path) -> int:
    size = _random_size(model)
    if size is None:
        raise UsageError("--write needs a random checkpoint", fix="--model random:3b --write DIR")
    if folder.exists():
        raise UsageError(f"{folder} exists", fix="give --write a new folder")
    from omni_export import random_checkpoint  # noqa: PLC0415

    random_checkpoint.write(folder, random_checkpoint.shape_of(size), dtype="bfloat16")
    sys.stdout.write(f"{folder}\n")
    return 0


class _ProgressLine:
    """Progress on standard error: one updated line in a terminal, else one line per part."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._step = -1

    def report(self, progress: "Progress") -> None:
        """Print the progress."""
        if not self._terminal and progress.step == self._step:
            return
        if self._terminal and progress.step != self._step:
            self.end()
        self._step = progress.step
        line = progress_line(progress)
        sys.stderr.write(f"\r\x1b[K{line}" if self._terminal else line + "\n")
        sys.stderr.flush()

    def end(self) -> None:
        """End the updated line."""
        if self._terminal and self._step >= 0:
            sys.stderr.write("\n")


def progress_line(progress: "Progress") -> str:
    """[8/12] thinker · 4.1 GB of 11.9 GB of weights · about 63 s left"""
    number = f"[{progress.step}/{progress.steps}] " if progress.steps else ""
    parts = [number + progress.part.replace("_", " ")]
    if progress.kept:
        parts.append("reused")
    if progress.done < progress.total:
        parts.append(f"{format_size(progress.done)} of {format_size(progress.total)} of weights")
        if (left := progress.seconds_left) is not None:
            time = f"{left:.0f} s" if left < 100 else f"{left / 60:.0f} min"
            parts.append(f"about {time} left")
    return " · ".join(parts)
