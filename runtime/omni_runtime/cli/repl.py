"""A conversation in the terminal: lines in, answers out, until /bye, Ctrl-D or the end of a pipe.

What a command does is in `commands.py`. The one rule here: neither an error nor Ctrl-C ends the
program, and both leave the conversation and what is attached fit for another try. A pipe is not
a person: there Ctrl-C does end it, and the last error gives the exit code.
"""

import argparse
import re
from contextlib import suppress

from omni_runtime.cli import ui
from omni_runtime.cli.commands import COMMANDS, run
from omni_runtime.cli.common import complain
from omni_runtime.cli.line_input import LineInput, open_line_input
from omni_runtime.cli.repl_state import ReplState
from omni_runtime.conversation import Conversation
from omni_runtime.errors import ContextFullError, OmniError
from omni_runtime.options import ReplyOptions

PROMPT = ">>> "
_COMMAND = re.compile(r"/([A-Za-z]+)(?:\s+(.*))?", re.DOTALL)


class Repl(ReplState):
    """The loop over the lines."""

    def __init__(
        self,
        conversation: Conversation,
        reply: ReplyOptions,
        options: argparse.Namespace,
        *,
        lines: LineInput | None = None,
        load: float = 0.0,
    ) -> None:
        """`lines` replaces terminal and pipe; the rest is as for `ReplState`."""
        lines = lines or open_line_input([f"/{name}" for name in COMMANDS])
        super().__init__(conversation, reply, options, lines, load)

    def loop(self) -> int:
        """Take lines until there are no more; returns the exit code."""
        interactive = self.lines.interactive
        if interactive and not self.options.quiet:
            ui.note("Say something, drop a file, or /help.")
        if interactive:  # what loading takes, it takes before the first question
            with suppress(ContextFullError, KeyboardInterrupt):  # the first question says so, too
                self.conversation.read_ahead(speech=self.reply.speech is not None)
        code, leaving = 0, False
        while not self.over:
            try:
                line = self.lines.read(PROMPT)
                leaving = False
                self._take(line)
            except EOFError:
                break
            except OmniError as error:
                complain(error)
                code = error.exit_code
            except KeyboardInterrupt:
                if not interactive:
                    raise
                if leaving:
                    break
                leaving = True
                ui.note("\n(Ctrl-C once more, Ctrl-D or /bye leaves)")
        return 0 if interactive else code

    def _take(self, line: str) -> None:
        found = _COMMAND.fullmatch(line.strip())
        if found is None:
            self.ask(line)
        else:
            run(self, found.group(1).lower(), (found.group(2) or "").strip())
