"""Tests that need a new process: imports, signals, pipes."""

import io
import os
import select
import signal
import subprocess
import sys
import wave
from pathlib import Path
from time import monotonic, sleep

import pytest

RUNTIME = Path(__file__).parents[2] / "runtime"
MAIN = "import sys; from omni_runtime.cli.main import main; sys.exit(main())"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(RUNTIME), "PYTHONUTF8": "1"}
UNIX = pytest.mark.skipif(sys.platform == "win32", reason="has no such signals")


def omni(*words: str | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-c", MAIN, *map(str, words)],
        input=stdin, capture_output=True, check=False, env=ENVIRONMENT, timeout=60,
    )  # fmt: skip


def test_help_has_no_heavy_imports() -> None:
    code = (
        "import sys; from omni_runtime.cli.main import main; code = main(sys.argv[1:]); "
        "heavy = {'numpy', 'onnxruntime', 'av', 'msgspec', 'psutil', 'jinja2', 'tokenizers'}; "
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else code)"
    )
    for words in (["--help"], ["run", "--help"], ["doctor", "--help"], ["golden", "--help"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *words],
            capture_output=True, text=True, check=False, env=ENVIRONMENT, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("usage: omni")


def test_a_pipe_in_and_a_wav_out(bundle: Path, here: Path) -> None:
    done = omni("run", bundle, "-o", "-", "--max-tokens", "3", stdin=b"Hello\nAnd caf\xe9?\n")
    assert done.returncode == 0, done.stderr
    with wave.open(io.BytesIO(done.stdout), "rb") as sound:
        assert (sound.getframerate(), sound.getnchannels(), sound.getsampwidth()) == (24000, 1, 2)
        assert len(sound.readframes(sound.getnframes())) == len(done.stdout) - 44 > 24000
    assert not list(here.iterdir())


@UNIX
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)] if os.name == "posix" else []
)
def test_a_stopped_run_leaves_no_files(bundle: Path, here: Path, number: int, code: int) -> None:
    words = ["run", str(bundle), "Hello", "--max-tokens", "30000", "-o", "a.wav"]
    with subprocess.Popen(
        [sys.executable, "-c", MAIN, *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT,
    ) as run:  # fmt: skip
        assert run.stdout is not None and run.stdout.read(1)  # it speaks
        assert [path.name for path in here.iterdir()] == ["a.wav.partial"]
        run.send_signal(number)
        _, err = run.communicate(timeout=60)
    assert run.returncode == code
    assert b"Traceback" not in err and not list(here.iterdir())


def ends_without_a_reader(*words: str | Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", MAIN, *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT,
    ) as run:  # fmt: skip
        assert run.stdout is not None and run.stderr is not None
        run.stdout.readline()
        run.stdout.close()
        err = run.stderr.read()
        assert run.wait(timeout=60) == 141 and err == b""


@UNIX
def test_a_closed_pipe(bundle: Path, here: Path) -> None:
    words = ("Hello", "--max-tokens", "3000", "--json", "--no-speech")
    ends_without_a_reader("run", bundle, *words)


@UNIX
def test_a_talk_whose_output_is_closed_ends(trained_bundle: Path, here: Path) -> None:
    spoken = Path(__file__).parents[1] / "data" / "seven_plus_five.flac"
    ends_without_a_reader("talk", trained_bundle, "--input", spoken, "--fast", "--json")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_standard_output_that_is_full(bundle: Path, here: Path) -> None:
    for more in ([], ["--json"], ["-o", "-"]):
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(
                [sys.executable, "-c", MAIN, "run", str(bundle), "Hi", "--max-tokens", "2", "-q",
                 "--no-play", *more],
                stdout=full, stderr=subprocess.PIPE, text=True, check=False, env=ENVIRONMENT,
            )  # fmt: skip
        assert done.returncode == 1
        last = done.stderr.splitlines()[-1]
        assert last.startswith("error: the output cannot be written: No space left on device")
        assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
    assert not list(here.iterdir())


@UNIX
def test_ctrl_c_in_a_terminal_stops_only_the_reply(bundle: Path, here: Path) -> None:
    import pty  # noqa: PLC0415 - there is none on Windows

    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", MAIN, "run", str(bundle), "--no-speech", "--max-tokens", "30000"],
        stdin=theirs, stdout=theirs, stderr=theirs, env=ENVIRONMENT, start_new_session=True,
    ) as run:  # fmt: skip
        os.close(theirs)
        try:
            _talk(run, ours)
            assert run.wait(timeout=30) == 0
        finally:
            run.kill()
    os.close(ours)


def _talk(run: subprocess.Popen[bytes], ours: int) -> None:
    seen = b""

    def until(words: bytes) -> None:
        nonlocal seen
        end = monotonic() + 30
        while words not in seen and monotonic() < end:
            if select.select([ours], [], [], 1)[0]:
                seen += os.read(ours, 65536)
        assert words in seen, seen[-500:]
        seen = seen[seen.index(words) + len(words) :]

    until(b">>> ")
    os.write(ours, b"Hello\n")
    until(b"Hello\r\n")
    until("\ufffd".encode())  # it answers: random weights say much that is no letter
    run.send_signal(signal.SIGINT)
    until(b"(stopped)")
    until(b">>> ")
    sleep(0.3)  # a signal between readline's prompt and its waiting shows at the next key only
    run.send_signal(signal.SIGINT)
    until(b"press Ctrl-C again")
    until(b">>> ")
    os.write(ours, b"/stats\n")
    until(b"of 32768 tokens")
    until(b">>> ")
    os.write(ours, b"/bye\n")
