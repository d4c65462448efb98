"""POST /v1/audio/speech: read a text aloud, exactly.

The Thinker is asked to read the text aloud, and its reply is not sampled: the tokens of the text
are forced (`ReplyOptions.text`). The Talker speaks the rows of these tokens as it would speak a
reply. A long text is read in pieces of whole sentences, each in a conversation of its own.
"""

import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Literal

from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response

from omni_runtime.events import AudioDelta, TurnDone
from omni_runtime.inputs.messages import Text
from omni_runtime.options import ReplyOptions, SpeechOptions
from omni_runtime.server.audio_format import FORMAT, AudioEncoder
from omni_runtime.server.content import decode
from omni_runtime.server.errors import ApiError
from omni_runtime.server.replies import events, temporary
from omni_runtime.server.state import State
from omni_runtime.server.streams import Stream

INSTRUCTION = "Read this text aloud: {}"
PIECE = 240
"""Characters of a piece: about 15 s of speech."""
_SENTENCE_END = re.compile(
    r"[.!?\u2026]+[\"')\]\u00bb\u2019\u201d]*(?=\s)"  # not that in "3.14"
    r"|[\u3002\uff01\uff1f]+[\u300d\u300f\uff09\u2019\u201d]*"  # which no space follows
    r"|\S(?=\s*\n)"
)
_WORD_END = re.compile(r"\S(?=\s)")


class SpeechRequest(Struct):
    """A text to read aloud."""

    input: Annotated[str, Meta(min_length=1)]
    model: str = ""
    voice: str | None = None
    response_format: Annotated[str, FORMAT] = "mp3"
    speed: Annotated[float, Meta(ge=1, le=1)] = 1.0
    stream_format: Literal["audio"] = "audio"


class Speech:
    """The route."""

    def __init__(self, state: State) -> None:
        self._state = state

    async def __call__(self, request: Request) -> Response:
        """Answer a request with a stream of audio."""
        asked: SpeechRequest = decode(await request.body(), SpeechRequest)
        text = asked.input.strip()
        limit = self._state.settings.max_text
        if not text or len(text) > limit:
            raise ApiError(f"input must have 1 to {limit} characters", param="input")
        options = SpeechOptions(
            voice=self._state.voice(asked.voice),
            preset=self._state.speech.preset,
            chunks="adaptive",
        )
        rate = self._state.engine.model.speech.vocoder.sample_rate
        encoder = AudioEncoder(asked.response_format, rate)
        return Stream(self._pieces(text, options, encoder), encoder.media_type)

    async def _pieces(
        self, text: str, options: SpeechOptions, encoder: AudioEncoder
    ) -> AsyncGenerator[bytes]:
        engine = self._state.engine
        async with self._state.admission.slot():
            for piece in pieces(text):
                asked = [Text(INSTRUCTION.format(piece))]
                exact = ReplyOptions(options, text=piece, max_tokens=10 * PIECE)
                async with (
                    temporary(engine, self._state.settings.context) as conversation,
                    aclosing(events(conversation, asked, exact)) as reply,
                ):
                    async for event in reply:
                        if isinstance(event, AudioDelta):
                            yield encoder.push(event.samples)
                        elif isinstance(event, TurnDone):
                            self._state.metrics.reply(event)
        yield encoder.finish()


def pieces(text: str) -> list[str]:
    """Cut a text at ends of sentences, or else of words, into pieces of at most PIECE.

    Only white space between the pieces is left out.
    """
    found: list[str] = []
    rest = text.strip()
    while len(rest) > PIECE:
        cut = _last(_SENTENCE_END, rest) or _last(_WORD_END, rest) or PIECE
        found.append(rest[:cut])
        rest = rest[cut:].lstrip()
    return [*found, rest] if rest else found


def _last(pattern: re.Pattern[str], text: str) -> int:
    """The last end of a match within PIECE characters; 0 without one."""
    ends = (match.end() for match in pattern.finditer(text, 0, PIECE + 1))
    return max((end for end in ends if end <= PIECE), default=0)
