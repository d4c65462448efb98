"""Formatting of terminal output: the line after a reply, notes, tables."""

import sys
from collections.abc import Iterable, Sequence
from typing import TextIO

from omni_runtime.cli.common import format_size
from omni_runtime.events import PlaybackUnderrun, PresetChosen, TurnDone

_CONTROL = {code: None for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


WHOLE = "--whole plays it after synthesis, without pauses"


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
        parts.append("stopped at --max-tokens")
    if done.finish_reason == "context":
        parts.append(f"context full at {done.context_limit} tokens")
    if done.speech_complete is False:
        parts.append("speech stopped at its limit")
    if speech:
        parts.append(f"speech: {speech}")
    return " · ".join(parts)


def speech_line(event: PresetChosen | PlaybackUnderrun, *, whole: bool = True) -> str:
    """Format the preset that "auto" selected, or a playback underrun and what to do about it.

    `whole`: the flag --whole can be given.
    """
    if isinstance(event, PresetChosen):
        return _preset_line(event)
    return _underrun_line(event) + (f"; {WHOLE}" if whole else "")


def _preset_line(chosen: PresetChosen) -> str:
    factors = {name: f"{factor:.2g}x" for name, factor in chosen.realtime.items()}
    selected = factors.pop(chosen.preset)
    others = ", ".join(f"{name} {factor}" for name, factor in factors.items())
    return f"preset {chosen.preset}: {selected} real time on this machine" + (
        f" ({others})" if others else ""
    )


def _underrun_line(slow: PlaybackUnderrun) -> str:
    line = f"playback underran: speech is synthesized at {slow.realtime:.2g}x real time"
    if slow.codes < 1:
        return f"{line}, its codes at {slow.codes:.2g}x with every preset"
    if not slow.faster:
        return f"{line}, and no preset is faster than {slow.preset}"
    return f"{line}; try --preset {' or '.join(slow.faster)}"


def context_line(used: int, limit: int, cache_bytes: int) -> str:
    """Format the context usage."""
    return (
        f"context {used} of {limit} tokens ({used / limit:.0%}) · caches {format_size(cache_bytes)}"
    )


def printable(text: str, out: TextIO) -> str:
    """Remove control characters if the stream is a terminal."""
    return without_control(text) if out.isatty() else text


def without_control(text: str) -> str:
    """Remove control characters but tabs and ends of lines."""
    return text.translate(_CONTROL)


def say(text: str) -> None:
    """Print the output of a command on standard output."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """Print a remark on standard error."""
    sys.stderr.write(text + "\n")


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Format columns under a header. Numbers are right-aligned."""
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
