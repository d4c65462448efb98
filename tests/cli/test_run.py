"""`omni run` with a prompt: text, notes, JSON, and the sinks of speech."""

import io
import json
import sys
import types
import wave
from dataclasses import replace
from pathlib import Path
from time import sleep

import numpy as np
import pytest

from inputs.samples import frame, write_media
from omni_runtime.cli import audio_output, ui
from omni_runtime.cli.answer import Style, deliver
from omni_runtime.cli.speaker import Loudspeaker
from omni_runtime.events import PlaybackUnderrun, PresetChosen, TextDelta, Timings, TurnDone

SHORT = ("--max-tokens", "4")


def read(data: bytes | Path) -> tuple[int, int]:
    """Return the rate and number of samples of a wav."""
    with wave.open(io.BytesIO(data) if isinstance(data, bytes) else str(data), "rb") as file:
        return file.getframerate(), len(file.readframes(file.getnframes())) // 2


def test_text_on_stdout_and_timings_on_stderr(omni, bundle: Path, here: Path) -> None:
    ran = omni("run", bundle, "Hello", "-o", "a.wav", *SHORT)
    assert ran.code == 0
    assert ran.out.endswith("\n") and len(ran.out) > 1
    (line,) = ran.err.splitlines()
    assert line.startswith("4 tok · ") and line.endswith("speech: a.wav")
    rate, samples = read(here / "a.wav")
    assert rate == 24000 and samples > 0
    assert [path.name for path in here.iterdir()] == ["a.wav"]
    assert omni("run", bundle, "Hello", "-q", "-o", "a.wav", *SHORT).err == ""


def test_flags_in_any_order(omni, bundle: Path) -> None:
    wanted = omni("run", bundle, "Hello", "--no-speech", *SHORT).out
    assert wanted
    assert omni("run", bundle, "--no-speech", "Hello", *SHORT).out == wanted
    assert omni("run", "--no-speech", *SHORT, bundle, "Hello").out == wanted
    omni("run", bundle, "--no-speech", "Hello", "you").refused("unrecognized arguments: you", 2)


def test_without_a_loudspeaker_speech_is_written_to_a_file(
    omni, bundle: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audio_output, "loudspeaker", lambda: "no audio device: none")
    first = omni("run", bundle, "Hello", *SHORT)
    line, reason = first.err.splitlines()
    assert line.endswith("speech: answer.wav")
    assert reason == "speech is written to files: no audio device: none"
    omni("run", bundle, "Hello", *SHORT)
    assert sorted(path.name for path in here.iterdir()) == ["answer-2.wav", "answer.wav"]
    silent = omni("run", bundle, "Hello", "--no-play", *SHORT)
    assert "answer" not in silent.err and len(list(here.iterdir())) == 2
    mute = omni("run", bundle, "Hello", "--no-speech", *SHORT)
    assert "audio" not in mute.err and mute.out == first.out


def test_int8_kv_cache(omni, bundle: Path) -> None:
    words = ("run", bundle, "Hello", "--no-play", *SHORT)
    near = omni(*words, "--kv-cache", "int8")
    assert near.code == 0 and near.out == omni(*words).out
    omni(*words, "--kv-cache", "int4").refused("invalid choice: 'int4'", 2)


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
    """A fake of sounddevice that requests samples on demand."""

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


def test_playback_never_blocks_and_plays_all_samples() -> None:
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


def test_a_cancelled_reply_stops_playback() -> None:
    device = Device()
    speaker = Loudspeaker(device)
    speaker.write(np.ones(100, np.float32), 24000)
    speaker.close(keep=False)
    assert device.aborted and not len(device.heard)


SLOW = PlaybackUnderrun(realtime=0.62, codes=2.0, preset="balanced", faster=("fast",), seconds=3.0)


