"""Print and play one reply from its events, as text or as JSON lines.

Used for single prompts and in conversations. On any exit the events are closed, which stops the
work, and the sink has either the complete speech or none.
"""

import argparse
import json
import sys
from contextlib import closing
from dataclasses import dataclass
from typing import TextIO

from omni_runtime.cli import ui
from omni_runtime.cli.speaker import Sink, WavFile
from omni_runtime.events import (
    AudioDelta,
    Event,
    PlaybackUnderrun,
    PresetChosen,
    TextDelta,
    TurnDone,
)
from omni_runtime.model import Model
from omni_runtime.response import Response


@dataclass(frozen=True)
class Style:
    """Output format of replies. `load` (seconds) and `threads` are added to the JSON records."""

    as_json: bool
    quiet: bool
    speech_to_stdout: bool
    load: float
    threads: int

    @classmethod
    def of(cls, options: argparse.Namespace, load: float, model: Model) -> "Style":
        """Create a style from the flags of `omni run`."""
        return cls(
            as_json=options.json,
            quiet=options.quiet,
            speech_to_stdout=options.output == "-",
            load=load,
            threads=model.options.resolved_threads(),
        )

    @property
    def out(self) -> TextIO:
        """Stream for the text: stdout, or stderr if speech goes to stdout."""
        return sys.stderr if self.speech_to_stdout else sys.stdout


def deliver(events: Response, sink: Sink | None, style: Style) -> TurnDone | None:
    """Print and play a reply to its end. Return its last event if that is a TurnDone."""
    done, shown = None, None
    notes: list[str] = []  # printed below the text, not in the middle of it
    try:
        with closing(events):
            for event in events:
                if isinstance(event, AudioDelta) and sink is not None:
                    sink.write(event.samples, event.rate)
                done = event if isinstance(event, TurnDone) else None
                if isinstance(event, PresetChosen | PlaybackUnderrun):
                    notes.append(ui.speech_line(event))
                _show(event, style)
                shown = event if isinstance(event, TextDelta | TurnDone) else shown
        if sink is not None:
            sink.close(keep=True)
    except BaseException as error:
        if sink is not None:
            sink.close(keep=False)
        if isinstance(error, Exception) and isinstance(shown, TextDelta):
            _end_line(style)
        raise
    if done is not None and not style.quiet and not style.as_json:
        speech = sink.path.name if isinstance(sink, WavFile) and sink.kept else None
        ui.note(ui.turn_line(done, speech))
        for line in notes:
            ui.note(line)
    return done


def _end_line(style: Style) -> None:
    """End an incomplete line of text, so that an error starts on its own line."""
    if not style.as_json and (style.speech_to_stdout or style.out.isatty()):
        style.out.write("\n")


def _show(event: Event, style: Style) -> None:
    if style.as_json:
        record = as_json(event, style.load, style.threads)
        style.out.write(json.dumps(record, ensure_ascii=False) + "\n")
    elif isinstance(event, TextDelta):
        style.out.write(ui.printable(event.text, style.out))
    elif isinstance(event, TurnDone):
        style.out.write("\n")
    style.out.flush()


def as_json(event: Event, load: float, threads: int) -> dict[str, object]:
    """Return an event as a flat record. For audio it has the length; samples go to -o."""
    match event:
        case TextDelta(text, seconds):
            return {"type": "text", "text": text, "at": round(seconds, 4)}
        case AudioDelta(samples, rate, seconds):
            return {"type": "audio", "seconds": len(samples) / rate, "at": round(seconds, 4)}
        case PresetChosen(preset, realtime, seconds):
            at = round(seconds, 4)
            return {"type": "preset", "preset": preset, "realtime": realtime, "at": at}
        case PlaybackUnderrun():
            return {
                "type": "slow",
                "realtime": event.realtime,
                "codes": event.codes,
                "preset": event.preset,
                "faster": event.faster,
                "at": round(event.seconds, 4),
            }
        case TurnDone():
            timings = event.timings
            return {
                "type": "done",
                "text": event.text,
                "finish_reason": event.finish_reason,
                "speech_complete": event.speech_complete,
                "prompt_tokens": timings.prompt_tokens,
                "reply_tokens": timings.reply_tokens,
                "codes": timings.codes,
                "speech": timings.speech,
                "prefill": timings.prefill,
                "first_text": timings.first_text,
                "last_text": timings.last_text,
                "first_audio": timings.first_audio,
                "total": timings.total,
                "tokens_per_second": timings.tokens_per_second,
                "realtime": timings.realtime,
                "context_used": event.context_used,
                "context_limit": event.context_limit,
                "cache_bytes": event.cache_bytes,
                "peak_memory": event.peak_memory,
                "load": load,
                "threads": threads,
            }
