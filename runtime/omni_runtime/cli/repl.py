"""The loop of a conversation in the terminal, until /bye, Ctrl-D or the end of a pipe.

`commands.py` implements the commands. In a terminal neither an error nor Ctrl-C ends the program,
and both keep the conversation and the attached files. With piped input Ctrl-C ends the program,
and the last error determines the exit code.
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
    """Reads lines and handles each as a message or a command."""

    def __init__(
        self,
        conversation: Conversation,
        reply: ReplyOptions,
        options: argparse.Namespace,
        *,
        lines: LineInput | None = None,
        load: float = 0.0,
    ) -> None:
        """`lines` replaces standard input; the other arguments are those of `ReplState`."""
        lines = lines or open_line_input([f"/{name}" for name in COMMANDS])
        super().__init__(conversation, reply, options, lines, load)

    def loop(self) -> int:
        """Handle lines until the end of the input. Return the exit code."""
        interactive = self.lines.interactive
        if interactive and not self.options.quiet:
            ui.note("Type a message, drop a file, or /help.")
        if interactive:  # load the graphs before the first message
            with suppress(ContextFullError, KeyboardInterrupt):  # the first message reports it
                self.conversation.read_ahead(speech=self.reply.speech is not None)
        code, leaving = 0, False
        while not self.over:
            try:
                line = self.lines.read(PROMPT)
                leaving = False
                self._handle(line)
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
                ui.note("\n(press Ctrl-C again, Ctrl-D or /bye to leave)")
        return 0 if interactive else code

    def _handle(self, line: str) -> None:
        match = _COMMAND.fullmatch(line.strip())
        if match is None:
            self.ask(line)
        else:
            run(self, match.group(1).lower(), (match.group(2) or "").strip())
