"""Kills a process at a random moment: nothing that was there before is lost.

    python -m tests.trust.kill [BUNDLE] --runs 200 | --minutes 5 [--checkpoint tiny/checkpoint]

What is killed: a save over an older one (old or new, complete), the packing of weights and the
compilation of the kernels (the next start answers the same), and an export over a bundle (the
bundle is complete, and so is what lies beside it).
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.trust.campaign import ANSWER, COMPILES, Campaign, ask, bundle_argument

from omni_runtime.bundle.store import Bundle
from omni_runtime.conversation import Conversation
from omni_runtime.engine.session import SessionOptions
from omni_runtime.errors import OmniError
from omni_runtime.model import Model
from omni_runtime.options import ReplyOptions

ROOT = Path(__file__).parents[2]
SAVES = """
import sys
from omni_runtime.conversation import Conversation
from omni_runtime.engine.session import SessionOptions
from omni_runtime.model import Model
from omni_runtime.options import ReplyOptions
talks = [Conversation(Model(sys.argv[1], SessionOptions(threads=1)))]
list(talks[0].send("Hello", ReplyOptions(None, max_tokens=2)))
talks.append(talks[0].fork())
list(talks[1].send("More", ReplyOptions(None, max_tokens=2)))
print("ready", flush=True)
while True:
    for talk in talks:
        talk.save(sys.argv[2])
"""


class Kills:
    """The folders that are written to, and the answer that must not change."""

    def __init__(self, bundle: Path, checkpoint: Path, folder: Path) -> None:
        self.bundle, self.checkpoint, self.folder = bundle, checkpoint, folder
        self.model = Model(bundle, SessionOptions(threads=1))
        talk = Conversation(self.model)
        list(talk.send("Hello", ReplyOptions(None, max_tokens=2)))
        self.save = folder / "saves" / "talk"
        self.save.parent.mkdir()
        talk.save(self.save)
        self.caches = folder / "caches"
        self.caches.mkdir(mode=0o700)
        self.answers = {
            kind: ask(bundle, kind, self.caches, COMPILES) for kind in ("native", "packed")
        }
        assert {result for result, _ in self.answers.values()} == {"answered"}, self.answers
        self.exported = folder / "exports" / "bundle"
        self.exported.parent.mkdir()
        shutil.copytree(bundle, self.exported)
        (self.exported.parent / "mine").write_text("mine")

    def killed(self, command: list[object], seconds: float, *, wait: bool = False) -> bool:
        """Run a command and kill it after `seconds`. Return whether it was still running."""
        environment = {**os.environ, "XDG_CACHE_HOME": str(self.caches)}
        child = subprocess.Popen(
            [sys.executable, *map(str, command)],
            env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        assert child.stdout is not None
        if wait:
            child.stdout.readline()
        time.sleep(seconds)
        running = child.poll() is None
        child.kill()
        child.communicate()
        return running

    def saving(self, r: random.Random) -> str:
        """Kill a process that saves."""
        assert self.killed(["-c", SAVES, self.bundle, self.save], r.uniform(0, 0.5), wait=True)
        messages = len(Conversation.load(self.save, self.model).messages)
        return "" if messages in (3, 5) else f"{messages} messages"

    def caching(self, r: random.Random, kernels: str) -> str:
        """Kill a process that compiles or packs."""
        kept = self.caches / "pocket-omni"
        for path in kept.iterdir():
            if path.name == "packed":
                shutil.rmtree(path)
            elif kernels == "native" and path.is_file():
                path.unlink()
        self.killed(
            ["-c", ANSWER, self.bundle, kernels], r.uniform(0.3, 8 if kernels == "native" else 2)
        )
        found = ask(self.bundle, kernels, self.caches, COMPILES)
        return (
            "" if found == self.answers[kernels] else f"{found} instead of {self.answers[kernels]}"
        )

    def exporting(self, r: random.Random) -> str:
        """Kill an export."""
        command = [ROOT / "export/run.py", "--model", self.checkpoint, "--quant", "fp32",
                   "--output", self.exported]  # fmt: skip
        self.killed(command, r.uniform(2, 40))
        bad = [name for name, intact in Bundle(self.exported).verify() if not intact]
        lost = (self.exported.parent / "mine").read_text() != "mine"
        return f"{bad} are damaged" if bad else "a file is lost" * lost

    def run(self, r: random.Random) -> tuple[str, str]:
        """Kill something."""
        kind = r.choices(("save", "packed", "native", "export"), (70, 20, 5, 5))[0]
        try:
            if kind == "save":
                fault = self.saving(r)
            elif kind == "export":
                fault = self.exporting(r)
            else:
                fault = self.caching(r, kind)
        except OmniError as error:
            fault = error.message
        return ("lost" if fault else "right"), f"{kind}: {fault}"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what is used."""
    bundle_argument(parser)
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "tiny/checkpoint")


def main() -> int:
    """Run, print the faults, and count."""
    campaign = Campaign("kill", __doc__, arguments, runs=200)
    with tempfile.TemporaryDirectory() as folder:
        bundle, checkpoint = (
            campaign.options.bundle.resolve(),
            campaign.options.checkpoint.resolve(),
        )
        kills = Kills(bundle, checkpoint, Path(os.path.realpath(folder)))
        for seed in campaign:
            campaign.note(*kills.run(random.Random(seed)))
    return campaign.result()


if __name__ == "__main__":
    sys.exit(main())
