"""A sound server of its own, with null sinks as microphone and loudspeaker.

`.ci/run` installs PulseAudio. Where it is missing the tests that need it are skipped.
"""

import os
import shutil
import subprocess
import sys
import time
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

TOOLS = ("pulseaudio", "pactl", "paplay", "parec")
pulse = pytest.mark.skipif(
    not all(map(shutil.which, TOOLS)) or sys.platform != "linux",
    reason="needs PulseAudio: apt install pulseaudio pulseaudio-utils libasound2-plugins",
)


@dataclass
class Recording:
    """What the loudspeaker plays."""

    path: Path

    def samples(self) -> np.ndarray:
        """float32 mono, all that was heard so far."""
        data = self.path.read_bytes()
        return np.frombuffer(data[: len(data) & ~1], "<i2").astype(np.float32) / 32768

    def until_quiet(self, seconds: float = 2.0, limit: float = 30.0) -> np.ndarray:
        """Wait for sound and then for `seconds` of silence; returns all that was heard."""
        end = time.monotonic() + limit
        while time.monotonic() < end:
            heard = self.samples()
            loud = np.flatnonzero(np.abs(heard) > 0.01)
            if len(loud) and len(heard) - loud[-1] > seconds * 24_000:
                return heard
            time.sleep(0.1)
        raise AssertionError(f"the loudspeaker did not fall silent within {limit:.0f} s")


@dataclass
class Desk:
    """A sound server with the sinks `speaker` and `mic`."""

    folder: Path
    env: dict[str, str]

    def say(self, samples: np.ndarray) -> None:
        """Play float32 samples at 16 kHz into the microphone."""
        path = self.folder / "said.wav"
        with wave.open(str(path), "wb") as file:
            file.setparams((1, 2, 16_000, 0, "NONE", ""))
            file.writeframes((samples * 32767).astype("<i2").tobytes())
        subprocess.run(["paplay", "--device=mic", str(path)], env=self.env, check=True, timeout=60)

    @contextmanager
    def listening(self) -> Iterator[Recording]:
        """Record the loudspeaker at 24 kHz."""
        found = Recording(self.folder / "heard.raw")
        command = ["parec", "-d", "speaker.monitor", "--format=s16le", "--channels=1"]
        command += ["--rate=24000", "--latency-msec=20"]
        with (
            found.path.open("wb") as file,
            subprocess.Popen(command, env=self.env, stdout=file) as recorder,
        ):
            try:
                yield found
            finally:
                recorder.terminate()


@contextmanager
def sound_server(folder: Path) -> Iterator[Desk]:
    """Start a sound server; its environment makes programs use it."""
    run = folder / "run"
    run.mkdir(mode=0o700)
    (folder / ".asoundrc").write_text("pcm.!default { type pulse }\nctl.!default { type pulse }\n")
    socket = run / "native"
    env = {
        **os.environ,
        "HOME": str(folder),
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
        yield Desk(folder, env)
    finally:
        server.terminate()
        server.wait(20)


def called(command: list[str], env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, and keep what it prints."""
    return subprocess.run(
        command, check=False, env=env, capture_output=True, text=True, timeout=120
    )
