"""Flips a bit of a file that is kept: each flip is found, and no answer is wrong because of it.

    python -m tests.trust.flip [BUNDLE] --runs 500 | --minutes 5

The files are those of a bundle (`verify` names the file, and it opens or is refused), of a saved
conversation (it is refused), of packed weights and of the kernel library (they are made again, and
the answer is the same).
"""

import os
import random
import shutil
import sys
import tempfile
from pathlib import Path

from tests.trust.campaign import COMPILES, Campaign, ask, bundle_argument
from tests.trust.fuzz import copied

from omni_runtime.bundle.store import Bundle
from omni_runtime.conversation import Conversation
from omni_runtime.engine.session import SessionOptions
from omni_runtime.errors import OmniError
from omni_runtime.model import Model
from omni_runtime.options import ReplyOptions


def flip(path: Path, r: random.Random) -> str:
    """Flip one bit, in a new file: others may be hard links to the old one. Return where."""
    data = bytearray(path.read_bytes())
    at, bit = r.randrange(len(data)), r.randrange(8)
    data[at] ^= 1 << bit
    mode = path.stat().st_mode
    path.unlink()
    path.write_bytes(data)
    path.chmod(mode)
    return f"{path.name}, byte {at}, bit {bit}"


def files_of(folder: Path) -> list[Path]:
    """Return all files below a folder that are not empty."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)


class Flips:
    """The intact originals, and what each flip is compared with."""

    def __init__(self, bundle: Path, folder: Path) -> None:
        self.bundle, self.folder = bundle, folder
        self.model = Model(bundle, SessionOptions(threads=1))
        talk = Conversation(self.model)
        self.options = ReplyOptions(None, max_tokens=4)
        list(talk.send("Hello", self.options))
        talk.save(folder / "saved")
        self.answers: dict[str, str] = {}
        for kernels in ("native", "packed"):
            caches = folder / f"{kernels} caches"
            caches.mkdir(mode=0o700)
            result, self.answers[kernels] = ask(bundle, kernels, caches, COMPILES)
            assert result == "answered", self.answers[kernels]

    def bundle_file(self, r: random.Random) -> tuple[str, str]:
        """Flip a bit of the bundle."""
        copy = copied(self.bundle, self.folder / "copy")
        for name in ("manifest.json", "manifest.sha256"):
            shutil.copyfile(self.bundle / name, copy / name)
        path = r.choice(files_of(copy))
        where = flip(path, r)
        try:
            damaged = [name for name, intact in Bundle(copy).verify() if not intact]
        except OmniError:
            return "refused", where
        if damaged != [path.relative_to(copy).as_posix()]:
            return "not found", where
        result, detail = ask(copy)
        return result, f"{where}: {detail}"

    def saved_file(self, r: random.Random) -> tuple[str, str]:
        """Flip a bit of a saved conversation."""
        copy = self.folder / "save"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.folder / "saved", copy)
        where = flip(r.choice(files_of(copy)), r)
        try:
            Conversation.load(copy, self.model)
        except OmniError:
            return "refused", where
        return "not found", where

    def cached_file(self, r: random.Random, kernels: str) -> tuple[str, str]:
        """Flip a bit of a cached library or of packed weights."""
        caches = self.folder / "caches"
        shutil.rmtree(caches, ignore_errors=True)
        shutil.copytree(self.folder / f"{kernels} caches", caches)
        caches.chmod(0o700)
        where = flip(r.choice(files_of(caches)), r)
        result, text = ask(self.bundle, kernels, caches, COMPILES)
        if result == "answered" and text != self.answers[kernels]:
            return "wrong", f"{where}: {text} instead of {self.answers[kernels]}"
        return ("right" if result == "answered" else f"{result}, cache"), f"{where}: {text}"

    def run(self, r: random.Random) -> tuple[str, str]:
        """Flip a bit somewhere."""
        kind = r.random()
        if kind < 0.6:
            return self.bundle_file(r)
        if kind < 0.8:
            return self.saved_file(r)
        return self.cached_file(r, "packed" if kind < 0.98 else "native")


def main() -> int:
    """Run, print the faults, and count."""
    campaign = Campaign("flip", __doc__, bundle_argument, runs=500)
    with tempfile.TemporaryDirectory() as folder:
        flips = Flips(campaign.options.bundle, Path(os.path.realpath(folder)))
        for seed in campaign:
            campaign.note(*flips.run(random.Random(seed)))
    return campaign.result()


if __name__ == "__main__":
    sys.exit(main())
