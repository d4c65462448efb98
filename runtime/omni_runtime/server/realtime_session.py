"""The configuration of a realtime session: what a client may set, and what it means here."""

from collections.abc import Mapping
from copy import copy, deepcopy
from typing import Any

from omni_runtime.options import ReplyOptions, SpeechOptions
from omni_runtime.server.content import PCM_RATE
from omni_runtime.server.errors import ApiError
from omni_runtime.server.realtime_events import Record, identifier
from omni_runtime.server.state import State
from omni_runtime.voice.turn_detector import TurnOptions

PCM: Record = {"type": "audio/pcm", "rate": PCM_RATE}
SERVER_VAD: Record = {
    "type": "server_vad",
    "threshold": 0.5,
    "prefix_padding_ms": 500,
    "silence_duration_ms": 500,
    "create_response": True,
    "interrupt_response": True,
    "idle_timeout_ms": None,
}
EAGERNESS_MS = {"low": 1500, "medium": 700, "auto": 700, "high": 400}
"""`semantic_vad` without Smart Turn: the silence that ends a turn."""
MODALITIES = ("audio", "text")
MAX_SILENCE_MS = 10_000


class SessionConfig:
    """The record that clients see, and the options that follow from it."""

    def __init__(self, state: State) -> None:
        self._state = state
        config = state.engine.model.config
        speaks = config.speech is not None
        voice = state.speech.voice or (config.speech.default_voice if config.speech else None)
        self.record: Record = {
            "type": "realtime",
            "object": "realtime.session",
            "id": identifier("sess"),
            "model": state.settings.model,
            "output_modalities": ["audio"] if speaks else ["text"],
            "instructions": config.system_prompt,
            "tools": [],
            "tool_choice": "none",
            "max_output_tokens": "inf",
            "truncation": "auto",
            "audio": {
                "input": {
                    "format": dict(PCM),
                    "transcription": None,
                    "noise_reduction": None,
                    "turn_detection": dict(SERVER_VAD),
                },
                "output": {"format": dict(PCM), "voice": voice, "speed": 1.0},
            },
        }

    @property
    def detection(self) -> Record | None:
        """Turn detection of the server; None when the client commits turns itself."""
        return self.record["audio"]["input"]["turn_detection"]

    @property
    def instructions(self) -> str:
        """The system prompt."""
        return self.record["instructions"]

    @property
    def speaks(self) -> bool:
        """Whether replies are spoken."""
        return "audio" in self.record["output_modalities"]

    def turns(self) -> TurnOptions:
        """Options of the turn detector."""
        found = self.detection or SERVER_VAD
        return TurnOptions(
            threshold=found["threshold"],
            end_silence=found["silence_duration_ms"] / 1000,
            pause=min(TurnOptions.pause, found["silence_duration_ms"] / 2000),
            pre_roll=found["prefix_padding_ms"] / 1000,
        )

    def reply(self) -> ReplyOptions:
        """Options of the replies."""
        state, limit = self._state, self.record["max_output_tokens"]
        speech = None
        if self.speaks:
            speech = SpeechOptions(
                voice=self.record["audio"]["output"]["voice"],
                preset=state.speech.preset,
                chunks="adaptive",
                max_codes=state.codes(state.settings.max_speech_seconds),
            )
        return state.reply_options(speech=speech, max_tokens=None if limit == "inf" else limit)

    def changed(self, given: Mapping[str, Any]) -> "SessionConfig":
        """A copy with other values for the fields that are present; unknown ones pass.

        Raises ApiError for bad values.
        """
        found = copy(self)
        found.record = deepcopy(self.record)
        found._update(given)
        return found

    def _update(self, given: Mapping[str, Any]) -> None:
        audio = _object(given, "audio")
        for side in ("input", "output"):
            kind = _object(_object(audio, side), "format").get("type", "audio/pcm")
            if kind != "audio/pcm":
                raise ApiError(f"{kind} is not supported: use audio/pcm", param="format")
        record = self.record
        if (modalities := given.get("output_modalities")) is not None:
            record["output_modalities"] = self._modalities(modalities)
        if isinstance(given.get("instructions"), str):
            record["instructions"] = given["instructions"]
        if (limit := given.get("max_output_tokens")) is not None:
            if limit != "inf" and (type(limit) is not int or limit < 1):
                raise ApiError("max_output_tokens must be positive", param="max_output_tokens")
            record["max_output_tokens"] = limit
        if (voice := _object(audio, "output").get("voice")) is not None:
            name = self._state.voice(voice if isinstance(voice, str) else None)
            record["audio"]["output"]["voice"] = name or record["audio"]["output"]["voice"]
        incoming = _object(audio, "input")
        if "turn_detection" in incoming:
            record["audio"]["input"]["turn_detection"] = _detection(incoming["turn_detection"])

    def _modalities(self, given: object) -> list[str]:
        if not isinstance(given, list) or not given or not all(one in MODALITIES for one in given):
            raise ApiError('output_modalities is ["audio"] or ["text"]', param="output_modalities")
        speaks = "audio" in given
        if speaks and self._state.engine.model.config.speech is None:
            raise ApiError("this bundle does not speak", param="output_modalities")
        return ["audio"] if speaks else ["text"]


def _detection(given: object) -> Record | None:
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise ApiError("turn_detection must be an object or null", param="turn_detection")
    found = dict(SERVER_VAD)
    if given.get("type") == "semantic_vad":
        eagerness = str(given.get("eagerness") or "auto")
        found["silence_duration_ms"] = EAGERNESS_MS.get(eagerness, EAGERNESS_MS["auto"])
    for name, low, high in (
        ("threshold", 0.01, 0.99),
        ("prefix_padding_ms", 0, 3000),
        ("silence_duration_ms", 100, MAX_SILENCE_MS),
    ):
        value = given.get(name)
        if value is None:
            continue
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not low <= value <= high:
            raise ApiError(f"{name} must be between {low} and {high}", param=name)
        found[name] = value
    for name in ("create_response", "interrupt_response"):
        if isinstance(given.get(name), bool):
            found[name] = given[name]
    return found


def _object(given: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = given.get(name)
    return found if isinstance(found, Mapping) else {}
