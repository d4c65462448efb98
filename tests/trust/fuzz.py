"""Damages manifests and seals them again: each must open, or give one error.

    python -m tests.trust.fuzz BUNDLE --runs 2000 [--seed N]

Each damaged copy is opened in a child process and asked for one spoken reply. One line a fault: a
traceback, a signal, or more than 20 s, with the seed that repeats it.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from omni_runtime.checksums import write_with_digest

SLOW = 20
STRINGS = ("", "../x", "/etc/passwd", "C:\\x", "a\x1b[31mb", "x" * 10_000, "\u202e", "float32",
           "nothing", "manifest.json", ".", "tables")  # fmt: skip
NUMBERS = (-(2**63), -1, 0, 1, 2, 3, 7, 2**16, 2**31, 2**40, 2**62, 10**9, 0.5, -1e300, 1e300)
CHILD = """
import sys
from omni_runtime.conversation import Conversation
from omni_runtime.engine.session import SessionOptions
from omni_runtime.errors import OmniError
from omni_runtime.model import Model
from omni_runtime.options import ReplyOptions, SpeechOptions
try:
    model = Model(sys.argv[1], SessionOptions(threads=1))
    speech = SpeechOptions(max_codes=40) if model.config.speech else None
    list(Conversation(model).send("Hello!", ReplyOptions(speech, max_tokens=8)))
    print("answered")
except OmniError as error:
    print("refused:", error.message[:150])
"""


def damage(manifest: Any, r: random.Random) -> str:
    """Change one value anywhere; returns where."""
    where, parent, key = "", None, None
    node = manifest
    while isinstance(node, dict | list) and len(node):
        parent = node
        key = r.choice([*node]) if isinstance(node, dict) else r.randrange(len(node))
        node, where = parent[key], f"{where}.{key}"
        if r.random() < 0.1:
            break
    assert parent is not None
    kind = r.random()
    if kind < 0.1:
        del parent[key]
    elif kind < 0.2:
        parent[key] = r.choice((None, True, [], {}, "text", 7, [1, 2]))
    elif isinstance(node, str):
        parent[key] = r.choice(STRINGS)
    elif isinstance(node, int | float):
        parent[key] = r.choice(NUMBERS)
    elif isinstance(parent, dict) and r.random() < 0.5:
        parent[r.choice(STRINGS)] = parent.pop(key)
    else:
        parent[key] = r.choice((None, [], {}))
    return f"{where} = {str(parent.get(key) if isinstance(parent, dict) else parent)[:60]!r}"


def run(bundle: Path, folder: Path, seed: int) -> tuple[str, str]:
    """Return ("answered", "refused" or a fault, recipe)."""
    r = random.Random(seed)
    copy = folder / "bundle"
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    for path in bundle.iterdir():  # hard links, so that nothing leads out of the copy
        if path.is_dir():
            shutil.copytree(path, copy / path.name, copy_function=_link)
        elif not path.name.startswith("manifest."):
            _link(str(path), str(copy / path.name))
    manifest = json.loads((bundle / "manifest.json").read_text())
    recipe = "; ".join(damage(manifest, r) for _ in range(r.choice((1, 1, 1, 2, 3))))
    write_with_digest(copy / "manifest.json", json.dumps(manifest).encode())
    command = [sys.executable, "-c", CHILD, str(copy)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=SLOW, check=False, errors="replace"
        )
    except subprocess.TimeoutExpired:
        return "slow", recipe
    if done.returncode < 0:
        return f"signal {-done.returncode}", recipe
    if done.returncode or "Traceback" in done.stderr:
        return "traceback", f"{recipe}: {(done.stderr.strip() or '?').splitlines()[-1][:200]}"
    return done.stdout.split(":")[0].strip(), recipe


def _link(source: str, target: str) -> None:
    try:
        Path(target).hardlink_to(source)
    except OSError:  # another file system
        shutil.copyfile(source, target)


def main() -> int:
    """Run, print the faults, and count."""
    parser = argparse.ArgumentParser(prog="python -m tests.trust.fuzz", description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    found: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.seed, options.seed + options.runs):
            what, recipe = run(options.bundle, Path(folder), seed)
            found[what] += 1
            if what not in ("answered", "refused"):
                print(f"--seed {seed} --runs 1: {what}: {recipe}", flush=True)  # noqa: T201
    print(dict(found))  # noqa: T201
    return 0 if found.keys() <= {"answered", "refused"} else 1


if __name__ == "__main__":
    sys.exit(main())
