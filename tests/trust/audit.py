"""Asks the advisory service of PyPI about every package of the lock file.

    python -m tests.trust.audit

Ends with 1 for a known vulnerability, and says so when the service did not answer.
"""

import json
import subprocess
import sys
from pathlib import Path

LOCK = Path(__file__).parents[2] / ".ci/requirements.lock"


def main() -> int:
    """Run pip-audit, and tell what it found."""
    done = subprocess.run(
        [sys.executable, "-m", "pip_audit", "--requirement", LOCK, "--disable-pip", "--no-deps",
         "--format", "json", "--progress-spinner", "off"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if not done.stdout:
        print(f"not audited: {(done.stderr.strip() or '?').splitlines()[-1]}")  # noqa: T201
        return 0
    packages = json.loads(done.stdout)["dependencies"]
    audited = [package for package in packages if "skip_reason" not in package]
    found = [package for package in audited if package["vulns"]]
    for package in found:
        ids = ", ".join(one["id"] for one in package["vulns"])
        print(f"{package['name']} {package['version']}: {ids}")  # noqa: T201
    if not audited:
        print("the advisory service did not answer")  # noqa: T201
    print(f"{len(audited)} of {len(packages)} packages audited, {len(found)} vulnerable")  # noqa: T201
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
