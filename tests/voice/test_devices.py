"""The real PortAudio path: PulseAudio null sinks as microphone and loudspeaker.

`.ci/run` installs PulseAudio. Where it is missing these tests are skipped.
"""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
import wave
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

TOOLS = ("pulseaudio", "pactl", "paplay", "parec")
pulse = pytest.mark.skipif(
    not all(map(shutil.which, TOOLS)) or sys.platform != "linux",
    reason="needs PulseAudio: apt install pulseaudio pulseaudio-utils libasound2-plugins",
)
OMNI = [
    sys.executable,
    "-c",
    "import sys; from omni_runtime.cli.main import main; sys.exit(main())",
]


def called(command: list[str], env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, check=False, env=env, capture_output=True, text=True, timeout=120
    )


@dataclass
class Desk:
    """A sound server of its own, with the sinks `speaker` and `mic`."""

    folder: Path
    env: dict[str, str]

    def say(self, samples: np.ndarray) -> None:
        """Play float32 samples at 16 kHz into the microphone."""
        path = self.folder / "said.wav"
        with wave.open(str(path), "wb") as file:
            file.setparams((1, 2, 16_000, 0, "NONE", ""))
            file.writeframes((samples * 32767).astype("<i2").tobytes())
        subprocess.run(["paplay", "--device=mic", str(path)], env=self.env, check=True, timeout=60)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    run = tmp_path / "run"
    run.mkdir(mode=0o700)
    (tmp_path / ".asoundrc").write_text(
        "pcm.!default { type pulse }\nctl.!default { type pulse }\n"
    )
    socket = run / "native"
    env = {
        **os.environ,
        "HOME": str(tmp_path),
        "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache"),
        "XDG_RUNTIME_DIR": str(run),
        "PULSE_RUNTIME_PATH": str(run),
        "PULSE_SERVER": f"unix:{socket}",
    }
    modules = (
        f"module-native-protocol-unix socket={socket} auth-anonymous=1",
        "module-null-sink sink_name=speaker",
        "module-null-sink sink_name=mic",
        "module-remap-source source_name=microphone master=mic.monitor",
    )
    arguments = [word for module in modules for word in ("-L", module)]
    server = subprocess.Popen(
        ["pulseaudio", "-n", "--daemonize=no", "--exit-idle-time=-1", *arguments],
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for command in (["set-default-sink", "speaker"], ["set-default-source", "microphone"]):
            for _ in range(100):
                if not called(["pactl", *command], env).returncode:
                    break
                time.sleep(0.1)
            else:
                pytest.fail("PulseAudio did not start")
        yield Desk(tmp_path, env)
    finally:
        server.terminate()
        server.wait(20)


@pulse
def test_a_question_through_portaudio(
    desk: Desk, trained_bundle: Path, recording: Callable[[str], np.ndarray], tmp_path: Path
) -> None:
    env = desk.env
    listed = called([*OMNI, "talk", "--list-devices"], env)
    assert "pulse" in listed.stdout and "input, output" in listed.stdout
    raw = tmp_path / "heard.raw"
    command = ["parec", "-d", "speaker.monitor", "--format=s16le", "--rate=24000", "--channels=1"]
    talking = [*OMNI, "talk", str(trained_bundle), "--headphones", "--json"]
    pipe = subprocess.PIPE
    events: list[dict[str, object]] = []
    with (
        raw.open("wb") as file,
        subprocess.Popen(command, env=env, stdout=file) as recorder,
        subprocess.Popen(
            talking, env=env, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True
        ) as talk,
    ):
        try:
            assert talk.stderr is not None and talk.stdout is not None
            while "microphone:" not in (line := talk.stderr.readline()):
                assert line, "it ended before it opened the devices"
            time.sleep(1)
            desk.say(recording("seven_plus_five"))
            while not events or events[-1]["type"] != "turn":
                events.append(json.loads(talk.stdout.readline()))
            time.sleep(2)
            talk.send_signal(signal.SIGINT)
            assert talk.wait(20) == 130
        finally:
            talk.kill()
            recorder.terminate()
    assert events[-1]["text"] == "Seven plus five is twelve."
    speech = events[-1]["speech"]
    assert isinstance(speech, float)
    heard = np.frombuffer(raw.read_bytes(), "<i2").astype(np.float32) / 32768
    loud = np.flatnonzero(np.abs(heard) > 0.02)
    assert (loud[-1] - loud[0]) / 24_000 == pytest.approx(speech, abs=0.4), "played in one piece"


@pulse
def test_without_devices_there_is_one_line(desk: Desk, trained_bundle: Path) -> None:
    env = {**desk.env, "PULSE_SERVER": "unix:/nowhere"}
    found = called([*OMNI, "talk", str(trained_bundle)], env)
    assert found.returncode == 1 and "Traceback" not in found.stderr
    assert found.stderr.splitlines()[-1].startswith("error: there is no ")
    unknown = called([*OMNI, "talk", str(trained_bundle), "--input-device", "Nobody's"], desk.env)
    assert unknown.returncode == 2 and "choose one of: pulse" in unknown.stderr


@pulse
def test_keys_in_a_terminal(
    desk: Desk, trained_bundle: Path, recording: Callable[[str], np.ndarray]
) -> None:
    """m mutes, space interrupts and q quits; the terminal is as it was afterwards."""
    import pty  # noqa: PLC0415 - POSIX only
    import termios  # noqa: PLC0415

    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)
    process = subprocess.Popen(
        [*OMNI, "talk", str(trained_bundle), "--half-duplex"],
        env=desk.env | {"TERM": "xterm"},
        stdin=slave,
        stdout=slave,
        stderr=slave,
    )
    seen = ""

    def until(text: str, seconds: float = 60) -> None:
        nonlocal seen
        end = time.monotonic() + seconds
        while text not in seen:
            assert time.monotonic() < end, seen[-600:]
            if select.select([master], [], [], 0.2)[0]:
                seen += os.read(master, 65536).decode(errors="replace")

    try:
        until("listening")
        seen = ""
        os.write(master, b"m")
        until("muted")
        desk.say(recording("ten"))
        assert "hearing" not in seen
        os.write(master, b"m")
        until("listening")
        desk.say(recording("seven_plus_five"))
        until("Seven plus")
        until("twelve")
        time.sleep(0.5)
        os.write(master, b" ")
        until("\x1b[9m")  # the unheard rest is struck
        os.write(master, b"q")
        assert process.wait(30) == 0
        assert termios.tcgetattr(slave) == before
    finally:
        process.kill()
        os.close(master)
        os.close(slave)
