"""`omni golden`: vectors to test another runtime with, and a check against them."""

import argparse
import sys
from pathlib import Path

from omni_runtime.errors import OmniError
from omni_runtime.golden import suite


def main(options: argparse.Namespace) -> int:
    """Write golden vectors, or check those in a folder. Raises OmniError when one differs."""
    model = suite.open_model(Path(options.bundle))
    if options.check is None:
        folder = Path(options.output or f"{model.bundle.manifest.name}-golden")
        count = suite.save(model, folder)
        sys.stdout.write(f"{folder}: {count} cases (docs/bundle.md describes them)\n")
        return 0
    found = list(suite.check(model, Path(options.check)))
    if found:
        more = f", and {len(found) - 1} more" if len(found) > 1 else ""
        raise OmniError(
            f"{options.bundle} differs from {options.check}: {found[0]}{more}",
            fix="use the bundle that they were made of, or make them again",
        )
    sys.stdout.write(f"{options.bundle} gives what is recorded in {options.check}\n")
    return 0
