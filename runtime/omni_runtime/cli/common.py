"""Shared by the command lines: one-line errors, clean exit on SIGTERM, formatted sizes."""

import argparse
import signal
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from omni_runtime.cli.hints import hint
from omni_runtime.errors import OmniError, UsageError

INTERRUPTED = 130
TERMINATED = 143
GIB, MIB = 2**30, 2**20


class OneLineParser(argparse.ArgumentParser):
    """An argument parser that reports errors in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(UsageError.exit_code, f"error: {message} ({self.prog} --help)\n")


def complain(error: OmniError) -> int:
    """Print an error as one line on standard error: message, hint, notes. Return its exit code."""
    fix = hint(error)
    line = f"{error.message} ({fix})" if fix else error.message
    sys.stderr.write(f"error: {'; '.join([line, *notes(error)])}\n")
    return error.exit_code


def notes(error: BaseException) -> list[str]:
    """Return what `add_note` attached to an error."""
    return getattr(error, "__notes__", [])


@contextmanager
def terminable() -> Generator[None]:
    """Turn SIGTERM into SystemExit, so that cleanup runs as for Ctrl-C. Main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(_number: int, _frame: FrameType | None) -> None:
    sys.exit(TERMINATED)


def format_size(count: float) -> str:
    """Format a number of bytes: 1.2 GB, 3.4 MB, 12 KB."""
    if count >= GIB:
        return f"{count / GIB:.1f} GB"
    if count >= MIB:
        return f"{count / MIB:.1f} MB"
    return f"{count / 1024:.0f} KB"
