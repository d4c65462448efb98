"""A recorded talk: both sides as wav files on one clock, and a log of events as lines of JSON."""

import json
import wave
from pathlib import Path
from typing import Any

import msgspec

from omni_runtime.arrays import FloatArray
from omni_runtime.errors import OmniError
from omni_runtime.events import PlaybackUnderrun, PresetChosen
from omni_runtime.voice.events import (
    Caption,
    Forgotten,
    Interrupted,
    ReplyFailed,
    SessionEvent,
    Speech,
    StateChanged,
    TurnFigures,
    TurnTaken,
)
from omni_runtime.voice.vad import SAMPLE_RATE
from omni_runtime.wav import pcm16


class Recording:
    """Writes `user.wav` (16 kHz), `reply.wav` (as it was played) and `events.jsonl`."""

    def __init__(self, folder: Path, reply_rate: int) -> None:
        """Raises OmniError when the folder cannot be written or holds another recording."""
        if (folder / "events.jsonl").exists():
            raise OmniError(f"{folder} holds a recording already", fix="give another folder")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._user = _wav(folder / "user.wav", SAMPLE_RATE)
            self._reply = _wav(folder / "reply.wav", reply_rate)
            self._log = (folder / "events.jsonl").open("w", encoding="utf-8")
        except OSError as error:
            raise OmniError(
                f"{folder} cannot be written: {error.strerror}", fix="give another folder"
            ) from None

    def tick(self, user: FloatArray, reply: FloatArray) -> None:
        """Append samples of both sides, float32 mono."""
        self._user.writeframes(pcm16(user))
        self._reply.writeframes(pcm16(reply))

    def event(self, event: SessionEvent, at: float) -> None:
        """Log an event; `at` is seconds of microphone samples."""
        record = {"at": round(at, 3), **as_record(event)}
        self._log.write(json.dumps(record, ensure_ascii=False) + "\n")
        self._log.flush()  # a killed process loses nothing of the log

    def close(self) -> None:
        """Finish the files."""
        for file in (self._user, self._reply, self._log):
            file.close()


def as_record(event: SessionEvent) -> dict[str, Any]:
    """An event as a flat record; of speech only its length."""
    match event:
        case StateChanged(state):
            kind, fields = "state", {"state": state.value}
        case TurnTaken(start, end):
            kind, fields = "turn_taken", {"start": start, "end": end}
        case Caption(text):
            kind, fields = "text", {"text": text}
        case Speech(samples, rate, first):
            kind, fields = "audio", {"seconds": len(samples) / rate, "first_sample": first}
        case Interrupted(heard, text):
            kind, fields = "interrupted", {"heard": heard, "text": text}
        case TurnFigures():
            kind, fields = "turn", _figures(event)
        case Forgotten(turns):
            kind, fields = "forgotten", {"turns": turns}
        case PresetChosen():
            kind, fields = "preset", msgspec.to_builtins(event)
        case PlaybackUnderrun():
            kind, fields = "underrun", msgspec.to_builtins(event)
        case ReplyFailed(error):
            kind, fields = "error", {"message": str(error)}
    return {"type": kind, **fields}


def _figures(event: TurnFigures) -> dict[str, Any]:
    return {
        "text": event.turn.text,
        "finish_reason": event.turn.finish_reason,
        "heard_seconds": event.heard_seconds,
        "decided_to_sound": event.decided_to_sound,
        "voice_to_sound": event.voice_to_sound,
        "realtime": event.turn.timings.realtime,
        "speech": event.turn.timings.speech,
        "cached_tokens": event.turn.timings.cached_tokens,
        "prompt_tokens": event.turn.timings.prompt_tokens,
        "reply_tokens": event.turn.timings.reply_tokens,
    }


def _wav(path: Path, rate: int) -> wave.Wave_write:
    file = wave.open(str(path), "wb")  # noqa: SIM115 - closed by close()
    file.setnchannels(1)
    file.setsampwidth(2)
    file.setframerate(rate)
    return file
