"""Checks golden vectors inside the emulator: vectors.py VECTORS BUNDLE ours|kleidiai|mlas."""

import sys
from pathlib import Path

from answers import open_model

from omni_runtime.golden import suite

if __name__ == "__main__":
    folder, bundle, how = sys.argv[1:]
    sys.stdout.writelines(
        f"{line}\n" for line in suite.check(open_model(Path(bundle), how), Path(folder))
    )
