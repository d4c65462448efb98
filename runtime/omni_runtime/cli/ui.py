"""All drawing: the turn line, tables, sizes. Everything else hands over numbers."""

import sys
from collections.abc import Iterable, Sequence
from typing import TextIO

from omni_runtime.cli.common import format_size
from omni_runtime.events import PlaybackUnderrun, PresetChosen, TurnDone

_STEERING = {code: None for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def turn_line(done: TurnDone, speech: str | None = None) -> str:
    """48 tok · 7.9 tok/s · first text 0.7 s · first audio 1.9 s · speech 1.3x real time · peak …"""
    timings = done.timings
    parts = [f"{timings.reply_tokens} tok"]
    if timings.tokens_per_second is not None:
        parts.append(f"{timings.tokens_per_second:.1f} tok/s")
    if timings.first_text is not None:
        parts.append(f"first text {timings.first_text:.2f} s")
    if timings.first_audio is not None:
        parts.append(f"first audio {timings.first_audio:.2f} s")
    if timings.realtime is not None:
        parts.append(f"speech {timings.realtime:.1f}x real time")
    parts.append(f"peak {format_size(done.peak_memory)}")
    if done.finish_reason == "length":
        parts.append("cut at --max-tokens")
    if done.finish_reason == "context":
        parts.append(f"context full at {done.context_limit} tokens")
    if done.speech_complete is False:
        parts.append("speech cut at its limit")
    if speech:
        parts.append(f"speech: {speech}")
    return " · ".join(parts)


def speech_line(event: PresetChosen | PlaybackUnderrun) -> str:
    """What was chosen for speech, or why it paused and what to do about it."""
    return _chosen_line(event) if isinstance(event, PresetChosen) else _slow_line(event)


def _chosen_line(chosen: PresetChosen) -> str:
    reached = {name: f"{factor:.2g}x" for name, factor in chosen.realtime.items()}
    here = reached.pop(chosen.preset)
    others = ", ".join(f"{name} {factor}" for name, factor in reached.items())
    return f"preset {chosen.preset}: {here} real time here" + (f" ({others})" if others else "")


def _slow_line(slow: PlaybackUnderrun) -> str:
    line = f"speech paused: it is made at {slow.realtime:.2g}x real time here"
    if slow.codes < 1:
        line += f", since its codes come at {slow.codes:.2g}x, which no preset changes"
        return f"{line}; --whole waits for all of it"
    if not slow.faster:
        return f"{line}, and no preset is faster than {slow.preset}; --whole waits for all of it"
    return f"{line}; try --preset {' or '.join(slow.faster)}, or --whole, which waits for all of it"


def context_line(used: int, limit: int, cache_bytes: int) -> str:
    """How full the context is."""
    return (
        f"context {used} of {limit} tokens ({used / limit:.0%}) · caches {format_size(cache_bytes)}"
    )


def printable(text: str, out: TextIO) -> str:
    """Text without the control characters that would steer a terminal."""
    return text.translate(_STEERING) if out.isatty() else text


def say(text: str) -> None:
    """The answer to a command, on standard output."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """A remark beside the reply, on standard error."""
    sys.stderr.write(text + "\n")


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns under a header; numbers stand to the right."""
    lines = [list(header), *[list(row) for row in rows]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    out: list[str] = []
    for number, line in enumerate(lines):
        cells = [
            cell.rjust(width) if number and cell[:1].isdigit() else cell.ljust(width)
            for cell, width in zip(line, widths, strict=True)
        ]
        out.append("  ".join(cells).rstrip())
    return "\n".join(out)
