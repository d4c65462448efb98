"""The real PortAudio path: PulseAudio null sinks as microphone and loudspeaker."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from desk import Desk, called, pulse

OMNI = [
    sys.executable,
    "-c",
    "import sys; from omni_runtime.cli.main import main; sys.exit(main())",
]


@pulse
def test_a_question_through_portaudio(
    desk: Desk, trained_bundle: Path, recording: Callable[[str], np.ndarray]
) -> None:
    env = desk.env
    listed = called([*OMNI, "talk", "--list-devices"], env)
    assert "pulse" in listed.stdout and "input, output" in listed.stdout
    talking = [*OMNI, "talk", str(trained_bundle), "--headphones", "--json"]
    pipe = subprocess.PIPE
    events: list[dict[str, object]] = []
    with (
        desk.listening() as recorded,
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
    assert events[-1]["text"] == "Seven plus five is twelve."
    speech = events[-1]["speech"]
    assert isinstance(speech, float)
    heard = recorded.samples()
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
