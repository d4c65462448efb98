"""The export's command line: flags, progress, and the final table."""

import argparse
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
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
    """Export one checkpoint; returns the exit code."""
    try:
        options = _parser().parse_args(arguments)
    except SystemExit as stop:
        return int(stop.code or 0)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        with terminable():  # a polite kill cleans up like Ctrl-C
            return _run(options)
    except OmniError as error:
        return complain(error)
    except ModuleNotFoundError as error:
        fix = 'pip install "pocket-omni[export]"'
        return complain(OmniError(f"the export needs {error.name}", fix=fix))
    except OSError as error:  # a full or vanished disk, a folder without permission
        return complain(OmniError(str(error), fix="check the disk and its permissions"))
    except (KeyboardInterrupt, SystemExit) as stop:
        left = "; ".join(notes(stop)) or "nothing was left behind"
        sys.stderr.write(f"stopped; {left}\n")
        return int(stop.code or 0) if isinstance(stop, SystemExit) else INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="export/run.py", description="Turn a checkpoint of Qwen2.5-Omni into a bundle."
    )
    parser.add_argument(
        "--model",
        default=TINY,
        help="a checkpoint folder or a hub id such as Qwen/Qwen2.5-Omni-3B; "
        "tiny (default) is the small trained model of this repository; random, random:3b and "
        "random:7b have random weights, the latter two in the shape of the published models",
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--quant", default="int4", help="recipe: fp32, int8 or int4 (default)")
    which.add_argument("--recipe", type=Path, metavar="FILE", help="a recipe of your own, as JSON")
    parser.add_argument(
        "--target", default="native", help="CPU it will run on: native, avx2, avx512_vnni or arm64"
    )
    parser.add_argument("--output", type=Path, help="folder of the bundle (bundles/NAME-RECIPE)")
    parser.add_argument(
        "--write",
        type=Path,
        metavar="FOLDER",
        help="write the random checkpoint there, as Hugging Face does, and export nothing",
    )
    return parser


def _run(options: argparse.Namespace) -> int:
    # Checked first: a misspelt flag must not cost the seconds that torch takes to load.
    from omni_quantize.dynamic import resolve_target  # noqa: PLC0415
    from omni_quantize.recipe import load, load_file  # noqa: PLC0415

    recipe = load_file(options.recipe) if options.recipe else load(options.quant)
    target = resolve_target(options.target)

    if options.write is not None:
        return _write(options.model, options.write)

    from omni_export.exporter import ExportRequest, check_destination, export  # noqa: PLC0415
    from omni_runtime import machine  # noqa: PLC0415
    from omni_runtime.cli import ui  # noqa: PLC0415
    from omni_runtime.cli.show import cost_table  # noqa: PLC0415
    from omni_runtime.engine import kernels  # noqa: PLC0415

    started = perf_counter()
    if options.output is not None:
        check_destination(options.output)  # before a download of gigabytes
    with TemporaryDirectory(prefix="omni-") as scratch:
        checkpoint = _checkpoint(options.model, Path(scratch))
        destination = options.output or Path("bundles") / f"{checkpoint.name}-{recipe.name}"
        kernels.build(ui.note)
        line = _ProgressLine()
        try:
            manifest = export(ExportRequest(checkpoint, recipe, target, destination), line.report)
        finally:
            line.end()
    total = sum(entry.bytes for entry in manifest.files.values())
    sys.stdout.write(f"\n{cost_table(manifest)}\n\n")
    if manifest.not_measured is not None:
        sys.stdout.write(f"not measured: {manifest.not_measured}\n")
    sys.stdout.write(
        f"{destination}  {format_size(total)} in {perf_counter() - started:.0f} s, "
        f"peak {format_size(machine.peak_memory())}\n"
    )
    sys.stdout.write(f'try it:  omni run {destination} "Hello!" -o answer.wav\n')
    return 0


def _checkpoint(model: str, scratch: Path) -> "LocalCheckpoint":
    """The checkpoint of that name, described in `scratch` if it is a random one."""
    from omni_export.hub import LocalCheckpoint, resolve  # noqa: PLC0415

    if (size := _random_size(model)) is not None:
        from omni_export import random_checkpoint  # noqa: PLC0415

        random_checkpoint.describe(scratch / "random", random_checkpoint.shape_of(size))
        return LocalCheckpoint(scratch / "random", model, random_checkpoint.REVISION)
    if model == TINY:
        if not EMBEDDED.is_dir():
            raise UsageError(
                "the small trained model is in a checkout of the repository only",
                fix="--model random, or a hub id such as Qwen/Qwen2.5-Omni-3B",
            )
        return replace(resolve(str(EMBEDDED)), model=TINY)
    return resolve(model)


def _random_size(model: str) -> str | None:
    """What stands behind "random:", empty for "random" alone; None for any other model."""
    found = RANDOM.fullmatch(model)
    return None if found is None else found.group(1) or ""


def _write(model: str, folder: Path) -> int:
    size = _random_size(model)
    if size is None:
        raise UsageError("only random checkpoints are written", fix="--model random:3b --write DIR")
    if folder.exists():
        raise UsageError(f"{folder} exists", fix="give --write a new folder")
    from omni_export import random_checkpoint  # noqa: PLC0415

    random_checkpoint.write(folder, random_checkpoint.shape_of(size), dtype="bfloat16")
    sys.stdout.write(f"{folder}\n")
    return 0


class _ProgressLine:
    """Progress on standard error: one living line on a terminal, a line for each part elsewhere."""

    def __init__(self) -> None:
        self._alive = sys.stderr.isatty()
        self._step = -1

    def report(self, progress: "Progress") -> None:
        """Show how far the export is."""
        if not self._alive and progress.step == self._step:
            return
        if self._alive and progress.step != self._step:
            self.end()
        self._step = progress.step
        line = progress_line(progress)
        sys.stderr.write(f"\r\x1b[K{line}" if self._alive else line + "\n")
        sys.stderr.flush()

    def end(self) -> None:
        """Leave the living line."""
        if self._alive and self._step >= 0:
            sys.stderr.write("\n")


def progress_line(progress: "Progress") -> str:
    """[8/12] thinker · 4.1 GB of 11.9 GB of weights · about 63 s left"""
    number = f"[{progress.step}/{progress.steps}] " if progress.steps else ""
    parts = [number + progress.part.replace("_", " ")]
    if progress.kept:
        parts.append("kept from before")
    if progress.done < progress.total:
        parts.append(f"{format_size(progress.done)} of {format_size(progress.total)} of weights")
    if progress.seconds_left:
        parts.append(f"about {progress.seconds_left:.0f} s left")
    return " · ".join(parts)
