"""`omni verify`: has a byte of the bundle changed?"""

import argparse
import sys

from omni_runtime.bundle.store import Bundle
from omni_runtime.cli.hints import EXPORT_AGAIN
from omni_runtime.errors import BundleError


def main(options: argparse.Namespace) -> int:
    """Read every file. Raises BundleError naming the first that differs."""
    bundle = Bundle(options.bundle)
    for name, unchanged in bundle.verify():
        if not unchanged:
            raise BundleError(
                f"{bundle.folder / name} was changed after the export", fix=EXPORT_AGAIN
            )
    sys.stdout.write(
        f"{bundle.folder}: {len(bundle.manifest.files)} files are as they were exported\n"
    )
    return 0
