"""Fuzzes what strangers write: manifests, media and prompts. Each is answered, or one error.

    python -m tests.trust.fuzz [BUNDLE] [--kind manifests|media|prompts] --runs 2000 | --minutes 5

A manifest is damaged and sealed again; a child process opens the bundle and asks for one spoken
reply. Media and prompts go to a child that answers many. One line a fault, with the seed that
repeats it: a traceback, a signal, more than 20 s, or more memory than a medium may take.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from tests.trust.campaign import COMPILES, SLOW, Campaign, ask, bundle_argument
from tests.trust.fuzz_worker import make_media

from omni_runtime.checksums import write_with_digest

KINDS = ("manifests", "media", "prompts")
STRINGS = ("", "../x", "/etc/passwd", "C:\\x", "a\x1b[31mb", "x" * 10_000, "\u202e", "float32",
           "nothing", "manifest.json", ".", "tables")  # fmt: skip
NUMBERS = (-(2**63), -1, 0, 1, 2, 3, 7, 2**16, 2**31, 2**40, 2**62, 10**9, 0.5, -1e300, 1e300)


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
    copy = copied(bundle, folder / "bundle")
    manifest = json.loads((bundle / "manifest.json").read_text())
    recipe = "; ".join(damage(manifest, r) for _ in range(r.choice((1, 1, 1, 2, 3))))
    write_with_digest(copy / "manifest.json", json.dumps(manifest).encode())
    result, detail = ask(copy)
    return result, f"manifests: {recipe}: {detail}"


def copied(bundle: Path, copy: Path) -> Path:
    """Copy a bundle without its manifest, by hard links, so that nothing leads out of the copy."""
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    for path in bundle.iterdir():
        if path.is_dir():
            shutil.copytree(path, copy / path.name, copy_function=_link)
        elif not path.name.startswith("manifest."):
            _link(str(path), str(copy / path.name))
    return copy


def _link(source: str, target: str) -> None:
    try:
        Path(target).hardlink_to(source)
    except OSError:  # another file system
        shutil.copyfile(source, target)


class Worker:
    """A child that answers many seeds, started again when it was lost."""

    def __init__(self, bundle: Path, kind: str, folder: Path) -> None:
        self._command = [sys.executable, "-m", "tests.trust.fuzz_worker", bundle, kind, folder]
        self._child: subprocess.Popen[str] | None = None

    def run(self, seed: int) -> tuple[str, str]:
        """Return the result and the recipe of one seed."""
        if self._child is None:
            self._child = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            assert self._line(COMPILES).startswith("ready")
        assert self._child.stdin is not None
        self._child.stdin.write(f"{seed}\n")
        self._child.stdin.flush()
        started = time.monotonic()
        if line := self._line(SLOW):
            result, recipe = json.loads(line)
            return result, recipe
        slow, child = time.monotonic() - started >= SLOW, self._child
        self.close()
        return ("slow", "") if slow else (f"signal {-child.returncode}", "")

    def _line(self, seconds: float) -> str:
        """Return the child's next line; an empty one if it ended, or was killed as too slow."""
        assert self._child is not None and self._child.stdout is not None
        timer = threading.Timer(seconds, self._child.kill)
        timer.start()
        try:
            return self._child.stdout.readline()
        finally:
            timer.cancel()

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            self._child.kill()
            self._child.communicate()
            self._child = None


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what is fuzzed."""
    bundle_argument(parser)
    parser.add_argument("--kind", choices=KINDS, help="default: each in turn")


def main() -> int:
    """Run, print the faults, and count."""
    campaign = Campaign("fuzz", __doc__, arguments, runs=2000)
    bundle = campaign.options.bundle
    with tempfile.TemporaryDirectory() as name:
        media, copies = Path(name) / "media", Path(name) / "copies"
        media.mkdir()
        copies.mkdir()
        make_media(media)
        workers = {kind: Worker(bundle, kind, media) for kind in ("media", "prompts")}
        for seed in campaign:
            kind = campaign.options.kind or KINDS[seed % len(KINDS)]
            if kind == "manifests":
                campaign.note(*run(bundle, copies, seed))
            else:
                campaign.note(*workers[kind].run(seed))
        for worker in workers.values():
            worker.close()
    return campaign.result()


if __name__ == "__main__":
    sys.exit(main())
