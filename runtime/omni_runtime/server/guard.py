"""Who gets in: host names, origins and keys are checked before any route is reached."""

from collections.abc import Awaitable, Callable
from urllib.parse import SplitResult, urlsplit

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from omni_runtime.server import errors
from omni_runtime.server.errors import ApiError
from omni_runtime.server.settings import Settings

KEY_PROTOCOL = "openai-insecure-api-key."
"""Browsers cannot set a header of a WebSocket: they send the key as a subprotocol."""
OPEN_PATHS = ("/", "/health")
PAGE = "/page/"

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "media-src 'self' blob:; connect-src 'self'; worker-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "microphone=(self), camera=(self)",
}


class Guard:
    """ASGI middleware: refuses what a foreign page, host or a wrong key sends."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 400, 401 or 403."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is None:
            await self._app(scope, receive, _with_headers(scope, send))
        else:
            await _refuse(refusal, scope, receive, send)

    def _refusal(self, scope: Scope) -> ApiError | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        name = _split(f"//{host}").hostname or ""
        if name.lower() not in {known.strip("[]").lower() for known in self._settings.hosts}:
            return ApiError(
                "unknown host name; --host-name adds one", status=400, code="unknown_host"
            )
        origin = headers.get("origin")
        safe = scope["type"] == "http" and scope["method"] in ("GET", "HEAD")
        if origin is not None and not safe and _split(origin).netloc.lower() != host.lower():
            return ApiError("foreign origin", status=403, code="foreign_origin")
        path = scope["path"]
        if path in OPEN_PATHS or path.startswith(PAGE):
            return None
        if not self._settings.allows_key(_key(scope, headers)):
            return ApiError("the API key is missing or wrong", status=401, code="invalid_api_key")
        return None


def _split(url: str) -> SplitResult:
    """Split a URL; one that is malformed has no host."""
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")


def _key(scope: Scope, headers: Headers) -> str:
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and key:
        return key.strip()
    if scope["type"] == "websocket":
        for protocol in scope.get("subprotocols", ()):
            if protocol.startswith(KEY_PROTOCOL):
                return protocol.removeprefix(KEY_PROTOCOL)
    return ""


async def _refuse(error: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
    response: Response = errors.response(error)
    await response(scope, receive, send)  # a WebSocket gets it as an answer to its handshake


def _with_headers(scope: Scope, send: Send) -> Callable[[Message], Awaitable[None]]:
    if scope["type"] != "http":
        return send

    async def with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", []), *_RAW]}
        await send(message)

    return with_headers


_RAW = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
