"""GET /openapi.json: a description of the HTTP routes.

Schemas of requests come from the types that decode them, so both agree. The WebSocket is not part
of OpenAPI; docs/server.md describes it.
"""

from importlib.metadata import PackageNotFoundError, version
from typing import Any

import msgspec

from omni_runtime.server.audio_format import MEDIA_TYPES
from omni_runtime.server.chat import ROLES, ChatRequest
from omni_runtime.server.settings import Settings
from omni_runtime.server.speech import SpeechRequest
from omni_runtime.server.transcriptions import FORMATS

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
NUMBER: Schema = {"type": "number"}
COUNT: Schema = {"type": "integer", "minimum": 0}
CHAT_EXAMPLE: Schema = {"messages": [{"role": "user", "content": "What is seven plus five?"}]}
MEDIA = ("image_url", "audio_url", "video_url")


def document(settings: Settings) -> Schema:
    """Return the OpenAPI 3.1 document of a server with these settings."""
    try:
        release = version("pocket-omni")
    except PackageNotFoundError:  # a checkout that is not installed
        release = "0"
    found: Schema = {
        "openapi": "3.1.0",
        "info": {"title": "Pocket Omni", "version": release},
        "paths": _paths(),
        "components": {"schemas": _schemas(settings)},
    }
    if settings.api_keys:
        found["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        found["security"] = [{"key": []}]
    return found


def _paths() -> Schema:
    name = {"name": "name", "in": "path", "required": True, "schema": TEXT}
    audio = {kind: {"schema": TEXT} for kind in sorted({*MEDIA_TYPES.values()})}
    events = {"description": "chat.completion.chunk objects, then [DONE]"}
    spoken = _json(_ref("Completion")) | {"text/event-stream": {"schema": events}}
    written = _json(_ref("Transcription")) | {"text/plain": {"schema": TEXT}}
    metrics = {"text/plain": {"schema": TEXT}}
    return {
        "/health": {"get": _route("Liveness", _json(_ref("Health"))) | {"security": []}},
        "/metrics": {"get": _route("Figures for Prometheus", metrics)},
        "/openapi.json": {"get": _route("This document", _json({"type": "object"}))},
        "/v1/models": {"get": _route("The model", _json(_ref("Models")))},
        "/v1/models/{name}": {
            "parameters": [name],
            "get": _route("The model by its name", _json(_ref("Model")), 404),
        },
        "/v1/chat/completions": {
            "post": _route("Reply to a conversation", spoken, 413, 503)
            | _body("application/json", _ref("ChatRequest"), CHAT_EXAMPLE)
        },
        "/v1/audio/speech": {
            "post": _route("Read a text aloud", audio, 413, 503)
            | _body("application/json", _ref("SpeechRequest"), {"input": "The sky is blue."})
        },
        "/v1/audio/transcriptions": {
            "post": _route("Write down what is heard", written, 413, 503)
            | _body("multipart/form-data", _ref("TranscriptionRequest"), file="audio/wav")
        },
    }


def _route(summary: str, content: Schema, *errors: int) -> Schema:
    """A route with the errors of the guard, which precede each route, and its own."""
    meaning = {
        400: "The request is not valid, or names an unknown host",
        401: "The API key is missing or wrong",
        403: "The page of another origin sent the request",
        404: "There is no such model",
        413: "The body is too large",
        503: "Too many requests wait, or no memory is left",
    }
    responses: Schema = {"200": {"description": summary, "content": content}}
    for status in sorted({400, 401, 403, *errors}):
        found: Schema = {"description": meaning[status], "content": _json(_ref("Error"))}
        if status == 503:
            found["headers"] = {"Retry-After": {"required": True, "schema": COUNT}}
        responses[str(status)] = found
    return {"summary": summary, "responses": responses}


def _body(media_type: str, schema: Schema, example: Schema | None = None, file: str = "") -> Schema:
    """A body; `file` is the media type of the field of this name, though others are read too."""
    found = {"schema": schema} | ({"example": example} if example else {})
    found |= {"encoding": {"file": {"contentType": file}}} if file else {}
    return {"requestBody": {"required": True, "content": {media_type: found}}}


def _json(schema: Schema) -> Schema:
    return {"application/json": {"schema": schema}}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(properties: Schema, *optional: str) -> Schema:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required}


