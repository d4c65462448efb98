"""The kernels on arm64 inside qemu's user emulation, at length.

    python -m tests.android.arm64 kernels [--cpu neon|dot|matrix] [--library FILE]
    python -m tests.android.arm64 instructions [--cpu neon|dot|matrix]
    python -m tests.android.arm64 parity --bundle BUNDLE [--cpu neon|dot|matrix]

`kernels` runs the tests of tests/engine/test_kernels.py, every size of a tile, and the hostile
calls of tests/trust/kernels.py. `instructions` counts those of our kernels and of ONNX Runtime's
operators. `parity` compares the Python runtime with this machine: golden vectors, and answers of
the exam of tiny/ with the default bundle.
"""

import argparse
import sys
import time
from pathlib import Path

from tests.android.arm64 import checks, instructions, parity
from tests.android.arm64.emulator import CPUS, Guest

from toolchain.kernels import kernels

EXAM = {"typed": 150, "picture": 75, "spoken": 75}


def main() -> int:
    """Run, and print a line for each figure."""
    parser = argparse.ArgumentParser(prog="python -m tests.android.arm64", description=__doc__)
    parser.add_argument("what", choices=RUNS)
    parser.add_argument("--cpu", choices=CPUS, action="append", help="default: each")
    parser.add_argument("--library", type=Path, help="default: the library of the APK")
    parser.add_argument("--bundle", type=Path, help="for parity; exported with --target arm64")
    options = parser.parse_args()
    if options.what == "parity" and options.bundle is None:
        parser.error("parity needs --bundle")
    for cpu in options.cpu or CPUS:
        _say(f"{cpu} ({CPUS[cpu]})")
        RUNS[options.what](cpu, options)
    return 0


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _kernels(cpu: str, options: argparse.Namespace) -> None:
    start = time.perf_counter()
    with Guest(cpu) as guest:
        for name in checks.long(guest, options.library or kernels()):
            _say(f"  passed: {name} ({time.perf_counter() - start:.0f} s)")
        _say(f"  hostile calls: {checks.hostile(guest, options.library or kernels(), 3000)}")


def _instructions(cpu: str, options: argparse.Namespace) -> None:
    for count in instructions.counts(cpu, options.library or kernels()):
        _say(
            f"  {count.name}: ours {count.ours:.1f}, ONNX Runtime {count.theirs:.1f},"
            f" without KleidiAI {count.without_kleidiai:.1f} million instructions"
        )


def _parity(cpu: str, options: argparse.Namespace) -> None:
    for how in parity.HOW:
        differing = parity.differing_vectors(cpu, options.bundle, how)
        _say(f"  {how}: {len(differing)} golden vectors differ")
        for line in differing:
            _say(f"    {line}")
    for line in parity.compared(cpu, options.bundle, EXAM):
        _say(f"  {line}")


RUNS = {"kernels": _kernels, "instructions": _instructions, "parity": _parity}

if __name__ == "__main__":
    sys.exit(main())
