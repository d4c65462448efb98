"""Options of one reply, validated against the bundle before any work."""

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
"""Selects the highest-quality preset that runs in real time on this machine."""

SEEDS = 2**64

Name = TypeVar("Name", bound=str)


@dataclass(frozen=True)
class SpeechOptions:
    """How a reply is spoken. None selects the bundle's default.

    `preset` "auto" selects the highest-quality preset that runs in real time on this machine. It is
    measured when the first such reply starts; `PresetChosen` reports it.

    `sampling` None uses the Talker's own settings. `max_codes` limits the length of the speech.
    `noise` replaces the seeded noise of the flow, for comparisons with another implementation.

    `chunks` is "fixed": fixed chunk sizes, so a seed gives the same samples every time; "adaptive":
    chunk sizes follow the playback buffer, so samples depend slightly on timing; or "whole": one
    chunk after the last code, as in the reference.
    """

    voice: str | None = None
    preset: str | None = None
    sampling: Sampling | None = None
    max_codes: int | None = None
    noise: Noise | None = None
    chunks: ChunkPolicy = "fixed"

    def __post_init__(self) -> None:
        """Raise UsageError when `max_codes` is not positive."""
        if self.max_codes is not None:
            _require_positive("max_codes", self.max_codes)

    def resolved(self, speech: SpeechConfig) -> "ResolvedSpeechOptions":
        """Fill in the defaults of a bundle. Raises UsageError that lists the valid choices."""
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
    """Speech options without defaults; `preset` may still be "auto"."""

    voice: str
    preset: str
    sampling: Sampling
    max_codes: int
    noise: Noise | None
    chunks: ChunkPolicy


@dataclass(frozen=True)
class ReplyOptions:
    """Options of a reply. `speech` None means text only. The seed determines all sampling.

    `text` replaces the reply: it is read aloud, token for token (teacher forcing).
    Raises UsageError when `max_tokens` is not positive or the seed is not within 0 to 2^64 - 1.
    """

    speech: SpeechOptions | None = SpeechOptions()
    sampling: Sampling = GREEDY
    max_tokens: int = 1024
    seed: int = 0
    text: str | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        _require_positive("max_tokens", self.max_tokens)
        if not 0 <= self.seed < SEEDS:
            raise UsageError(f"seed {self.seed} is out of range", fix="0 to 2^64 - 1")


def _require_positive(name: str, value: int) -> None:
    if value < 1:
        raise UsageError(f"{name} is {value}", fix=f"{name} >= 1")


def _choose(kind: str, name: Name, known: Sequence[Name]) -> Name:
    if name not in known:
        raise UsageError(f"there is no {kind} {name!r}", fix=f"choose one of {', '.join(known)}")
    return name
