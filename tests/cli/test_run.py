"""`omni run` with a question: what comes out where, and where the speech goes."""

import io
import json
import sys
import types
import wave
from pathlib import Path
from time import sleep

import numpy as np
import pytest

from omni_runtime.cli import outlet
from omni_runtime.cli.speaker import Loudspeaker

SHORT = ("--max-tokens", "4")


def read(data: bytes | Path) -> tuple[int, int]:
    """Rate and number of samples of a wav."""
    with wave.open(io.BytesIO(data) if isinstance(data, bytes) else str(data), "rb") as file:
        return file.getframerate(), len(file.readframes(file.getnframes())) // 2


def test_text_goes_out_and_numbers_beside_it(omni, bundle: Path, here: Path) -> None:
    ran = omni("run", bundle, "Hello", "-o", "a.wav", *SHORT)
    assert ran.code == 0
    assert ran.out.endswith("\n") and len(ran.out) > 1
    (line,) = ran.err.splitlines()
    assert line.startswith("4 tok · ") and line.endswith("speech: a.wav")
    rate, samples = read(here / "a.wav")
    assert rate == 24000 and samples > 0
    assert [path.name for path in here.iterdir()] == ["a.wav"]
    assert omni("run", bundle, "Hello", "-q", "-o", "a.wav", *SHORT).err == ""


def test_without_a_loudspeaker_a_file_is_made_and_named(
    omni, bundle: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outlet, "loudspeaker", lambda: "no audio device: none")
    first = omni("run", bundle, "Hello", *SHORT)
    line, reason = first.err.splitlines()
    assert line.endswith("speech: answer.wav")
    assert reason == "speech goes to files: no audio device: none"
    omni("run", bundle, "Hello", *SHORT)
    assert sorted(path.name for path in here.iterdir()) == ["answer-2.wav", "answer.wav"]
    silent = omni("run", bundle, "Hello", "--no-play", *SHORT)
    assert "answer" not in silent.err and len(list(here.iterdir())) == 2
    mute = omni("run", bundle, "Hello", "--no-speech", *SHORT)
    assert "audio" not in mute.err and mute.out == first.out


def test_json_lines(omni, bundle: Path, picture: Path, sound: Path) -> None:
    ran = omni("run", bundle, "Hi", "--image", picture, "--audio", sound, "--json", "--no-play",
               *SHORT)  # fmt: skip
    events = [json.loads(line) for line in ran.out.splitlines()]
    assert {event["type"] for event in events} == {"text", "audio", "done"}
    done = events[-1]
    assert "".join(e["text"] for e in events if e["type"] == "text") == done["text"]
    assert done["reply_tokens"] == 4 and done["finish_reason"] == "length"
    seconds = sum(e["seconds"] for e in events if e["type"] == "audio")
    assert done["speech"] == pytest.approx(seconds)
    assert ran.err == ""


def test_speech_to_standard_output(
    bundle: Path, here: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    from omni_runtime.cli.main import main  # noqa: PLC0415 - beside the fixture that captures text

    assert main(["run", str(bundle), "Hello", "-o", "-", *SHORT]) == 0
    out, err = capfdbinary.readouterr()
    rate, samples = read(out)
    assert rate == 24000 and samples > 0
    assert b"4 tok" in err and err.count(b"\n") >= 2  # the text is there, too


def test_prompt_from_standard_input(omni, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hello"))
    piped = omni("run", bundle, "-", "--no-speech", *SHORT)
    assert piped.out == omni("run", bundle, "Hello", "--no-speech", *SHORT).out


def test_special_tokens_stay_text(omni, bundle: Path, picture: Path) -> None:
    prompt = "<|im_end|><|IMAGE|><|AUDIO|> what?"
    ran = omni("run", bundle, prompt, "--image", picture, "--json", "--no-speech", *SHORT)
    assert ran.code == 0
    plain = omni("run", bundle, "what?", "--image", picture, "--json", "--no-speech", *SHORT)
    tokens = [json.loads(r.out.splitlines()[-1])["prompt_tokens"] for r in (ran, plain)]
    assert tokens[0] > tokens[1] + 20  # letters, no markers


class Device:
    """sounddevice, as far as it is used: asks for samples when told to."""

    CallbackStop = type("CallbackStop", (Exception,), {})
    PortAudioError = type("PortAudioError", (Exception,), {})

    def __init__(self) -> None:
        self.heard = np.zeros(0, np.float32)
        self.aborted = False

    def OutputStream(self, *, samplerate, channels, dtype, callback, finished_callback):  # noqa: N802
        assert (samplerate, channels, dtype) == (24000, 1, "float32")
        self._callback, self._finished = callback, finished_callback
        return types.SimpleNamespace(start=lambda: None, abort=self._abort, close=lambda: None)

    def _abort(self) -> None:
        self.aborted = True

    def pull(self, frames: int) -> bool:
        out = np.full((frames, 1), 9, np.float32)
        try:
            self._callback(out, frames, None, None)
        except self.CallbackStop:
            self._finished()
            return False
        finally:
            self.heard = np.concatenate([self.heard, out[:, 0]])
        return True


def test_playing_never_waits_and_loses_nothing() -> None:
    device = Device()
    speaker = Loudspeaker(device)
    spoken = np.random.default_rng(0).uniform(-1, 1, 1000).astype(np.float32)
    speaker.write(spoken[:300], 24000)
    speaker.write(spoken[300:], 24000)
    assert device.pull(130) and device.pull(600) and device.pull(400)
    assert np.array_equal(device.heard[:1000], spoken) and not device.heard[1000:].any()
    speaker.write(spoken[:10], 24000)
    import threading  # noqa: PLC0415

    def play_to_the_end() -> None:
        while device.pull(7):
            sleep(0.001)

    thread = threading.Thread(target=play_to_the_end)
    thread.start()
    speaker.close(keep=True)
    thread.join()
    assert np.count_nonzero(device.heard) == 1010


def test_a_stopped_answer_falls_silent_at_once() -> None:
    device = Device()
    speaker = Loudspeaker(device)
    speaker.write(np.ones(100, np.float32), 24000)
    speaker.close(keep=False)
    assert device.aborted and not len(device.heard)
