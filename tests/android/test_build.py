"""The command android_demo/build.py."""

import subprocess
import sys
import zipfile
from pathlib import Path

from tests.android.samples import needs

BUILD = Path(__file__).parent.parent.parent / "android_demo" / "build.py"


def build(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, BUILD, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@needs("java", "npm")
def test_the_engine_is_built_as_jars(tmp_path: Path) -> None:
    done = build("--jvm", "-o", tmp_path)
    assert done.returncode == 0, done.stderr
    jars = [Path(line) for line in done.stdout.splitlines()]
    assert [jar.name for jar in jars] == ["engine.jar", "onnxruntime.jar", "kotlin-stdlib.jar"]
    with zipfile.ZipFile(jars[0]) as jar:
        assert "org/pocketomni/engine/Engine.class" in jar.namelist()
    with zipfile.ZipFile(jars[1]) as jar:
        assert "ai/onnxruntime/OrtSession.class" in jar.namelist()
        assert not [name for name in jar.namelist() if "elemetry" in name]


def test_a_folder_that_is_no_bundle_is_one_line(tmp_path: Path) -> None:
    done = build("--bundle", tmp_path)
    assert done.returncode == 1
    assert done.stderr == (
        f"{tmp_path} is not a bundle (python export/run.py --quant int4, or --bundle FOLDER)\n"
    )
