"""System prompts that were read once: every conversation that begins with one starts from a copy.

The prefix that all prompts with a system prompt share is found by comparing two of them, so no
chat template is taken for granted.
"""

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


def _read(model: Model, system: Message) -> Context | None:
    """A context that has read what all prompts with this system prompt share."""
    one, two = (model.prompts.build([system, Message("user", [Text(text)])]) for text in "ab")
    count = common_prefix(one, two)
    if not count:
        return None
    try:
        context = Context(model, count + _ROOM)
        context.prefill(split(one, count)[0])
    except OmniError:  # no room: the conversation itself will say so, if it matters
        return None
    return context
