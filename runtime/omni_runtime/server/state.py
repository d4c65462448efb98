"""What the routes of a server share."""

import logging
from dataclasses import dataclass

from omni_runtime.engine.sampling import GREEDY, Sampling
from omni_runtime.events import TurnDone
from omni_runtime.options import ReplyOptions, SpeechOptions
from omni_runtime.server.conversations import Conversations
from omni_runtime.server.errors import ApiError
from omni_runtime.server.metrics import Metrics
from omni_runtime.server.replies import Admission
from omni_runtime.server.settings import Settings
from omni_runtime.server.usage import prompt_tokens
from omni_runtime.serving.engine import Engine

log = logging.getLogger("omni.server")

OPENAI_VOICES = frozenset(  # clients send these unasked
    "alloy ash ballad cedar coral echo fable marin nova onyx sage shimmer verse".split()  # noqa: SIM905
)
"""Clients send these unasked; they mean the bundle's default voice."""


@dataclass
class State:
    """One server: an engine, its conversations, limits and figures."""

    engine: Engine
    settings: Settings
    conversations: Conversations
    admission: Admission
    metrics: Metrics
    speech: SpeechOptions
    """Defaults of the command line."""

    def voice(self, name: str | None) -> str | None:
        """The bundle's name of a voice; None is its default. Raises ApiError."""
        config = self.engine.model.config.speech
        if name is None or config is None or name in OPENAI_VOICES:
            return self.speech.voice
        for known in config.voices:
            if known.lower() == name.lower():
                return known
        known = ", ".join(config.voices)
        raise ApiError(f"there is no voice {name!r}; choose one of {known}", param="voice")

    def codes(self, seconds: float) -> int:
        """Codec tokens of so much speech."""
        return round(seconds * self.engine.model.codes_per_second)

    def reply_options(
        self,
        *,
        speech: SpeechOptions | None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        seed: int | None = None,
    ) -> ReplyOptions:
        """Options of a reply."""
        sampling = GREEDY
        if temperature:
            sampling = Sampling(temperature=temperature, top_p=1.0 if top_p is None else top_p)
        default = ReplyOptions()
        return ReplyOptions(
            speech=speech,
            sampling=sampling,
            max_tokens=max_tokens or default.max_tokens,
            seed=abs(seed or 0) % 2**32,
        )


def usage(done: TurnDone) -> dict[str, object]:
    """Tokens of a reply in the form of Chat Completions."""
    timings = done.timings
    prompt, cached = prompt_tokens(done)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": timings.reply_tokens,
        "total_tokens": done.context_used,
        "prompt_tokens_details": {"cached_tokens": cached, "audio_tokens": 0},
        "completion_tokens_details": {"audio_tokens": timings.codes, "reasoning_tokens": 0},
    }


def summary(done: TurnDone) -> str:
    """Figures of a reply for the request log."""
    prompt, cached = prompt_tokens(done)
    timings = done.timings
    line = f"{cached} cached + {prompt - cached} new tok"
    line += f" · {timings.reply_tokens} tok"
    if timings.first_text is not None:
        line += f" · first text {timings.first_text:.2f} s"
    if timings.first_audio is not None:
        line += f" · first audio {timings.first_audio:.2f} s · speech {timings.speech:.1f} s"
    return line
