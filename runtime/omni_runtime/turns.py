"""Where the turns of a conversation begin and end: enough to go back to them."""

from msgspec import Struct

from omni_runtime.context import ContextMark


class Mark(Struct, frozen=True):
    """A place between two turns: how many messages come before it, and where the context stood."""

    messages: int
    context: ContextMark


class Turn(Struct, frozen=True):
    """Where a turn began, and where its prompt ended and its reply began."""

    start: Mark
    asked: Mark
