"""Overwrite a save, killed at each system call in turn: `python killed_saves.py BUNDLE SAVE`.

Prints after each kill how many messages a load finds.
"""

import os
import sys
from pathlib import Path

from omni_runtime.conversation import Conversation
from omni_runtime.engine.session import SessionOptions
from omni_runtime.model import Model
from omni_runtime.options import ReplyOptions

EVENTS = {"open", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.scandir", "os.listdir"}
KILLED = 77


class Killer:
    """Exits the process before the nth system call on the folder of the save."""

    def __init__(self, folder: Path, countdown: int) -> None:
        self.folder, self.left = str(folder), countdown

    def __call__(self, event: str, args: tuple[object, ...]) -> None:
        if event in EVENTS and str(args[0]).startswith(self.folder):
            self.left -= 1
            if self.left == 0:
                os._exit(KILLED)


def main(bundle: str, save: Path) -> None:
    """Kill at each call, load, and restore the old save, until a save completes."""
    model = Model(bundle, SessionOptions(threads=1))
    options = ReplyOptions(None, max_tokens=2)
    old, new = Conversation(model), Conversation(model)
    for talk, questions in ((old, ("Hello",)), (new, ("Hello", "More"))):
        for question in questions:
            list(talk.send(question, options))
    code, calls = KILLED, 0
    while code == KILLED:
        old.save(save)
        assert [path.name for path in save.parent.iterdir()] == [save.name]
        calls += 1
        child = os.fork()
        if child == 0:
            sys.addaudithook(Killer(save.parent, calls))
            new.save(save)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        found = Conversation.load(save, model)
        twin = {3: old, 5: new}[len(found.messages)]
        assert found.context_used == twin.context_used and found.messages == twin.messages
        print(len(found.messages))  # noqa: T201 - the test reads it
    assert code == 0, code


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
