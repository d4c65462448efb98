"""`omni`: runs a command. Heavy imports are deferred until then."""

import argparse
import errno
import importlib
import io
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import suppress

from omni_runtime.cli import flags
from omni_runtime.cli.common import INTERRUPTED, complain, terminable
from omni_runtime.errors import OmniError

BROKEN_PIPE = 141

NO_SPACE = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Return its exit code: 0, 1 for a failure, 2 for wrong usage."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if _closed_output():
        return complain(
            OmniError("standard output is closed", fix="redirect it to a file or to /dev/null")
        )
    return _command(words)


def _command(words: list[str]) -> int:
    if words[:1] == ["export"]:
        return _export(words[1:])
    try:
        options = flags.parser().parse_args(words)
    except SystemExit as stop:
        return int(stop.code or 0)
    try:
        return _run(options)
    except OmniError as error:
        return complain(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:
        return _output_lost(error)


def _closed_output() -> bool:
    """Connect closed standard streams to the null device; return whether stdout was closed.

    Python sets them to None. Otherwise the next file that is opened would take their number, and
    libraries would print into it.
    """
    closed = [name for name in ("stdin", "stdout", "stderr") if getattr(sys, name) is None]
    for name in closed:
        number = ("stdin", "stdout", "stderr").index(name)
        null = os.open(os.devnull, os.O_RDWR)
        if null != number:
            os.dup2(null, number)
            os.close(null)
        setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))  # noqa: SIM115
    return "stdout" in closed


def _output_lost(error: OSError) -> int:
    """Return the exit code for a closed pipe or a full disk. Raises any other error again."""
    if not isinstance(error, BrokenPipeError) and error.errno not in NO_SPACE:
        raise error
    with suppress(OSError, ValueError):  # the interpreter flushes stdout at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if isinstance(error, BrokenPipeError):  # the reader has exited: print nothing
        return BROKEN_PIPE
    where = error.filename or "the output"
    return complain(
        OmniError(f"{where} cannot be written: {error.strerror}", fix="free some space")
    )


def _run(options: argparse.Namespace) -> int:
    _prepare_streams()
    _show_warnings(quiet=getattr(options, "quiet", False))
    with terminable():
        module = importlib.import_module(f"omni_runtime.cli.{options.command}")
        code = int(module.main(options))
        sys.stdout.flush()  # here a full disk is still reported in one line
    return code


def _prepare_streams() -> None:
    """Replace characters that a stream cannot encode or decode, instead of failing."""
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _show_warnings(*, quiet: bool) -> None:
    """Print what the library logs, such as an audio track that is left out."""
    handler = logging.StreamHandler()
    handler.addFilter(lambda record: not quiet and _printable(record))
    logging.getLogger("omni_runtime").handlers = [handler]


def _printable(record: logging.LogRecord) -> bool:
    from omni_runtime.cli import ui  # noqa: PLC0415 - slow to import

    record.msg, record.args = ui.printable(record.getMessage(), sys.stderr), ()
    return True


def _export(words: list[str]) -> int:
    try:
        command = importlib.import_module("omni_export.cli")
    except ImportError as error:
        return complain(
            OmniError(f"the export needs {error.name}", fix='pip install "pocket-omni[export]"')
        )
    return int(command.main(words))


if __name__ == "__main__":
    sys.exit(main())