def _schemas(settings: Settings) -> Schema:
    _, requests = msgspec.json.schema_components(
        [ChatRequest, SpeechRequest], ref_template="#/components/schemas/{name}"
    )
    requests["SpeechRequest"]["properties"]["input"]["maxLength"] = settings.max_text
    file = {"type": "string", "format": "binary"}
    transcription = {
        "file": file,
        "model": TEXT,
        "language": TEXT,
        "prompt": TEXT,
        "response_format": {"enum": [*FORMATS]},
    }
    error = {
        "message": TEXT,
        "type": {"enum": ["invalid_request_error", "server_error"]},
        "param": {"type": ["string", "null"]},
        "code": TEXT,
    }
    return requests | {
        "Message": _message(),
        "ContentPart": _content_part(),
        "TranscriptionRequest": _object(
            transcription, "model", "language", "prompt", "response_format"
        ),
        "Error": _object({"error": _object(error)}),
        "Health": _object({"status": {"const": "ok"}}),
        "Model": _model(),
        "Models": _object({
            "object": {"const": "list"},
            "data": {"type": "array", "items": _ref("Model")},
        }),
        "Completion": _completion(),
        "Transcription": _object(
            {"text": TEXT, "duration": NUMBER, "language": TEXT, "segments": {"type": "array"}},
            "duration", "language", "segments",
        ),
    }  # fmt: skip


def _message() -> Schema:
    parts = {"type": "array", "items": _ref("ContentPart")}
    return _object(
        {
            "role": {"enum": [*ROLES]},
            "content": {"anyOf": [TEXT, parts, {"type": "null"}]},
            "audio": {"anyOf": [_object({"id": TEXT}), {"type": "null"}]},
        },
        "content", "audio",
    )  # fmt: skip


def _content_part() -> Schema:
    sound = _object({"data": {"type": "string", "contentEncoding": "base64"}, "format": TEXT})
    kinds = [
        _object({"type": {"const": "text"}, "text": TEXT}),
        _object({"type": {"const": "input_audio"}, "input_audio": sound}, "format"),
    ]
    for name in MEDIA:
        url = {"type": "string", "pattern": "^(data|file):"}
        kinds.append(_object({"type": {"const": name}, name: _object({"url": url})}))
    return {"oneOf": kinds}


def _model() -> Schema:
    names = {"type": "array", "items": TEXT}
    return _object({
        "id": TEXT,
        "object": {"const": "model"},
        "created": COUNT,
        "owned_by": TEXT,
        "input_modalities": names,
        "output_modalities": names,
        "voices": names,
        "context_length": COUNT,
    })  # fmt: skip


def _completion() -> Schema:
    audio = _object({"id": TEXT, "transcript": TEXT, "expires_at": COUNT, "data": TEXT})
    message = _object(
        {"role": {"const": "assistant"}, "content": {"type": ["string", "null"]}, "audio": audio},
        "audio",
    )
    choice = _object({
        "index": COUNT,
        "finish_reason": {"enum": ["stop", "length"]},
        "message": message,
    })  # fmt: skip
    usage = {"prompt_tokens": COUNT, "completion_tokens": COUNT, "total_tokens": COUNT}
    return _object({
        "id": TEXT,
        "object": {"const": "chat.completion"},
        "created": COUNT,
        "model": TEXT,
        "choices": {"type": "array", "items": choice, "minItems": 1, "maxItems": 1},
        "usage": _object(usage),
    })  # fmt: skip
