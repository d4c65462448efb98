"""Peak memory of the Kotlin engine against that of the Python runtime, for the same spoken reply.

python -m tests.android.memory [--threads 2] [--no-kernels] [--java=-Xmx512m] BUNDLE

Each runtime replies in a process of its own, one after the other. Pages of mapped files count as
resident memory, those of the weights too.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "android_demo"), str(ROOT / "runtime")]

from tests.android import runtime  # noqa: E402
from tests.android.engine import Jvm  # noqa: E402

from omni_runtime.engine import kernels  # noqa: E402

GREEDY = {"temperature": 0.0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0}
SPEECH = {"voice": None, "preset": "fast", "sampling": None, "max_codes": 100, "chunks": "fixed"}
REQUEST: dict[str, Any] = {
    "parts": [{"text": "Hello! Who are you, and what can you do?"}],
    "options": {"speech": SPEECH, "sampling": GREEDY, "max_tokens": 32, "seed": 0},
}
SIZES = ("VmHWM", "VmRSS", "RssFile", "RssAnon")


def python_memory(options: argparse.Namespace) -> dict[str, int]:
    """Reply in this process, and return its memory in bytes."""
    model = runtime.open_model(options.bundle, threads=options.threads, native=options.kernels)
    answer = runtime.Talk(model).ask("send", **REQUEST)
    assert len(answer["codes"]) > 1
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return {name: int(fields[name].split()[0]) * 1024 for name in SIZES}


def kotlin_memory(options: argparse.Namespace) -> dict[str, int]:
    """Reply in a JVM, and return its memory in bytes."""
    library = str(kernels.build().library) if options.kernels else None
    with Jvm(*options.java) as jvm:
        engine = jvm.load(options.bundle, threads=options.threads, kernels=library)
        answer = engine.talk().ask("send", **REQUEST)
        assert len(answer["codes"]) > 1
        return jvm.ask("memory")


def main() -> None:
    """Measure both, and print their peaks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-kernels", dest="kernels", action="store_false")
    parser.add_argument("--java", action="append", default=[], help="an option of the JVM")
    parser.add_argument("--python-only", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.python_only:
        sys.stdout.write(json.dumps(python_memory(options)) + "\n")
        return
    child = [sys.executable, "-m", "tests.android.memory", "--python-only", *sys.argv[1:]]
    printed = subprocess.run(child, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout
    python, kotlin = json.loads(printed), kotlin_memory(options)
    for name, sizes in (("Python", python), ("Kotlin", kotlin)):
        line = ", ".join(f"{key} {size / 2**20:.0f} MB" for key, size in sizes.items())
        sys.stdout.write(f"{name}: {line}\n")
    sys.stdout.write(f"peak, Kotlin over Python: {kotlin['VmHWM'] / python['VmHWM']:.3f}\n")


if __name__ == "__main__":
    main()
