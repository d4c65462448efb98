"""Where the turns of a conversation begin and end: enough to go back to them."""

from msgspec import Struct

from omni_runtime.context import ContextMark


class Mark(Struct, frozen=True):
    """A place between two turns: how many messages come before it, and where the context stood."""

    messages: int
    context: ContextMark

    def earlier(self, messages: int, tokens: int) -> "Mark":
        """This place after as many messages and tokens before it were removed."""
        context = ContextMark(self.context.length - tokens, self.context.position)
        return Mark(self.messages - messages, context)


class Turn(Struct, frozen=True):
    """Where a turn began, and where its prompt ended and its reply began."""

    start: Mark
    asked: Mark

    def earlier(self, messages: int, tokens: int) -> "Turn":
        """This turn after as many messages and tokens before it were removed."""
        return Turn(self.start.earlier(messages, tokens), self.asked.earlier(messages, tokens))
