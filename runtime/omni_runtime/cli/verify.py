"""`omni verify`: compare every file of a bundle with its checksum."""

import argparse
import sys

from omni_runtime.bundle.store import Bundle
from omni_runtime.cli.hints import EXPORT_AGAIN
from omni_runtime.errors import BundleError


def main(options: argparse.Namespace) -> int:
    """Read every file. Raises BundleError with the name of the first file that differs."""
    bundle = Bundle(options.bundle)
    for name, unchanged in bundle.verify():
        if not unchanged:
            raise BundleError(
                f"{bundle.folder / name} was changed after the export", fix=EXPORT_AGAIN
            )
    sys.stdout.write(f"{bundle.folder}: {len(bundle.manifest.files)} files match their checksums\n")
    return 0
