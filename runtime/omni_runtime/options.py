"""What a caller may choose for one reply, checked against the bundle before any work."""

from dataclasses import dataclass

from omni_runtime.bundle.config import SpeechConfig
from omni_runtime.engine.dit import Noise
from omni_runtime.engine.sampling import GREEDY, Sampling
from omni_runtime.errors import UsageError


@dataclass(frozen=True)
class SpeechOptions:
    """How a reply is spoken. None takes the bundle's default.

    `sampling` None takes the Talker's own. `max_codes` bounds the length of the speech. `noise`
    replaces the seeded noise of the flow, for comparisons with another implementation.
    """

    voice: str | None = None
    preset: str | None = None
    sampling: Sampling | None = None
    max_codes: int | None = None
    noise: Noise | None = None

    def resolved(self, speech: SpeechConfig) -> "ResolvedSpeech":
        """Raises UsageError for an unknown voice or preset, listing the known ones."""
        talker = speech.talker
        return ResolvedSpeech(
            voice=_choose("voice", self.voice or speech.default_voice, list(speech.voices)),
            preset=_choose("preset", self.preset or speech.default_preset, list(speech.presets)),
            sampling=self.sampling
            or Sampling(talker.temperature, talker.top_k, talker.top_p, talker.repetition_penalty),
            max_codes=min(self.max_codes or talker.max_codes, talker.max_codes),
            noise=self.noise,
        )


@dataclass(frozen=True)
class ResolvedSpeech:
    """Speech options with every choice made."""

    voice: str
    preset: str
    sampling: Sampling
    max_codes: int
    noise: Noise | None


@dataclass(frozen=True)
class ReplyOptions:
    """How a reply is made. `speech` None means text only. The seed decides every draw."""

    speech: SpeechOptions | None = SpeechOptions()
    sampling: Sampling = GREEDY
    max_tokens: int = 1024
    seed: int = 0


def _choose(kind: str, name: str, known: list[str]) -> str:
    if name not in known:
        raise UsageError(f"there is no {kind} {name!r}", fix=f"choose one of {', '.join(known)}")
    return name
