"""What a caller may choose for one reply, checked against the bundle before any work."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar, get_args

from omni_runtime.bundle.config import SpeechConfig
from omni_runtime.engine.chunk_scheduler import ChunkPolicy
from omni_runtime.engine.dit import Noise
from omni_runtime.engine.sampling import GREEDY, Sampling
from omni_runtime.engine.talker import own_sampling
from omni_runtime.errors import UsageError

AUTO = "auto"
"""Stands for the best preset that this machine speaks in real time."""

Name = TypeVar("Name", bound=str)


@dataclass(frozen=True)
class SpeechOptions:
    """How a reply is spoken. None takes the bundle's default.

    `preset` "auto" takes the best that speaks in real time on this machine, measured by a trial
    of a moment when the first such reply begins; `PresetChosen` tells which it was.

    `sampling` None takes the Talker's own. `max_codes` bounds the length of the speech. `noise`
    replaces the seeded noise of the flow, for comparisons with another implementation.

    `chunks` is "fixed", in chunks of fixed sizes, so that a seed gives the same samples every time;
    "adaptive", for somebody who listens while it is made: chunks as large as what is still to be
    heard allows, which depends on the machine and the moment, and so, a little, do the samples;
    or "whole", all at once when the last code is there, as the reference does it.
    """

    voice: str | None = None
    preset: str | None = None
    sampling: Sampling | None = None
    max_codes: int | None = None
    noise: Noise | None = None
    chunks: ChunkPolicy = "fixed"

    def resolved(self, speech: SpeechConfig) -> "ResolvedSpeechOptions":
        """Raises UsageError for an unknown voice, preset or chunks, listing the known ones."""
        talker = speech.talker
        return ResolvedSpeechOptions(
            voice=_choose("voice", self.voice or speech.default_voice, list(speech.voices)),
            preset=_choose("preset", self.preset or speech.default_preset, [*speech.presets, AUTO]),
            sampling=self.sampling or own_sampling(talker),
            max_codes=min(self.max_codes or talker.max_codes, talker.max_codes),
            noise=self.noise,
            chunks=_choose("chunk policy", self.chunks, list(get_args(ChunkPolicy))),
        )


@dataclass(frozen=True)
class ResolvedSpeechOptions:
    """Speech options with every choice made, but that `preset` may be "auto"."""

    voice: str
    preset: str
    sampling: Sampling
    max_codes: int
    noise: Noise | None
    chunks: ChunkPolicy


@dataclass(frozen=True)
class ReplyOptions:
    """How a reply is made. `speech` None means text only. The seed decides every draw."""

    speech: SpeechOptions | None = SpeechOptions()
    sampling: Sampling = GREEDY
    max_tokens: int = 1024
    seed: int = 0


def _choose(kind: str, name: Name, known: Sequence[Name]) -> Name:
    if name not in known:
        raise UsageError(f"there is no {kind} {name!r}", fix=f"choose one of {', '.join(known)}")
    return name
