"""python export/run.py --quant int4: the export from a bare checkout, installed or not."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / part) for part in ("export", "quantize", "runtime")]

from omni_export.cli import main  # noqa: E402 - the three packages are found only now

if __name__ == "__main__":
    sys.exit(main())
