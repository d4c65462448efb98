"""The Python runtime on arm64 against this machine: golden vectors, and the exam of tiny/."""

import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.android.arm64 import ROOT
from tests.android.arm64.emulator import RUNTIME, command
from tiny import compare, exam

from omni_runtime.golden import suite
from omni_runtime.inputs.messages import ContentPart, Message, Text
from toolchain.parts import CACHE, part

HOW = ("ours", "kleidiai", "mlas")
Question = tuple[list[Message], list[ContentPart]]


def differing_vectors(cpu: str, bundle: Path, how: str) -> list[str]:
    """Record golden vectors here and check them there. Returns a line for each that differs."""
    with tempfile.TemporaryDirectory() as folder:
        vectors = Path(folder) / "vectors"
        suite.save(suite.open_model(bundle), vectors)
        return _inside(cpu, "vectors.py", vectors, bundle, how).splitlines()


def draw(counts: Mapping[str, int]) -> tuple[list[Question], list[str]]:
    """Return questions of the exam and their right answers."""
    asked: list[Question] = []
    right: list[str] = []
    wanted = 0
    for kind, count in counts.items():
        wanted += count
        for item in exam.items(kind):
            turns = item.asked.turns[:1] if kind == "spoken" else item.asked.turns
            before: list[Message] = []
            for index, turn in enumerate(turns):
                parts = compare.media(item) if index == 0 else []
                if index or item.spoken is None:
                    parts.append(Text(turn.question))
                asked.append((list(before), parts))
                right.append(turn.answer)
                before += [Message("user", parts), Message("assistant", [Text(turn.answer)])]
            if len(asked) >= wanted:
                break
    return asked, right


def answers(cpu: str | None, questions: Sequence[Question], bundle: Path, how: str) -> list[str]:
    """Answer inside the emulator, or on this machine without a `cpu`."""
    with tempfile.TemporaryDirectory() as folder:
        asked, told = Path(folder) / "questions", Path(folder) / "answers"
        asked.write_bytes(pickle.dumps(list(questions)))
        _inside(cpu, "answers.py", asked, told, bundle, how)
        return pickle.loads(told.read_bytes())


def _inside(cpu: str | None, script: str, *arguments: str | Path) -> str:
    """Run a script of this folder and return what it prints."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "runtime")}
    words = [sys.executable]
    if cpu is not None:
        words = command(cpu, RUNTIME, path=[ROOT / "runtime"])
        folder = str(CACHE / "zig")
        environment |= {
            "CXX": f"{part('zig') / 'zig'} c++ -target aarch64-linux-gnu",  # runs outside
            "ZIG_GLOBAL_CACHE_DIR": folder,
            "ZIG_LOCAL_CACHE_DIR": folder,
        }
    done = subprocess.run(
        [*words, Path(__file__).parent / script, *arguments],
        env=environment, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return done.stdout.strip()


def compared(
    cpu: str, bundle: Path, counts: Mapping[str, int], kinds: Sequence[str] = HOW
) -> Iterator[str]:
    """Yield a line with the share of right answers of each kind of kernels, here and there."""
    questions, right = draw(counts)
    here = answers(None, questions, bundle, "kleidiai")
    yield f"this machine, ONNX Runtime: {_share(here, right)}"
    for how in kinds:
        there = answers(cpu, questions, bundle, how)
        same = sum(a == b for a, b in zip(here, there, strict=True))
        yield f"{cpu}, {how}: {_share(there, right)}; {same} of {len(here)} answers as here"


def _share(told: Sequence[str], right: Sequence[str]) -> str:
    hits = sum(a == b for a, b in zip(told, right, strict=True))
    return f"{hits} of {len(right)} right, {100 * hits / len(right):.1f} %"
