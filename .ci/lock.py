"""Write requirements.lock: every package that CI installs, with version and SHA-256.

    python .ci/lock.py          # on Linux x86-64 with Python 3.11, as CI

It asks pip what it would install for ".[dev]" and for the build.
"""

import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
HEADER = """\
# Written by .ci/lock.py for Linux x86-64 and Python 3.11.
# torch is the build for CPUs: https://download.pytorch.org/whl/cpu
"""


def main() -> None:
    """Resolve, and write the lock file."""
    ask = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
    done = subprocess.run(  # noqa: S603 - the interpreter's own pip
        [*ask, "--report", "-", ".[dev]", "hatchling", "editables", "pip-audit"],
        cwd=HERE.parent,
        stdout=subprocess.PIPE,
        check=True,
    )
    lines: list[str] = []
    for item in json.loads(done.stdout)["install"]:
        found, name = item["metadata"], item["metadata"]["name"]
        hashes = item["download_info"].get("archive_info", {}).get("hashes", {})
        if name != "pocket-omni":
            lines.append(f"{name}=={found['version']} --hash=sha256:{hashes['sha256']}\n")
    (HERE / "requirements.lock").write_text(HEADER + "".join(sorted(lines, key=str.lower)))


if __name__ == "__main__":
    main()
