"""The export's command line: flags, progress, and the final table."""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import TYPE_CHECKING

from omni_runtime.cli.main import OneLineParser, terminable
from omni_runtime.errors import OmniError, UsageError

if TYPE_CHECKING:
    from omni_export.hub import LocalCheckpoint

INTERRUPTED = 130
RANDOM = "random"
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
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    except ModuleNotFoundError as error:
        fix = 'pip install "pocket-omni[export]"'
        sys.stderr.write(f"error: the export needs {error.name} ({fix})\n")
        return 1
    except OSError as error:  # a full or vanished disk, a folder without permission
        sys.stderr.write(f"error: {error} (check the disk and its permissions)\n")
        return 1
    except (KeyboardInterrupt, SystemExit) as stop:
        sys.stderr.write("stopped; nothing was left behind\n")
        return int(stop.code or 0) if isinstance(stop, SystemExit) else INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="export/run.py", description="Turn a checkpoint of Qwen2.5-Omni into a bundle."
    )
    parser.add_argument(
        "--model",
        default=TINY,
        help="a checkpoint folder or a hub id such as Qwen/Qwen2.5-Omni-3B; "
        "tiny (default) is the small trained model of this repository, random has random weights",
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--quant", default="int4", help="recipe: fp32, int8 or int4 (default)")
    which.add_argument("--recipe", type=Path, metavar="FILE", help="a recipe of your own, as JSON")
    parser.add_argument(
        "--target", default="native", help="CPU it will run on: native, avx2, avx512_vnni or arm64"
    )
    parser.add_argument("--output", type=Path, help="folder of the bundle (bundles/NAME-RECIPE)")
    return parser


def _run(options: argparse.Namespace) -> int:
    # Checked first: a misspelt flag must not cost the seconds that torch takes to load.
    from omni_quantize.dynamic import resolve_target  # noqa: PLC0415
    from omni_quantize.recipe import load, load_file  # noqa: PLC0415

    recipe = load_file(options.recipe) if options.recipe else load(options.quant)
    target = resolve_target(options.target)

    from omni_export.exporter import ExportRequest, export  # noqa: PLC0415
    from omni_runtime.cli import ui  # noqa: PLC0415
    from omni_runtime.cli.show import cost_table  # noqa: PLC0415

    started = perf_counter()
    with TemporaryDirectory(prefix="omni-") as scratch:
        checkpoint = _checkpoint(options.model, Path(scratch))
        destination = options.output or Path("bundles") / f"{checkpoint.name}-{recipe.name}"
        manifest = export(ExportRequest(checkpoint, recipe, target, destination), _report)
    total = sum(entry.bytes for entry in manifest.files.values())
    sys.stdout.write(f"\n{cost_table(manifest)}\n\n")
    sys.stdout.write(f"{destination}  {ui.size(total)} in {perf_counter() - started:.0f} s\n")
    sys.stdout.write(f'try it:  omni run {destination} "Hello!" -o answer.wav\n')
    return 0


def _checkpoint(model: str, scratch: Path) -> "LocalCheckpoint":
    """The checkpoint of that name, made in `scratch` if it is the random one."""
    from omni_export.hub import LocalCheckpoint, resolve  # noqa: PLC0415

    if model == RANDOM:
        from omni_export import random_checkpoint  # noqa: PLC0415

        random_checkpoint.write(scratch / RANDOM)
        return LocalCheckpoint(scratch / RANDOM, RANDOM, random_checkpoint.REVISION)
    if model == TINY:
        if not EMBEDDED.is_dir():
            raise UsageError(
                "the small trained model is in a checkout of the repository only",
                fix="--model random, or a hub id such as Qwen/Qwen2.5-Omni-3B",
            )
        return replace(resolve(str(EMBEDDED)), model=TINY)
    return resolve(model)


def _report(number: int, steps: int, what: str) -> None:
    sys.stderr.write(f"[{number}/{steps}] {what}\n")
    sys.stderr.flush()
