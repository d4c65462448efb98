"""Microphone and loudspeaker through sounddevice: callbacks only copy, one thread does the work.

PortAudio lists devices once; they are listed anew when one is opened, so that a headset plugged in
later is found.
"""

import importlib
import sys
from collections.abc import Callable
from contextlib import ExitStack
from queue import Empty, SimpleQueue
from threading import Event
from typing import Any

import numpy as np
import soxr  # pyright: ignore[reportMissingTypeStubs]

from omni_runtime.arrays import FloatArray
from omni_runtime.errors import OmniError, UsageError
from omni_runtime.voice.echo import EchoCanceller
from omni_runtime.voice.playback import Playback
from omni_runtime.voice.session import VoiceSession
from omni_runtime.voice.vad import SAMPLE_RATE

SILENT_SECONDS = 3.0
"""Exact zeros for this long mean that no permission was given (macOS) or the device is muted."""
HANDS_FREE_RATE = 16_000
INSTALL = 'pip install "pocket-omni[talk]"; on Linux also: apt install libportaudio2'


def load(*, refresh: bool = False) -> Any:
    """The module sounddevice. Raises OmniError where it or PortAudio is missing."""
    try:
        sounddevice: Any = importlib.import_module("sounddevice")
    except (ImportError, OSError):
        raise OmniError("sound devices need sounddevice and PortAudio", fix=INSTALL) from None
    if refresh:  # PortAudio has no other way to see devices that were plugged in since
        sounddevice._terminate()
        sounddevice._initialize()
    return sounddevice


def listing() -> list[tuple[str, str, str]]:
    """(name, directions, default sample rate) of all devices."""
    found: list[tuple[str, str, str]] = []
    for device in load(refresh=True).query_devices():
        ways = [
            name
            for name, key in (("input", "max_input_channels"), ("output", "max_output_channels"))
            if device[key]
        ]
        found.append((device["name"], ", ".join(ways), f"{device['default_samplerate']:.0f} Hz"))
    return found


def choose(sounddevice: Any, kind: str, name: str | None) -> dict[str, Any]:
    """The device of a direction ("input", "output"), by a part of its name or the default one."""
    key = f"max_{kind}_channels"
    try:
        if name is None:
            return dict(sounddevice.query_devices(kind=kind))
        devices = [dict(device) for device in sounddevice.query_devices() if device[key]]
    except (sounddevice.PortAudioError, ValueError) as error:
        raise _none(kind, str(error).splitlines()[0]) from None
    for device in devices:
        if name.lower() in device["name"].lower():
            return device
    known = ", ".join(device["name"] for device in devices) or "none"
    raise UsageError(f"there is no {kind} device {name!r}", fix=f"choose one of: {known}")


def _none(kind: str, reason: str) -> OmniError:
    return OmniError(
        f"there is no {kind} device: {reason}",
        fix="connect one, or use --input FILE --output FILE",
        code="no_audio_device",
    )


class Devices:
    """A microphone and a loudspeaker in step with a session."""

    def __init__(
        self,
        playback: Playback,
        *,
        microphone: str | None = None,
        loudspeaker: str | None = None,
        echo: EchoCanceller | None = None,
        note: Callable[[str], object] = lambda _: None,
    ) -> None:
        """Find the devices. Raises OmniError where there is none."""
        self._sounddevice = load(refresh=True)
        self._input = choose(self._sounddevice, "input", microphone)
        self._output = choose(self._sounddevice, "output", loudspeaker)
        self._playback = playback
        self._echo = echo
        self._note = note
        self._captured: SimpleQueue[FloatArray] = SimpleQueue()
        self._played: SimpleQueue[FloatArray] = SimpleQueue()
        self._latency = 0.0
        self._warn_hands_free()

    @property
    def names(self) -> tuple[str, str]:
        """Names of microphone and loudspeaker."""
        return self._input["name"], self._output["name"]

    def run(
        self,
        session: VoiceSession,
        over: Event,
        tick: Callable[[FloatArray, FloatArray], object],
    ) -> None:
        """Feed the session until `over` is set. `tick` gets microphone and reply samples."""
        rate = int(self._input["default_samplerate"])
        to_model = _resampler(rate, SAMPLE_RATE)
        to_reference = _resampler(self._playback.rate, SAMPLE_RATE)
        silence, warned = 0.0, False
        with self._open(rate):
            while not over.is_set():
                try:
                    captured = self._captured.get(timeout=0.1)
                except Empty:
                    continue
                silence = 0.0 if captured.any() else silence + len(captured) / rate
                if silence > SILENT_SECONDS and not warned:
                    warned = True
                    self._note(_no_permission())
                played = _drain(self._played)
                heard = to_model(captured)
                if self._echo is not None:
                    heard = self._echo.process(heard, to_reference(played))
                session.hear(heard)
                session.played(max(0.0, self._playback.taken_seconds - self._latency))
                tick(heard, played)

    def _open(self, rate: int) -> ExitStack:
        stack = ExitStack()
        try:
            microphone = self._sounddevice.InputStream(
                samplerate=rate,
                device=self._input["index"],
                channels=1,
                dtype="float32",
                blocksize=rate // 50,
                callback=self._capture,
            )
            loudspeaker = self._sounddevice.OutputStream(
                samplerate=self._playback.rate,
                device=self._output["index"],
                channels=1,
                dtype="float32",
                callback=self._play,
            )
            stack.enter_context(loudspeaker)
            stack.enter_context(microphone)
        except (self._sounddevice.PortAudioError, ValueError) as error:
            stack.close()
            raise _none("audio", str(error).splitlines()[0]) from None
        self._latency = float(loudspeaker.latency)
        return stack

    def _capture(self, data: FloatArray, _frames: int, _time: object, _status: object) -> None:
        self._captured.put(data[:, 0].copy())

    def _play(self, out: FloatArray, frames: int, _time: object, _status: object) -> None:
        samples = self._playback.take(frames)
        out[:, 0] = samples
        self._played.put(samples)

    def _warn_hands_free(self) -> None:
        """A Bluetooth headset whose microphone is used plays in telephone quality."""
        names = f"{self._input['name']} {self._output['name']}".lower()
        slow = self._input["default_samplerate"] <= HANDS_FREE_RATE
        if ("hands-free" in names or "headset" in names or "hfp" in names) and slow:
            self._note(
                "a Bluetooth microphone lowers the sound quality of its headset: "
                "choose another one with --input-device"
            )


def _no_permission() -> str:
    if sys.platform == "darwin":
        return (
            "the microphone gives only zeros: allow this terminal to use it in "
            "System Settings > Privacy & Security > Microphone"
        )
    return "the microphone gives only zeros: is it muted?"


def _resampler(rate: int, wanted: int) -> Callable[[FloatArray], FloatArray]:
    if rate == wanted:
        return lambda samples: samples
    stream: Any = soxr.ResampleStream(rate, wanted, 1, quality="HQ")
    return lambda samples: np.asarray(stream.resample_chunk(samples), np.float32)


def _drain(queue: SimpleQueue[FloatArray]) -> FloatArray:
    found = [np.zeros(0, np.float32)]
    while not queue.empty():
        found.append(queue.get())
    return np.concatenate(found)
