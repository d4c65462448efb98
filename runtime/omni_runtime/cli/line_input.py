"""Where the lines of a conversation come from: a terminal, with or without history, or a pipe.

Knows nothing of what a line means. `read` raises EOFError at the end and KeyboardInterrupt at
Ctrl-C, whichever source it is.
"""

import importlib
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

HISTORY = ".omni_history"


class LineInput(Protocol):
    """A source of lines. `interactive` tells whether a person sits there."""

    interactive: bool

    def read(self, prompt: str) -> str:
        """The next line, without its end."""
        ...


class PipeInput:
    """Standard input that is no terminal: no prompt is shown."""

    interactive = False

    def read(self, prompt: str) -> str:  # noqa: ARG002 - nobody would see it
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        return line.rstrip("\r\n")


class TerminalInput:
    """A terminal, edited as well as Python's own input allows."""

    interactive = True

    def __init__(self) -> None:
        with suppress(ImportError):  # where it exists, importing it is what input() needs to edit
            importlib.import_module("readline")

    def read(self, prompt: str) -> str:
        if sys.stdout.isatty():
            return input(prompt)
        sys.stderr.write(prompt)
        sys.stderr.flush()
        return input()


class PromptToolkitInput:
    """A terminal through prompt-toolkit: history over sessions, search, completed commands."""

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
    """The best source there is; `words` are completed where something completes words."""
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
    """History in the home folder, or for this session only where that can't be written."""
    path = Path.home() / HISTORY
    try:
        path.touch(mode=0o600)
    except OSError:
        return toolkit.history.InMemoryHistory()
    return toolkit.history.FileHistory(str(path))