@pytest.mark.parametrize(
    ("event", "wanted"),
    [
        (
            SLOW,
            "playback underran: speech is synthesized at 0.62x real time; try --preset fast; "
            "--whole plays it after synthesis, without pauses",
        ),
        (
            replace(SLOW, preset="fast", faster=()),
            "playback underran: speech is synthesized at 0.62x real time, and no preset is faster "
            "than fast; --whole plays it after synthesis, without pauses",
        ),
        (
            replace(SLOW, realtime=0.3, codes=0.4),
            "playback underran: speech is synthesized at 0.3x real time, its codes at 0.4x with "
            "every preset; --whole plays it after synthesis, without pauses",
        ),
        (
            PresetChosen("balanced", {"faithful": 0.71, "balanced": 1.64, "fast": 2.0}, 1.0),
            "preset balanced: 1.6x real time on this machine (faithful 0.71x, fast 2x)",
        ),
    ],
)
def test_notes_about_speech(
    event: PresetChosen | PlaybackUnderrun, wanted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Printed below the text and its timings, and as a JSON record at once."""
    assert ui.speech_line(event) == wanted
    timings = Timings(1.0, 0.1, 0.2, 0.3, 0.4, 3, 0, 2, 5, 0.1)
    done = TurnDone("Hello", "stop", True, timings, 5, 10, 100, 1000)

    def shown(*, as_json: bool) -> tuple[str, str]:
        style = Style(as_json, quiet=False, speech_to_stdout=False, load=0.0, threads=1)
        deliver(
            (e for e in (TextDelta("Hel", 0.1), event, TextDelta("lo", 0.2), done)), None, style
        )
        return capsys.readouterr()

    out, err = shown(as_json=False)
    assert out == "Hello\n" and err.splitlines()[1:] == [wanted]
    out, err = shown(as_json=True)
    kind = "slow" if isinstance(event, PlaybackUnderrun) else "preset"
    assert [json.loads(line)["type"] for line in out.splitlines()] == ["text", kind, "text", "done"]
    assert not err


def test_live_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    def is_live(output: str | None, *, play: bool = True) -> bool:
        return audio_output.AudioOutput(output, play=play, quiet=True).is_live

    monkeypatch.setattr(audio_output, "loudspeaker", lambda: Loudspeaker(Device()))
    assert is_live(None) and is_live("-") and is_live("-", play=False)
    assert not is_live("a.wav") and not is_live(None, play=False)
    monkeypatch.setattr(audio_output, "loudspeaker", lambda: "no audio device: none")
    assert not is_live(None)


def test_whole_speech_and_the_chosen_preset(omni, bundle: Path) -> None:
    words = ("run", bundle, "Hello", "--no-play", "--json", "--preset", "auto", "--whole", *SHORT)
    events = [json.loads(line) for line in omni(*words).out.splitlines()]
    kinds = [event["type"] for event in events if event["type"] != "text"]
    assert kinds == ["preset", "audio", "done"]
    (chosen,) = (event for event in events if event["type"] == "preset")
    assert chosen["preset"] in chosen["realtime"]
    assert set(chosen["realtime"]) == {"faithful", "balanced", "fast"}


def test_show_prints_the_evaluations_of_each_preset(omni, bundle: Path) -> None:
    out = omni("show", bundle).out
    for work in (
        "36 rk4 evaluations, 72 passes",
        "8 midpoint evaluations, 16",
        "5 euler evaluations, 5",
    ):
        assert work in out


def test_a_video_without_usable_audio_is_announced_in_one_line(omni, bundle, here: Path) -> None:
    path = write_media(
        here / "a.mkv", frames=[frame(i) for i in range(25)], sound=np.full(48000, np.nan),
        audio_codec="pcm_f32le",
    )  # fmt: skip
    ask = ("run", bundle, "What?", "--video", path, "--no-speech", "--max-tokens", "2")
    done = omni(*ask)
    assert done.code == 0
    line = f"{path} has samples that are NaN or infinite; the video is used without its audio"
    assert done.err.splitlines()[0] == line
    assert omni(*ask, "-q").err == ""
