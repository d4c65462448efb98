"""`omni talk`: a spoken conversation, with microphone and loudspeaker or with files."""

import argparse
import json
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from threading import Event

from omni_runtime.arrays import FloatArray
from omni_runtime.cli import audio_devices, keys, ui
from omni_runtime.cli.camera import Camera
from omni_runtime.cli.run import reply_options, session_options
from omni_runtime.cli.speaker import WavFile
from omni_runtime.cli.talk_screen import Screen
from omni_runtime.engine.speed import SynthesisSpeed
from omni_runtime.errors import OmniError, UsageError
from omni_runtime.inputs.media import load_audio
from omni_runtime.model import Model
from omni_runtime.serving.engine import Engine
from omni_runtime.voice.echo import EchoCanceller
from omni_runtime.voice.events import (
    Interrupted,
    SessionEvent,
    Speech,
    State,
    StateChanged,
    TurnFigures,
)
from omni_runtime.voice.file_device import FileDevice
from omni_runtime.voice.playback import Playback
from omni_runtime.voice.recording import Recording, as_record
from omni_runtime.voice.session import VoiceSession
from omni_runtime.voice.smart_turn import SmartTurn
from omni_runtime.voice.turn_detector import TurnOptions
from omni_runtime.voice.vad import SAMPLE_RATE

INCOMPLETE_SILENCE = 2.0
"""Seconds of silence that end a turn which Smart Turn takes for incomplete."""

Tick = Callable[[FloatArray, FloatArray], object]


def main(options: argparse.Namespace) -> int:
    """Run until the file ends, or until q or Ctrl-C."""
    if options.list_devices:
        ui.say(ui.table(("device", "", "rate"), audio_devices.listing()))
        return 0
    if options.bundle is None:
        raise UsageError("the bundle is missing", fix="omni talk BUNDLE")
    recording = load_audio(Path(options.input), SAMPLE_RATE) if options.input else None
    model = Model(options.bundle, session_options(options))
    if model.config.audio is None:
        raise UsageError(f"{options.bundle} cannot hear", fix="omni show prints what it can do")
    model.warm_up(None if options.quiet else ui.note)
    with ExitStack() as stack:
        talk = _Talk(options, model, stack)
        if recording is not None:
            talk.with_files(recording)
        else:
            talk.with_devices()
    return 0


