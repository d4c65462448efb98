"""Run the export from a checkout, installed or not: python export/run.py --quant int4."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / part) for part in ("export", "quantize", "runtime")]

from omni_export.cli import main  # noqa: E402 - needs the paths above

if __name__ == "__main__":
    sys.exit(main())
