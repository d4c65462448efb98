"""Check whether a bundle fits in memory, before anything is loaded."""

import argparse
from collections.abc import Collection, Sequence

from omni_runtime import machine
from omni_runtime.cli import ui
from omni_runtime.cli.check import Check
from omni_runtime.cli.common import format_size
from omni_runtime.conversation import Conversation
from omni_runtime.errors import OmniError, UsageError
from omni_runtime.inputs.messages import ContentPart, Text, Video, kind_of
from omni_runtime.memory import MIN_CONTEXT, Footprint, format_limit
from omni_runtime.model import Model
from omni_runtime.options import ReplyOptions

NAME = "memory needed"
SMALLER = "a bundle of a smaller recipe: python export/run.py --quant int4"


def estimate(
    footprint: Footprint,
    budget: int | None,
    *,
    speech: bool,
    encoders: Collection[str],
    context: int | None = None,
) -> Check:
    """Compare the memory of a conversation with the budget, or with the machine if that is None.

    `context` is its length in tokens. None counts a short context and also reports the longest.
    Within a budget, too little memory in the machine is only a warning.
    """
    longest = footprint.config.thinker.decoder.max_context
    tokens = min(context or MIN_CONTEXT, longest)
    count = (
        footprint.needed if budget is None else footprint.least
    )  # idle graphs are released under a budget
    needed = count(tokens, speech=speech, encoders=encoders)
    text_only = count(tokens, speech=False, encoders=encoders)
    available, total = machine.available_memory(), machine.total_memory()
    limit = total if budget is None else budget
    found = f"needs about {format_size(needed)} with a context of {tokens} tokens"
    if tokens < longest:
        full = needed + footprint.context(longest, speech=speech)
        full -= footprint.context(tokens, speech=speech)
        found += f", {format_size(full)} with {longest}"
    found += f"; {format_size(available)} of {format_size(total)} available"
    if budget is not None:
        found += f", the budget is {format_size(budget)}"
    if needed <= min(limit, available):
        return Check("ok", NAME, found)
    fails = needed > limit
    override = "" if budget else " to try it anyway"
    repairs = [f"--memory {format_limit(needed)}{override}" if fails else "close other programs"]
    if tokens > MIN_CONTEXT:
        repairs.append("a shorter --context")
    if speech and text_only <= min(limit, available):
        repairs.append(f"--no-speech, which needs {format_size(text_only)}")
    return Check("fail" if fails else "warn", NAME, found, ", or ".join([*repairs, SMALLER]))


def check_memory(
    model: Model, parts: Sequence[ContentPart], reply: ReplyOptions, options: argparse.Namespace
) -> None:
    """Raise UsageError if the message and its reply exceed the budget.

    Raises OmniError if they exceed the machine's memory. Warns if they exceed the free memory.
    """
    found = estimate(
        model.budget.footprint,
        model.options.memory,
        speech=reply.speech is not None,
        encoders={name for part in parts for name in _encoders(part)},
        context=options.context,
    )
    if found.status == "fail":
        kind = UsageError if model.options.memory else OmniError
        raise kind(f"the bundle {found.found}", fix=found.fix)
    if found.status == "warn" and not options.quiet:
        ui.note(f"warning: the bundle {found.found} ({found.fix})")


def report_context(conversation: Conversation, options: argparse.Namespace) -> None:
    """Print the context length if the budget shortens it and no length was requested."""
    longest = conversation.model.config.thinker.decoder.max_context
    here = conversation.context_limit
    if options.memory and not options.context and here < longest and not options.quiet:
        ui.note(f"--memory leaves a context of {here} of {longest} tokens")


def _encoders(part: ContentPart) -> list[str]:
    if isinstance(part, Text):
        return []
    vision = [] if kind_of(part) == "audio" else ["vision_encoder"]
    audible = kind_of(part) == "audio" or (isinstance(part, Video) and part.use_audio)
    return vision + (["audio_encoder"] if audible else [])
