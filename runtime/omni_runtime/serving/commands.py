"""What an engine can be asked to do, and what it sends back: plain records for its queues."""

from collections.abc import Sequence
from dataclasses import dataclass

from omni_runtime.events import Event
from omni_runtime.inputs.messages import ContentPart, Message
from omni_runtime.options import ReplyOptions


@dataclass(frozen=True)
class Open:
    """Start a conversation; the arguments are those of `Conversation`. Gives its id."""

    system: str | None = None
    context: int | None = None
    history: Sequence[Message] = ()


@dataclass(frozen=True)
class Append:
    """Add parts to the user message that is being made: text, pictures, videos or sound.

    An AudioStream that is still running is sound, too; nothing is read until `ReadAhead`.
    """

    conversation: int
    parts: Sequence[ContentPart]


@dataclass(frozen=True)
class Compose:
    """Replace the user message that is being made by these parts; without parts discard it."""

    conversation: int
    parts: Sequence[ContentPart] = ()


@dataclass(frozen=True)
class ReadAhead:
    """Prefill the message that is being made; with `more` only what is final of it."""

    conversation: int
    more: bool = True
    speech: bool = True


@dataclass(frozen=True)
class Respond:
    """Send the message and stream the reply. Gives the response's id."""

    conversation: int
    response: int
    options: ReplyOptions | None = None


@dataclass(frozen=True)
class Cancel:
    """Stop the reply in progress."""

    conversation: int


@dataclass(frozen=True)
class Truncate:
    """Cut the last reply to what was heard of it. Gives the text that is left."""

    conversation: int
    heard_seconds: float


@dataclass(frozen=True)
class Retract:
    """Cancel the reply in progress and remove its turn; its prompt counts as read ahead."""

    conversation: int


@dataclass(frozen=True)
class Undo:
    """Remove the last turn, question and reply."""

    conversation: int


@dataclass(frozen=True)
class MakeRoom:
    """Forget the oldest turns until `tokens` more fit. Gives the number of forgotten turns."""

    conversation: int
    tokens: int


@dataclass(frozen=True)
class Fork:
    """Copy a conversation. Gives the id of the copy."""

    conversation: int


@dataclass(frozen=True)
class Close:
    """End a conversation and release its memory."""

    conversation: int


ConversationCommand = (
    Append
    | Compose
    | ReadAhead
    | Respond
    | Cancel
    | Truncate
    | Retract
    | Undo
    | MakeRoom
    | Fork
    | Close
)
Command = Open | ConversationCommand


@dataclass(frozen=True)
class Failed:
    """The reply ended with an error; the conversation holds what was said until then, if any."""

    error: BaseException


@dataclass(frozen=True)
class EngineEvent:
    """An event of one response. The last one is TurnDone or Failed."""

    conversation: int
    response: int
    event: Event | Failed
