"""The kernels on arm64 inside qemu's user emulation, at length.

    python -m tests.android.arm64 kernels [--cpu neon|dot|matrix] [--library FILE]
    python -m tests.android.arm64 instructions [--cpu neon|dot|matrix]

`kernels` runs the tests of tests/engine/test_kernels.py and every size of a tile; `instructions`
counts those of our kernels and of ONNX Runtime's operators.
"""

import argparse
import sys
import time
from pathlib import Path

from tests.android.arm64 import checks, instructions
from tests.android.arm64.emulator import CPUS, Guest

from toolchain.kernels import kernels


def main() -> int:
    """Run, and print a line for each figure."""
    parser = argparse.ArgumentParser(prog="python -m tests.android.arm64", description=__doc__)
    parser.add_argument("what", choices=("kernels", "instructions"))
    parser.add_argument("--cpu", choices=CPUS, action="append", help="default: each")
    parser.add_argument("--library", type=Path, help="default: the library of the APK")
    options = parser.parse_args()
    library = options.library or kernels()
    for cpu in options.cpu or CPUS:
        sys.stdout.write(f"{cpu} ({CPUS[cpu]})\n")
        if options.what == "kernels":
            start = time.perf_counter()
            with Guest(cpu) as guest:
                for name in checks.long(guest, library):
                    sys.stdout.write(f"  passed: {name} ({time.perf_counter() - start:.0f} s)\n")
                    sys.stdout.flush()
        else:
            for count in instructions.counts(cpu, library):
                sys.stdout.write(
                    f"  {count.name}: ours {count.ours:.1f}, ONNX Runtime {count.theirs:.1f},"
                    f" without KleidiAI {count.without_kleidiai:.1f} million instructions\n"
                )
                sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
