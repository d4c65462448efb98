"""POST /v1/audio/transcriptions: the model is asked, in words, to write down what it hears.

The model has no alignment, so no time stamps are given: `verbose_json` has one segment, as long as
the recording, and words are refused.
"""

import asyncio
from contextlib import aclosing
from typing import Any

from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from omni_runtime.events import TurnDone
from omni_runtime.inputs.media import load_audio
from omni_runtime.inputs.messages import Audio, Text
from omni_runtime.options import ReplyOptions
from omni_runtime.server.errors import ApiError
from omni_runtime.server.replies import events, temporary, unless_disconnected
from omni_runtime.server.state import State, summary

INSTRUCTION = "Transcribe the speech{}. Write down only the words that are spoken."
FORMATS = ("json", "text", "verbose_json")


class Transcriptions:
    """The route."""

    def __init__(self, state: State) -> None:
        self._state = state

    async def __call__(self, request: Request) -> Response:
        """Answer a multipart request."""
        limit = self._state.settings.max_body
        async with request.form(max_files=1, max_fields=32, max_part_size=limit) as form:
            file = form.get("file")
            if not isinstance(file, UploadFile):
                raise ApiError("file is missing", param="file")
            data = await file.read()
            kind = _text(form, "response_format") or "json"
            if kind not in FORMATS:
                known = ", ".join(FORMATS)
                raise ApiError(f"response_format must be one of {known}", param="response_format")
            if "word" in form.getlist("timestamp_granularities[]"):
                raise ApiError("words have no time stamps here", code="unsupported")
            language, hint = _text(form, "language"), _text(form, "prompt")
        return await unless_disconnected(request, self._answer(request, data, kind, language, hint))

    async def _answer(
        self, request: Request, data: bytes, kind: str, language: str, hint: str
    ) -> Response:
        engine = self._state.engine
        asked = INSTRUCTION.format(f" in the language {language}" if language else "")
        if hint:
            asked += f" Context: {hint}"
        done: TurnDone | None = None
        context = self._state.settings.context
        longest = context or engine.model.config.thinker.decoder.max_context
        options = ReplyOptions(None, max_tokens=longest)
        async with (
            self._state.admission.slot(),
            temporary(engine, context) as conversation,
            aclosing(events(conversation, [Audio(data), Text(asked)], options)) as reply,
        ):
            async for event in reply:
                if isinstance(event, TurnDone):
                    done = event
        assert done is not None
        self._state.metrics.reply(done)
        request.state.summary = summary(done)
        if done.finish_reason != "stop":
            raise ApiError(
                "the transcript does not fit in the context: send a shorter recording",
                code="context_full",
                param="file",
            )
        return await self._response(kind, done.text.strip(), data, language)

    async def _response(self, kind: str, text: str, data: bytes, language: str) -> Response:
        if kind == "text":
            return PlainTextResponse(text + "\n")
        if kind == "json":
            return JSONResponse({"text": text})
        rate = 16_000
        seconds = len(await asyncio.to_thread(load_audio, data, rate)) / rate
        segment: dict[str, Any] = {"id": 0, "start": 0.0, "end": seconds, "text": text}
        return JSONResponse({
            "task": "transcribe",
            "language": language or "unknown",
            "duration": seconds,
            "text": text,
            "segments": [segment],
        })  # fmt: skip


def _text(form: FormData, name: str) -> str:
    value = form.get(name)
    return value if isinstance(value, str) else ""
