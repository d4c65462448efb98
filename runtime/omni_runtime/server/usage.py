"""How many tokens of a prompt were read for a reply, and how many were in the KV caches already."""

from omni_runtime.events import TurnDone


def prompt_tokens(done: TurnDone) -> tuple[int, int]:
    """Return the tokens of the whole prompt, earlier turns included, and the cached ones."""
    timings = done.timings
    prompt = done.context_used - timings.reply_tokens
    return prompt, max(0, prompt - (timings.prompt_tokens - timings.cached_tokens))
