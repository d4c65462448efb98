"""Sources of input lines: a terminal, with or without history, or a pipe.

`read` raises EOFError at the end of the input and KeyboardInterrupt on Ctrl-C for every source.
"""

import importlib
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

HISTORY = ".omni_history"


class LineInput(Protocol):
    """A source of lines. `interactive`: whether it is a terminal."""

    interactive: bool

    def read(self, prompt: str) -> str:
        """Return the next line without its line break."""
        ...


class PipeInput:
    """Standard input that is not a terminal. No prompt is shown."""

    interactive = False

    def read(self, prompt: str) -> str:  # noqa: ARG002 - not shown
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        return line.rstrip("\r\n")


class TerminalInput:
    """A terminal with the line editing of Python's `input`."""

    interactive = True

    def __init__(self) -> None:
        with suppress(ImportError):  # importing it enables line editing in input()
            importlib.import_module("readline")

    def read(self, prompt: str) -> str:
        if sys.stdout.isatty():
            return input(prompt)
        sys.stderr.write(prompt)
        sys.stderr.flush()
        return input()


class PromptToolkitInput:
    """A terminal with prompt-toolkit: persistent history, search, and completion of commands."""

    interactive = True

    def __init__(self, toolkit: Any, words: Sequence[str]) -> None:
        self._session = toolkit.PromptSession(
            history=_history(toolkit),
            completer=toolkit.completion.WordCompleter(list(words), sentence=True),
            complete_while_typing=False,
        )

    def read(self, prompt: str) -> str:
        return self._session.prompt(prompt)


def open_line_input(words: Sequence[str]) -> LineInput:
    """Return the best available source. prompt-toolkit completes `words`."""
    if not sys.stdin.isatty():
        return PipeInput()
    if not sys.stdout.isatty():
        return TerminalInput()
    try:
        toolkit = importlib.import_module("prompt_toolkit")
        importlib.import_module("prompt_toolkit.completion")
        importlib.import_module("prompt_toolkit.history")
    except ImportError:
        return TerminalInput()
    return PromptToolkitInput(toolkit, words)


def _history(toolkit: Any) -> Any:
    """Return the history of the home folder, or one in memory if that cannot be written."""
    path = Path.home() / HISTORY
    try:
        path.touch(mode=0o600)
    except OSError:
        return toolkit.history.InMemoryHistory()
    return toolkit.history.FileHistory(str(path))
