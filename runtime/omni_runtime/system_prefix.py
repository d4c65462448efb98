"""System prompts that were read once: every conversation that begins with one starts from a copy.

The prefix that all prompts with a system prompt share is found by comparing two of them, so no
chat template is taken for granted.
"""

from dataclasses import replace

from omni_runtime.context import Context
from omni_runtime.engine.decoder import complete
from omni_runtime.errors import OmniError
from omni_runtime.inputs.prefix import common_prefix, split
from omni_runtime.inputs.prompt import Message, Prompt, Text
from omni_runtime.model import Model

MAX_PREFIXES = 4
"""System prompts that are kept, the least recently used one is dropped first."""

_ROOM = 3
"""Slots behind a prefix, which the Talker's check for room wants to see."""


def fork(
    model: Model, system: Message, prompt: Prompt, limit: int, *, speech: bool
) -> tuple[Context, int] | None:
    """A context of `limit` tokens that has read the start of `prompt`, and the length of it.

    None where nothing is gained. With `speech` the Talker has read it, too.
    """
    text = "".join(part.text for part in system.parts if isinstance(part, Text))
    known: dict[str, Context] = model.prefix_contexts
    if text not in known:
        context = _read(model, system)
        if context is None:
            return None
        known[text] = context
        while len(known) > MAX_PREFIXES:
            del known[next(iter(known))]
    context = known[text] = known.pop(text)  # the most recently used one comes last
    count = context.length
    if prompt.ids[:count].tolist() != context.ids or not count < min(len(prompt.ids), limit):
        return None
    if speech:
        complete(context.read_unread())
    return context.fork(limit), count


def before(model: Model, system: Message, turn: list[int], position: int) -> Context | None:
    """A context that has read the system prompt as if the tokens `turn` followed at `position`.

    `turn` is a later turn of a conversation: it begins with the end of the reply before it, which
    is also the end of the system prompt. None where the template has no such overlap.
    """
    prefix = _shared(model, system)
    if prefix is None:
        return None
    ids = prefix.ids.tolist()
    overlap = max((n for n in range(1, len(ids)) if ids[-n:] == turn[:n]), default=0)
    if not overlap:
        return None
    head = split(prefix, len(ids) - overlap)[0]
    moved = replace(
        head, positions=head.positions + position - head.next_position, next_position=position
    )
    context = Context(model, len(moved.ids) + _ROOM)
    context.prefill(moved)
    return context


def _shared(model: Model, system: Message) -> Prompt | None:
    """What all prompts with this system prompt begin with."""
    one, two = (model.prompts.build([system, Message("user", [Text(text)])]) for text in "ab")
    count = common_prefix(one, two)
    return split(one, count)[0] if count else None


def _read(model: Model, system: Message) -> Context | None:
    prefix = _shared(model, system)
    if prefix is None:
        return None
    try:
        context = Context(model, len(prefix.ids) + _ROOM)
        context.prefill(prefix)
    except OmniError:  # no room: the conversation itself will say so, if it matters
        return None
    return context
