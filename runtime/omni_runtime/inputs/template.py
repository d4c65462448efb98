"""The Jinja chat template of the checkpoint, rendered without the user's text.

Not a tokenizer. The template renders a private mark in place of each text. Its output is then split
at the marks, so special tokens of the template are encoded and those in user text are not.
"""

import re
from collections.abc import Sequence
from typing import get_args

import jinja2

from omni_runtime.errors import BundleError, UsageError
from omni_runtime.inputs.bounded_template import BoundedTemplate, TemplateBoundError
from omni_runtime.inputs.messages import Message, Role, Text, kind_of

Segment = str | int
"""Template text, or the index of a text among all parts of all messages."""

RE_EXPORT = "export the bundle again"

_ROLES: tuple[str, ...] = get_args(Role)
_MARK = re.compile("\ue000([0-9]{1,9})\ue001")


class ChatTemplate:
    """A compiled chat template."""

    def __init__(self, source: str) -> None:
        """Compile a Jinja template. Raises BundleError for an invalid one."""
        try:
            self._template = BoundedTemplate(source)
        except jinja2.TemplateError as error:
            raise BundleError(
                f"the chat template is invalid: {_line(error)}", fix=RE_EXPORT
            ) from error

    def render(self, messages: Sequence[Message]) -> list[Segment]:
        """Render a conversation up to the start of the model's reply.

        Raises UsageError for an unknown role or when the template raises. Raises BundleError when
        the template takes too long, or does not render every text exactly once and in order.
        """
        texts: list[int] = []
        turns: list[dict[str, object]] = []
        count = 0
        for message in messages:
            if message.role not in get_args(Role):
                raise UsageError(
                    f"there is no role {message.role!r}",
                    fix=f"choose one of {', '.join(get_args(Role))}",
                )
            content: list[dict[str, str]] = []
            for part in message.parts:
                if isinstance(part, Text):
                    content.append({"type": "text", "text": f"\ue000{count}\ue001"})
                    texts.append(count)
                else:
                    content.append({"type": kind_of(part), kind_of(part): ""})
                count += 1
            turns.append({"role": message.role, "content": content})
        try:
            rendered = self._template.render(messages=turns, add_generation_prompt=True)
        except TemplateBoundError as error:
            raise BundleError(
                f"the chat template is invalid: {_line(error)}", fix=RE_EXPORT
            ) from error
        except jinja2.TemplateError as error:
            raise UsageError(f"the chat template rejects these messages: {_line(error)}") from error
        pieces = _MARK.split(rendered)
        if list(map(int, pieces[1::2])) != texts:
            raise BundleError("the chat template loses or reorders text", fix=RE_EXPORT)
        return [int(piece) if i % 2 else piece for i, piece in enumerate(pieces)]


def last_reply(messages: Sequence[Message]) -> int:
    """Return the index, among all parts, of the last text of the last assistant message.

    Raises UsageError when there is none.
    """
    last, count = -1, 0
    for message in messages:
        for part in message.parts:
            if message.role == "assistant" and isinstance(part, Text):
                last = count
            count += 1
    if last < 0:
        raise UsageError("there is no reply yet", fix="send a message first")
    return last


def _line(error: Exception) -> str:
    """Return the message of an error, which a stranger may have written, as one printable line."""
    said = "".join(c if c.isprintable() else " " for c in str(error))
    return " ".join(said.split())[:200]
