"""The state of a conversation in the terminal: what its commands and its loop work on."""

import argparse
import os
from dataclasses import replace
from pathlib import Path

from omni_runtime.cli import ui
from omni_runtime.cli.answer import Style, deliver
from omni_runtime.cli.attach import MediaKind, find_files, medium
from omni_runtime.cli.audio_output import AudioOutput
from omni_runtime.cli.line_input import LineInput
from omni_runtime.conversation import Conversation
from omni_runtime.errors import MediaError, OmniError
from omni_runtime.events import TurnDone
from omni_runtime.inputs import audio_stream
from omni_runtime.inputs.messages import ContentPart, MediaPart, Text, kind_of
from omni_runtime.options import ReplyOptions, SpeechOptions
from omni_runtime.response import Response


class ReplState:
    """The conversation, its options, and what is attached for the next line."""

    def __init__(
        self,
        conversation: Conversation,
        reply: ReplyOptions,
        options: argparse.Namespace,
        lines: LineInput,
        load: float,
    ) -> None:
        """`options` are the flags of `omni run`; `load` is the seconds that loading took."""
        self.conversation = conversation
        self.reply = reply
        self.lines = lines
        self.attached: list[MediaPart] = []
        self.last: TurnDone | None = None
        self.over = False
        self._speech = reply.speech
        self.options = options
        self._outlet = AudioOutput.of(options)
        self._style = Style.of(options, load, conversation.model)

    @property
    def speech(self) -> SpeechOptions | None:
        """How answers are spoken, or would be if speech were not off."""
        return self._speech

    @speech.setter
    def speech(self, options: SpeechOptions) -> None:
        self._speech = options
        if self.reply.speech is not None:
            self.reply = replace(self.reply, speech=options)

    def ask(self, line: str) -> None:
        """Send a line with the files named in it and what is attached. Raises OmniError."""
        text, files = find_files(line)
        for kind, path in files:
            self.attach(kind, path)
        parts: list[ContentPart] = [*self.attached, *([Text(text)] if text else [])]
        if not parts:
            return
        talk = self.conversation
        before = len(talk.messages)
        try:
            self.deliver(talk.send(parts, self.reply))
        except OmniError as error:
            if len(talk.messages) == before:
                self._blame(error)
            raise
        finally:
            if len(talk.messages) > before:  # the turn was taken, even if it was stopped
                self.attached.clear()

    def attach(self, kind: MediaKind, path: Path) -> None:
        """Keep a file for the next line. Raises OmniError when it can't be taken."""
        config = self.conversation.model.config
        part = medium(kind, path, config, sound=not self.options.no_video_sound)
        self.attached.append(part)
        if self.lines.interactive and not self.options.quiet:
            ui.note(f"attached: {path.name}")

    def deliver(self, events: Response) -> None:
        """Show and play an answer; a person's Ctrl-C stops it and nothing else."""
        sink = self._outlet.open() if self.reply.speech is not None else None
        try:
            self.last = deliver(events, sink, self._style) or self.last
            self._outlet.explain()
        except KeyboardInterrupt:
            if not self.lines.interactive:
                raise
            ui.note("\n(stopped)")

    def _blame(self, error: OmniError) -> None:
        """Drop the media that made the turn fail; tell which ones wait for another try."""
        if isinstance(error, MediaError):
            kept = [part for part in self.attached if _name(part) not in error.message]
            self.attached = kept if len(kept) < len(self.attached) else []
        if self.attached and not self.options.quiet:
            names = ", ".join(Path(_name(part)).name for part in self.attached)
            ui.note(f"still attached: {names} (/undo drops what is attached)")


def _name(part: MediaPart) -> str:
    """The path of a medium, or what errors call one that was recorded."""
    source = part.source
    if isinstance(source, audio_stream.AudioStream):
        return audio_stream.NAME
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    return f"the given {'sound' if kind_of(part) == 'audio' else 'data'}"
