"""Errors in OpenAI's form: {"error": {"message", "type", "param", "code"}}."""

import logging
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse

from omni_runtime.errors import OmniError

log = logging.getLogger("omni.server")

STATUS = {
    "out_of_memory": 503,
    "closed": 503,
    "failed": 500,
    "inference_failed": 500,
    "reply_in_progress": 409,
}
"""Status of an OmniError by its code; 400 for the others, which a client can repair."""
RETRY_AFTER = 5
HUNG_UP = 499
"""Status in the log when the client left before an answer."""


class ApiError(Exception):
    """A request that is refused, with its HTTP status."""

    def __init__(
        self, message: str, *, status: int = 400, code: str = "invalid_request", param: str = ""
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param = status, code, param or None


def busy(what: str) -> ApiError:
    """Too many requests: the client should try again soon."""
    return ApiError(f"{what}; try again", status=503, code="busy")


def hung_up() -> ApiError:
    """The client left before an answer; only the log shows it."""
    return ApiError("the client hung up", status=HUNG_UP, code="disconnected")


def described(error: BaseException) -> tuple[int, dict[str, Any]]:
    """Return the status and the error object of any exception. Unknown ones say nothing."""
    if isinstance(error, ApiError):
        return error.status, _object(str(error), error.status, error.code, error.param)
    if isinstance(error, OmniError):
        status = STATUS.get(error.code, 400)
        message = error.message if error.fix is None else f"{error.message} ({error.fix})"
        return status, _object(message, status, error.code, None)
    if isinstance(error, ClientDisconnect):
        return described(hung_up())
    if isinstance(error, HTTPException):  # of a route: not found, not allowed, too large
        return error.status_code, _object(error.detail, error.status_code, "refused", None)
    log.error("internal error", exc_info=error)
    return 500, _object("internal error; the server's log has it", 500, "internal_error", None)


def response(error: BaseException) -> JSONResponse:
    """An error as an HTTP response."""
    status, found = described(error)
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    if status == 503:
        headers["Retry-After"] = str(RETRY_AFTER)
    return JSONResponse({"error": found}, status, headers)


async def handle(_request: Request, error: Exception) -> JSONResponse:
    """Starlette's exception handler."""
    return response(error)


def _object(message: str, status: int, code: str, param: str | None) -> dict[str, Any]:
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"message": message, "type": kind, "param": param, "code": code}
