"""`omni push`: copy a bundle to a phone with adb, and check every file on arrival."""

import argparse
import shlex
import shutil
import subprocess
from pathlib import Path

from omni_runtime.bundle.store import Bundle
from omni_runtime.checksums import sha256_of
from omni_runtime.cli import ui
from omni_runtime.cli.common import format_size
from omni_runtime.errors import OmniError, UsageError

FOLDER = "/sdcard/Android/data/org.pocketomni.app/files/bundles"
"""Where the app of android_demo/ finds bundles; adb may write there, other apps may not."""
SPARE = 256 * 2**20
"""Bytes that stay free on the phone."""


def main(options: argparse.Namespace) -> int:
    """Copy, compare checksums, then give the folder its name."""
    bundle = Bundle(options.bundle)
    name = Path(options.bundle).resolve().name
    phone = _Phone(options.serial)
    files = sorted(path for path in Path(options.bundle).rglob("*") if path.is_file())
    size = sum(path.stat().st_size for path in files)
    if (free := phone.free_bytes()) < size + SPARE:
        raise OmniError(
            f"{name} has {format_size(size)}, the phone has {format_size(free)} free",
            fix="free some space on the phone",
        )
    target, partial = f"{FOLDER}/{name}", f"{FOLDER}/.{name}.partial"
    if phone.exists(target):
        raise UsageError(
            f"the phone has a bundle {name} already", fix=f"adb shell rm -r {shlex.quote(target)}"
        )
    phone.shell("rm", "-rf", partial)  # of a push that was interrupted
    phone.shell("mkdir", "-p", partial)
    ui.note(f"copying {format_size(size)} to {target}")
    phone.adb("push", f"{options.bundle}/.", partial)
    ui.note("comparing checksums")
    arrived = phone.checksums(partial)
    for path in files:
        relative = path.relative_to(options.bundle).as_posix()
        if arrived.get(relative) != sha256_of(path):
            raise OmniError(f"{relative} did not arrive whole", fix="push it again")
    phone.shell("mv", partial, target)
    ui.say(f"{bundle.manifest.name}: {len(files)} files on the phone, all checksums match")
    return 0


class _Phone:
    """One phone, through adb."""

    def __init__(self, serial: str | None) -> None:
        """Raises OmniError without adb or without exactly one phone."""
        adb = shutil.which("adb")
        if adb is None:
            raise OmniError("there is no adb", fix="install Android's platform tools")
        self._command = [adb, *(["-s", serial] if serial else [])]
        listed = self.adb("devices").splitlines()[1:]
        phones = [line.split()[0] for line in listed if line.endswith("\tdevice")]
        if serial is None and len(phones) != 1:
            waiting = any(line.endswith("\tunauthorized") for line in listed)
            fix = "allow debugging on the phone" if waiting else "connect one with USB debugging"
            if phones:
                fix = f"--serial {' or '.join(phones)}"
            raise OmniError(f"{len(phones)} phones are connected", fix=fix)

    def adb(self, *words: str) -> str:
        """Run adb and return what it prints. Raises OmniError."""
        command = [*self._command, *words]
        done = subprocess.run(  # noqa: S603 - the user's own adb
            command, capture_output=True, text=True, encoding="utf-8", check=False
        )
        if done.returncode != 0:
            reason = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
            raise OmniError(f"adb {words[0]} failed: {reason}", fix="check the cable, push again")
        return done.stdout

    def shell(self, *words: str) -> str:
        """Run a command on the phone."""
        return self.adb("shell", shlex.join(words))

    def exists(self, path: str) -> bool:
        """Whether a path exists on the phone."""
        return "yes" in self.adb("shell", f"test -e {shlex.quote(path)} && echo yes || echo no")

    def free_bytes(self) -> int:
        """Free bytes of the phone's storage."""
        fields = self.shell("df", "-k", "/sdcard").splitlines()[-1].split()
        return int(fields[3]) * 1024

    def checksums(self, folder: str) -> dict[str, str]:
        """SHA-256 of each file below a folder, by its relative path."""
        command = f"cd {shlex.quote(folder)} && find . -type f -exec sha256sum {{}} +"
        pairs = (line.split(maxsplit=1) for line in self.adb("shell", command).splitlines())
        return {path.strip().removeprefix("./"): digest for digest, path in pairs}
