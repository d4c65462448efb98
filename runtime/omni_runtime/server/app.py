"""The application: routes, guard, limits and the request log."""

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from time import perf_counter
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from omni_runtime.errors import OmniError
from omni_runtime.options import SpeechOptions
from omni_runtime.server import errors
from omni_runtime.server.chat import Chat
from omni_runtime.server.conversations import Conversations
from omni_runtime.server.errors import HUNG_UP, ApiError
from omni_runtime.server.guard import PAGE, Guard
from omni_runtime.server.metrics import Metrics
from omni_runtime.server.openapi import document
from omni_runtime.server.realtime import Realtime
from omni_runtime.server.replies import Admission
from omni_runtime.server.settings import Settings
from omni_runtime.server.speech import Speech
from omni_runtime.server.state import State
from omni_runtime.server.transcriptions import Transcriptions
from omni_runtime.serving.engine import Engine

log = logging.getLogger("omni.server")
PAGE_FOLDER = Path(__file__).parent / "page"


def application(
    engine: Engine, settings: Settings, speech: SpeechOptions | None = None
) -> Starlette:
    """Return the ASGI application. The engine belongs to the caller, and outlives it."""
    state = State(
        engine,
        settings,
        Conversations(engine, settings),
        Admission(settings.parallel, settings.queue),
        Metrics(),
        speech or SpeechOptions(),
    )

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncGenerator[None]:
        yield
        await state.conversations.close()

    return Starlette(
        routes=_routes(state),
        middleware=[Middleware(Guard, settings=settings), Middleware(RequestLog, state=state)],
        exception_handlers={
            ApiError: errors.handle,
            OmniError: errors.handle,
            HTTPException: errors.handle,
            ClientDisconnect: errors.handle,
            Exception: errors.handle,
        },
        lifespan=lifespan,
        max_body_size=settings.max_body,
    )


def _routes(state: State) -> list[Route | WebSocketRoute | Mount]:
    described = document(state.settings)

    async def page(_request: Request) -> Response:
        return FileResponse(PAGE_FOLDER / "index.html")

    async def health(_request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def openapi(_request: Request) -> Response:
        return JSONResponse(described)

    async def models(_request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [_model(state)]})

    async def model(request: Request) -> Response:
        if request.path_params["name"] != state.settings.model:
            raise ApiError("there is no such model", status=404, code="model_not_found")
        return JSONResponse(_model(state))

    async def metrics(_request: Request) -> Response:
        state.metrics.active.set(state.admission.active)
        state.metrics.waiting.set(state.admission.waiting)
        return Response(state.metrics.text(), media_type="text/plain; version=0.0.4")

    return [
        Route("/", page),
        Route("/health", health),
        Route("/metrics", metrics),
        Route("/openapi.json", openapi),
        Route("/v1/models", models),
        Route("/v1/models/{name:path}", model),
        Route("/v1/chat/completions", _endpoint(Chat(state)), methods=["POST"]),
        Route("/v1/audio/speech", _endpoint(Speech(state)), methods=["POST"]),
        Route("/v1/audio/transcriptions", _endpoint(Transcriptions(state)), methods=["POST"]),
        WebSocketRoute("/v1/realtime", Realtime(state).serve),
        Mount(PAGE.rstrip("/"), StaticFiles(directory=PAGE_FOLDER)),
    ]


def _endpoint(
    route: Callable[[Request], Awaitable[Response]],
) -> Callable[[Request], Awaitable[Response]]:
    """A route that is an object, as Starlette wants it: a function."""

    async def endpoint(request: Request) -> Response:
        return await route(request)

    return endpoint


def _model(state: State) -> dict[str, object]:
    config = state.engine.model.config
    senses = {"text": True, "audio": config.audio, "image": config.vision, "video": config.vision}
    return {
        "id": state.settings.model,
        "object": "model",
        "created": 0,
        "owned_by": "pocket-omni",
        "input_modalities": [name for name, there in senses.items() if there],
        "output_modalities": ["text", "audio"] if config.speech else ["text"],
        "voices": list(config.speech.voices) if config.speech else [],
        "context_length": config.thinker.decoder.max_context,
    }


class RequestLog:
    """ASGI middleware: one line for each request, with the figures of its reply."""

    def __init__(self, app: ASGIApp, state: State) -> None:
        self._app = app
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, then log it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = perf_counter(), HUNG_UP

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watch)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._state.metrics.request(route, status)
            summary = scope.get("state", {}).get("summary", "")
            seconds = perf_counter() - started
            path = quote(scope["path"], errors="replace")  # no control characters in a terminal
            line = f"{scope['method']} {path} {status} {seconds:.2f} s"
            log.info("%s%s", line, f" · {summary}" if summary else "")
