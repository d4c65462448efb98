"""`omni golden`: write golden vectors, or check a bundle against them."""

import argparse
import sys
from pathlib import Path

from omni_runtime.errors import OmniError
from omni_runtime.golden import suite


def main(options: argparse.Namespace) -> int:
    """Write golden vectors, or check those in a folder. Raises OmniError if a value differs."""
    model = suite.open_model(Path(options.bundle))
    if options.check is None:
        folder = Path(options.output or f"{model.bundle.manifest.name}-golden")
        count = suite.save(model, folder)
        sys.stdout.write(f"{folder}: {count} cases (docs/bundle.md describes them)\n")
        return 0
    differences = list(suite.check(model, Path(options.check)))
    if differences:
        more = f", and {len(differences) - 1} more" if len(differences) > 1 else ""
        raise OmniError(
            f"{options.bundle} differs from {options.check}: {differences[0]}{more}",
            fix="use the bundle that they were made from, or write them again",
        )
    sys.stdout.write(f"{options.bundle} reproduces {options.check}\n")
    return 0
