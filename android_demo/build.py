"""Build the Android demo without Gradle: a signed APK, or the engine as a jar for a desktop JVM.

python android_demo/build.py                  # APK with the bundle of bundles/tiny-int4
python android_demo/build.py --jvm            # engine.jar
"""

import argparse
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
sys.path[:0] = [str(ROOT), str(ROOT.parent / "runtime")]

from omni_runtime.errors import OmniError  # noqa: E402
from toolchain.apk import build_apk, check_apk  # noqa: E402
from toolchain.kotlin import standard_library  # noqa: E402
from toolchain.project import engine_jar, onnxruntime_jar  # noqa: E402


def main() -> int:
    """Build, and print what was built."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--bundle",
        type=Path,
        default=ROOT.parent / "bundles" / "tiny-int4",
        help="bundle inside the APK, best one exported with --target arm64 (default: %(default)s)",
    )
    parser.add_argument("--jvm", action="store_true", help="build the engine as a jar instead")
    parser.add_argument(
        "--library",
        type=Path,
        action="append",
        default=[],
        help="a further native library for arm64-v8a, may be repeated",
    )
    parser.add_argument("-o", "--output", type=Path, help="file, or folder with --jvm")
    options = parser.parse_args()
    try:
        if options.jvm:
            _jars(options.output or ROOT / "build" / "jvm")
        else:
            _apk(
                options.bundle,
                options.output or ROOT / "build" / "pocket-omni.apk",
                options.library,
            )
    except OmniError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


def _jars(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for jar in (engine_jar(), onnxruntime_jar(), standard_library()):
        shutil.copyfile(jar, folder / jar.name)
        sys.stdout.write(f"{folder / jar.name}\n")


def _apk(bundle: Path, output: Path, libraries: list[Path]) -> None:
    build_apk(bundle, output, libraries)
    digest = check_apk(output)
    sys.stdout.write(f"{output}: {output.stat().st_size / 2**20:.1f} MB, sha256 {digest}\n")


if __name__ == "__main__":
    sys.exit(main())
