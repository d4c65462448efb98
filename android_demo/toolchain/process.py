"""Run the programs of the toolchain. A failure is one OmniError with the end of their output."""

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from omni_runtime.errors import OmniError

LINES = 80
"""The last lines of a failed program's output that an error shows."""


def find(program: str, package: str) -> str:
    """Return the path of a program. `package` is the Debian package that installs it."""
    path = shutil.which(program)
    if path is None:
        raise OmniError(f"{program} is not installed", fix=f"apt-get install {package}")
    return path


def run(
    command: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Run a program and return its standard output. Raises OmniError when it fails."""
    words = [str(word) for word in command]
    done = subprocess.run(  # noqa: S603 - the toolchain's own commands, no shell
        words,
        cwd=cwd,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        output = f"{done.stdout}\n{done.stderr}".strip().splitlines()[-LINES:]
        raise OmniError(f"{Path(words[0]).name} failed:\n" + "\n".join(output))
    return done.stdout


def java(main: str, class_path: Sequence[Path], *arguments: str | Path, memory: str = "2g") -> str:
    """Run a Java class of the toolchain. C1 alone is faster for programs of a few seconds."""
    jars = os.pathsep.join(str(jar) for jar in class_path)
    options = [f"-Xmx{memory}", "-Xss4m", "-XX:TieredStopAtLevel=1", "-Dfile.encoding=UTF-8"]
    return run([find("java", "openjdk-17-jdk-headless"), *options, "-cp", jars, main, *arguments])
