"""`omni show --phone`: what phones of usual sizes can hold of a bundle."""

from omni_runtime.bundle.manifest import Manifest
from omni_runtime.cli import ui
from omni_runtime.cli.common import format_size
from omni_runtime.memory import ENCODERS, MIN_CONTEXT, Footprint

PHONES = (6, 8, 12)
"""GiB of memory."""
FREE = 0.5
"""Share that an app in front can use: the system and other apps take the rest."""


def table(manifest: Manifest) -> str:
    """Return a table: for each phone what fits, and how long a context."""
    footprint = Footprint.of(manifest, native=True)
    encoders = [name for name in ENCODERS if name in manifest.graphs]
    can_speak = manifest.model.speech is not None
    rows = [(f"{size} GB", *_fits(footprint, size, encoders, can_speak)) for size in PHONES]
    note = (
        f"Reckoned with {FREE:.0%} of a phone's memory, from the sizes of the graphs; no phone was "
        "measured."
    )
    return f"{ui.table(('phone', 'fits', 'needs', 'context'), rows)}\n{note}"


def _fits(
    footprint: Footprint, size: int, encoders: list[str], can_speak: bool
) -> tuple[str, str, str]:
    budget = int(FREE * size * 2**30)
    longest = footprint.config.thinker.decoder.max_context
    shortest = min(MIN_CONTEXT, longest)
    for speech, senses, words in (
        (can_speak, encoders, "speech, pictures and sound" if can_speak else "pictures and sound"),
        (can_speak, [], "text and speech" if can_speak else "text"),
        (False, [], "text"),
    ):
        needed = footprint.least(shortest, speech=speech, encoders=senses)
        if needed <= budget:
            room = (budget - needed) // footprint.context(1, speech=speech)
            return words, format_size(needed), f"{min(longest, shortest + room)} tokens"
    return "nothing", format_size(footprint.least(shortest, speech=False)), ""
