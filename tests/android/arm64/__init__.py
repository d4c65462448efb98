"""arm64 without a phone: the kernels and the Python runtime inside qemu's user emulation."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
for folder in ("android_demo", "export", "quantize", "runtime", "tests"):
    if str(ROOT / folder) not in sys.path:
        sys.path.insert(0, str(ROOT / folder))
