"""State of a conversation in the terminal, shared by the loop and the commands."""

import argparse
import os
from dataclasses import replace
from pathlib import Path

from omni_runtime.cli import ui
from omni_runtime.cli.answer import Style, deliver
from omni_runtime.cli.attach import MediaKind, find_files, media_part
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
    """The conversation, its options, and the files attached to the next message."""

    def __init__(
        self,
        conversation: Conversation,
        reply: ReplyOptions,
        options: argparse.Namespace,
        lines: LineInput,
        load: float,
    ) -> None:
        """`options` are the flags of `omni run`; `load` is the load time in seconds."""
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
        """Speech options, kept while speech is off."""
        return self._speech

    @speech.setter
    def speech(self, options: SpeechOptions) -> None:
        self._speech = options
        if self.reply.speech is not None:
            self.reply = replace(self.reply, speech=options)

    def ask(self, line: str) -> None:
        """Send a line with the attached files and those that it names. Raises OmniError."""
        text, files = find_files(line)
        for kind, path in files:
            self.attach(kind, path)
        parts: list[ContentPart] = [*self.attached, *([Text(text)] if text else [])]
        if not parts:
            return
        conversation = self.conversation
        before = len(conversation.messages)
        try:
            self.deliver(conversation.send(parts, self.reply))
        except OmniError as error:
            if len(conversation.messages) == before:
                self._drop_failed_media(error)
            raise
        finally:
            if len(conversation.messages) > before:  # the message was accepted
                self.attached.clear()

    def attach(self, kind: MediaKind, path: Path) -> None:
        """Attach a file to the next message. Raises OmniError if it cannot be attached."""
        config = self.conversation.model.config
        part = media_part(kind, path, config, sound=not self.options.no_video_sound)
        self.attached.append(part)
        if self.lines.interactive and not self.options.quiet:
            ui.note(f"attached: {path.name}")

    def deliver(self, events: Response) -> None:
        """Print and play a reply. In a terminal Ctrl-C cancels only the reply."""
        sink = self._outlet.open() if self.reply.speech is not None else None
        try:
            self.last = deliver(events, sink, self._style) or self.last
            self._outlet.explain()
        except KeyboardInterrupt:
            if not self.lines.interactive:
                raise
            ui.note("\n(stopped)")

    def _drop_failed_media(self, error: OmniError) -> None:
        """Drop the media that caused the error, and list those that are still attached."""
        if isinstance(error, MediaError):
            kept = [part for part in self.attached if _name(part) not in error.message]
            self.attached = kept if len(kept) < len(self.attached) else []
        if self.attached and not self.options.quiet:
            names = ", ".join(Path(_name(part)).name for part in self.attached)
            ui.note(f"still attached: {names} (/undo removes them)")


def _name(part: MediaPart) -> str:
    """Return the path of a media part, or the name that errors use for one without a path."""
    source = part.source
    if isinstance(source, audio_stream.AudioStream):
        return audio_stream.NAME
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    return f"the given {'sound' if kind_of(part) == 'audio' else 'data'}"