class _Talk:
    """Connects session, devices, screen and recording."""

    def __init__(self, options: argparse.Namespace, model: Model, stack: ExitStack) -> None:
        self._options = options
        self._over = Event()
        self._failure: Exception | None = None
        rate = model.speech.vocoder.sample_rate if model.config.speech else 24_000
        self._playback = Playback(rate)
        self._screen = Screen(quiet=options.quiet or options.json, keys=_help(options))
        stack.callback(self._screen.close)
        self._recording: Recording | None = None
        if options.record:
            self._recording = Recording(Path(options.record), rate)
            stack.callback(self._recording.close)
        self._files: FileDevice | None = None
        self._output: WavFile | None = None
        self._echo = self._echo_canceller()
        reply = reply_options(options, model)
        if reply.speech is not None:
            # Fixed chunks give the same samples every time; a listener wants the first one early.
            chunks = "fixed" if options.fast else "adaptive"
            reply = replace(reply, speech=replace(reply.speech, chunks=chunks))
            _load_speech(model)
        engine = stack.enter_context(Engine(model))
        conversation = engine.open(system=options.system, context=options.context)
        self._session = VoiceSession(
            conversation,
            self._event,
            turns=_turn_options(options),
            reply=reply,
            full_duplex=bool(options.input) or options.headphones or self._echo is not None,
            hands_free=not options.push_to_talk,
            read_ahead=options.read_ahead,
            smart_turn=_smart_turn(options),
        )
        stack.callback(self._session.close)
        self._camera = self._open_camera(stack)

    def _open_camera(self, stack: ExitStack) -> Camera | None:
        name = self._options.camera
        return stack.enter_context(Camera(name, self._screen.note)) if name else None

    def with_files(self, recording: FloatArray) -> None:
        """Use a recording as the microphone, and write the reply to --output on the same clock."""
        self._files = FileDevice(recording, self._playback, fast=self._options.fast)
        kept = False
        if self._options.output:
            self._output = WavFile(Path(self._options.output))
        try:
            self._files.run(self._session, self._tick)
            kept = True
        finally:
            if self._output is not None:
                self._output.close(keep=kept)

    def with_devices(self) -> None:
        """Use microphone and loudspeaker, and keys if there is a terminal."""
        options = self._options
        devices = audio_devices.Devices(
            self._playback,
            microphone=options.input_device,
            loudspeaker=options.output_device,
            echo=self._echo,
            note=self._screen.note,
        )
        if not options.quiet:
            microphone, loudspeaker = devices.names
            self._screen.note(f"microphone: {microphone} · loudspeaker: {loudspeaker}")
            if not options.headphones and self._echo is None:
                self._screen.note(
                    "no echo cancellation: the microphone is off while the reply is played "
                    '(--headphones, or pip install "pocket-omni[aec]")'
                )
        with keys.reading(self._key):
            devices.run(self._session, self._over, self._tick)

    def _event(self, event: SessionEvent) -> None:
        """Called from any thread; an error is raised by the next `_tick`, on the main thread."""
        try:
            self._show(event)
        except Exception as error:
            self._failure = self._failure or error

    def _show(self, event: SessionEvent) -> None:
        match event:
            case StateChanged(State.THINKING):
                self._playback.start()
                self._notice(event, reply_done=False)
            case Speech(samples):
                self._playback.add(samples)
                self._notice(event)
            case Interrupted():
                self._playback.clear()
                self._notice(event, reply_done=True)
            case TurnFigures():
                self._notice(event, reply_done=True)
            case _:
                self._notice(event)
        if self._options.json:
            sys.stdout.write(json.dumps(as_record(event), ensure_ascii=False) + "\n")
            sys.stdout.flush()
        else:
            self._screen.event(event)
        if self._recording is not None:
            self._recording.event(event, self._session.seconds)

    def _notice(self, event: SessionEvent, *, reply_done: bool | None = None) -> None:
        if self._files is not None:
            self._files.notice(event, reply_done=reply_done)

    def _tick(self, heard: FloatArray, played: FloatArray) -> None:
        if self._failure is not None:
            raise self._failure
        self._screen.level(heard)
        if self._recording is not None:
            self._recording.tick(heard, played)
        if self._output is not None:
            self._output.write(played, self._playback.rate)
        if self._camera is not None:
            self._session.see(self._camera.newest())

    def _key(self, key: str) -> None:
        if key == "q":
            self._over.set()
        elif key == "m":
            self._session.muted = self._screen.muted = not self._session.muted
        elif key == " ":
            if self._options.push_to_talk:
                self._session.key(not self._session.key_down)
            else:
                self._session.interrupt()

    def _echo_canceller(self) -> EchoCanceller | None:
        """Return the echo canceller if it is wanted and installed, otherwise None."""
        if self._options.input or self._options.headphones or self._options.half_duplex:
            return None
        try:
            return EchoCanceller.load()
        except OmniError:
            return None


def _turn_options(options: argparse.Namespace) -> TurnOptions:
    default = TurnOptions.end_silence if options.smart_turn is None else INCOMPLETE_SILENCE
    return TurnOptions(threshold=options.threshold, end_silence=options.end_silence or default)


def _smart_turn(options: argparse.Namespace) -> SmartTurn | None:
    if options.smart_turn is None:
        return None
    return SmartTurn(Path(options.smart_turn) if options.smart_turn else None)


def _help(options: argparse.Namespace) -> str:
    space = "talk" if options.push_to_talk else "interrupt"
    return f"space {space} · m mute · q quit"


def _load_speech(model: Model) -> SynthesisSpeed:
    """Load the graphs before the first turn, so that they do not delay its reply."""
    _ = model.thinker, model.audio_encoder
    return model.synthesis_speed
