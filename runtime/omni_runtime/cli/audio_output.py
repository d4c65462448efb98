"""Chooses where the speech of each answer goes: what -o says, the loudspeaker, or a numbered file.

Opens sinks, writes none itself. Why there is a file that nobody asked for is told once, after the
first answer, so that an answer that fails is one line.
"""

import argparse
from pathlib import Path

from omni_runtime.atomic_file import is_stream
from omni_runtime.cli import ui
from omni_runtime.cli.speaker import Sink, WavDevice, WavFile, WavPipe, loudspeaker

DEFAULT_NAME = "answer.wav"


class AudioOutput:
    """Hands out one sink after the other."""

    @classmethod
    def of(cls, options: argparse.Namespace) -> "AudioOutput":
        """Where the flags of `omni run` send the speech."""
        return cls(options.output, play=not options.no_play, quiet=options.quiet)

    def __init__(self, output: str | None, *, play: bool, quiet: bool) -> None:
        """`output` is a file or "-" (-o); without it, `play` says whether speech is wanted."""
        self._output = output
        self._play = play
        self._quiet = quiet
        self._pipe: WavPipe | None = None
        self._opened = 0
        self._reason = ""

    @property
    def listened(self) -> bool:
        """Whether somebody may listen while speech is made: it goes to a device or a pipe."""
        if self._output:
            return self._output == "-" or is_stream(Path(self._output))
        return self._play and not isinstance(loudspeaker(), str)

    def open(self) -> Sink | None:
        """The sink of the next answer. Raises OmniError when it can't be written to."""
        self._opened += 1
        if self._output == "-":
            self._pipe = self._pipe or WavPipe()  # one stream for all answers
            return self._pipe
        if self._output:
            path = Path(self._output)
            if is_stream(path):
                return WavDevice(path)
            return WavFile(path if self._opened == 1 else free_name(path, self._opened))
        if not self._play:
            return None
        speaker = loudspeaker()
        if not isinstance(speaker, str):
            return speaker
        if self._opened == 1:
            self._reason = speaker
        return WavFile(free_name(Path.cwd() / DEFAULT_NAME))

    def explain(self) -> None:
        """Say, once, why speech went to a file."""
        if self._reason and not self._quiet:
            ui.note(f"speech goes to files: {self._reason}")
        self._reason = ""


def free_name(path: Path, number: int = 1) -> Path:
    """The path, or the first of its name and a number, from `number` on, that does not exist."""
    while True:
        candidate = path if number == 1 else path.with_stem(f"{path.stem}-{number}")
        if not candidate.exists():
            return candidate
        number += 1
