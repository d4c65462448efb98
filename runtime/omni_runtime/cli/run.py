"""`omni run`: one question and its spoken answer, or a conversation."""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import TextIO

from omni_runtime.cli import ui
from omni_runtime.cli.speaker import Sink, WavFile, WavPipe, free_name, loudspeaker
from omni_runtime.conversation import Conversation
from omni_runtime.engine.sampling import Sampling
from omni_runtime.engine.session import SessionOptions
from omni_runtime.errors import UsageError
from omni_runtime.events import AudioDelta, Event, TextDelta, TurnDone
from omni_runtime.inputs.prompt import Audio, Image, Part, Text, Video
from omni_runtime.model import Model
from omni_runtime.options import ReplyOptions, SpeechOptions


def main(options: argparse.Namespace) -> int:
    """Answer once when there is a prompt or a file, else start a conversation."""
    started = perf_counter()
    parts = question(options)
    model = Model(options.bundle, SessionOptions(options.threads))
    wanted = reply_options(options, model)
    conversation = Conversation(model, system=options.system, context=options.context)
    if not parts:
        from omni_runtime.cli.repl import Repl  # noqa: PLC0415 - only a conversation needs it

        return Repl(conversation, wanted, options).loop()
    sink = _sink(options) if wanted.speech else None
    load = perf_counter() - started
    try:
        events = conversation.send(parts, wanted)
        if options.json:
            _print_json(events, sink, load, model.options.resolved_threads())
        else:
            _print_reply(events, sink, options)
    except BaseException:
        if sink is not None:
            sink.close(keep=False)
        raise
    if sink is not None:
        sink.close(keep=True)
        if isinstance(sink, WavFile) and not options.quiet and not options.json:
            ui.note(f"speech: {sink.path}")
    return 0


def question(options: argparse.Namespace) -> list[Part]:
    """Media in the order of the flags, then the prompt."""
    parts = [medium(kind, name, sound=not options.no_video_sound) for kind, name in options.media]
    prompt = sys.stdin.read() if options.prompt == "-" else options.prompt
    if prompt and prompt.strip():
        parts.append(Text(prompt))
    elif prompt is not None and not parts:
        raise UsageError(
            "the prompt is empty", fix="say something, or leave it out to talk"
        )
    return parts


def medium(kind: str, name: str, *, sound: bool = True) -> Part:
    """A picture, a recording or a video from a file."""
    if kind == "image":
        return Image(Path(name))
    return Audio(Path(name)) if kind == "audio" else Video(Path(name), use_audio=sound)


def reply_options(options: argparse.Namespace, model: Model) -> ReplyOptions:
    """Flags to options. Raises UsageError for an unknown voice or preset, or a wrong value."""
    if (
        options.temp < 0
        or not 0 < options.top_p <= 1
        or options.repeat_penalty <= 0
        or options.seed < 0
    ):
        raise UsageError(
            "a sampling flag is out of range",
            fix="--temp >= 0, 0 < --top-p <= 1, --repeat-penalty > 0, --seed >= 0",
        )
    speech = None
    named = options.voice or options.preset or options.output
    if not options.no_speech and (model.config.speech is not None or named):
        speech = SpeechOptions(options.voice, options.preset)
        speech.resolved(model.speech)
    return ReplyOptions(
        speech=speech,
        sampling=Sampling(options.temp, options.top_k, options.top_p, options.repeat_penalty),
        max_tokens=options.max_tokens,
        seed=options.seed,
    )


def _sink(options: argparse.Namespace) -> Sink | None:
    if options.output == "-":
        return WavPipe()
    if options.output:
        return WavFile(Path(options.output))
    if options.no_play:
        return None
    speaker = loudspeaker()
    if not isinstance(speaker, str):
        return speaker
    path = free_name(Path.cwd())
    ui.note(f"{speaker}; the speech goes to {path.name}")
    return WavFile(path)


def _print_reply(events: Iterator[Event], sink: Sink | None, options: argparse.Namespace) -> None:
    out: TextIO = sys.stderr if options.output == "-" else sys.stdout
    for event in events:
        match event:
            case TextDelta(text):
                out.write(text)
                out.flush()
            case AudioDelta(samples, rate):
                if sink is not None:
                    sink.write(samples, rate)
            case TurnDone():
                out.write("\n")
                out.flush()
                if not options.quiet:
                    ui.note(ui.turn_line(event))


def _print_json(events: Iterator[Event], sink: Sink | None, load: float, threads: int) -> None:
    out: TextIO = sys.stderr if isinstance(sink, WavPipe) else sys.stdout
    for event in events:
        if isinstance(event, AudioDelta) and sink is not None:
            sink.write(event.samples, event.rate)
        out.write(json.dumps(as_json(event, load, threads), ensure_ascii=False) + "\n")
        out.flush()


def as_json(event: Event, load: float, threads: int) -> dict[str, object]:
    """An event as a flat record; of sound only its length, the samples go to -o."""
    match event:
        case TextDelta(text, seconds):
            return {"type": "text", "text": text, "at": round(seconds, 4)}
        case AudioDelta(samples, rate, seconds):
            return {"type": "audio", "seconds": len(samples) / rate, "at": round(seconds, 4)}
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
