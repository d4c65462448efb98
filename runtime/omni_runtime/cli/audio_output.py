"""Select the sink for the speech of each reply: the target of -o, the loudspeaker, or a file.

Without a loudspeaker speech goes to files. The reason is printed once, after the first reply, so
that a reply that fails still prints one line.
"""

import argparse
from pathlib import Path

from omni_runtime.atomic_file import is_stream
from omni_runtime.cli import ui
from omni_runtime.cli.speaker import Sink, WavDevice, WavFile, WavPipe, loudspeaker

DEFAULT_NAME = "answer.wav"


class AudioOutput:
    """Opens one sink per reply."""

    @classmethod
    def of(cls, options: argparse.Namespace) -> "AudioOutput":
        """Create the output that the flags of `omni run` select."""
        return cls(options.output, play=not options.no_play, quiet=options.quiet)

    def __init__(self, output: str | None, *, play: bool, quiet: bool) -> None:
        """`output` is a file or "-" (-o). Without it `play` selects the loudspeaker or no sink."""
        self._output = output
        self._play = play
        self._quiet = quiet
        self._pipe: WavPipe | None = None
        self._opened = 0
        self._reason = ""

    @property
    def is_live(self) -> bool:
        """Whether speech is played while it is synthesized: the sink is a device or a pipe."""
        if self._output:
            return self._output == "-" or is_stream(Path(self._output))
        return self._play and not isinstance(loudspeaker(), str)

    def open(self) -> Sink | None:
        """Open the sink of the next reply. Raises OmniError if it cannot be written."""
        self._opened += 1
        if self._output == "-":
            self._pipe = self._pipe or WavPipe()  # one stream for all replies
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
        """Print once why speech went to a file."""
        if self._reason and not self._quiet:
            ui.note(f"speech is written to files: {self._reason}")
        self._reason = ""


def free_name(path: Path, number: int = 1) -> Path:
    """Return the path, or NAME-2, NAME-3, ... (from `number` on): the first that does not exist."""
    while True:
        candidate = path if number == 1 else path.with_stem(f"{path.stem}-{number}")
        if not candidate.exists():
            return candidate
        number += 1
