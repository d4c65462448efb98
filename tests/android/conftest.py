"""A JVM with the Kotlin engine. Skipped only where no JDK or C compiler is installed."""

import fcntl
import os
import shutil
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
from tests.android.engine import Jvm

from conftest import Twin, export_to

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def jvm() -> Generator[Jvm]:
    """One JVM for all tests."""
    if sys.platform != "linux" or not shutil.which("java") or not shutil.which("cc"):
        pytest.skip("needs Linux, a JDK and a C compiler")
    with Jvm() as machine:
        yield machine


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bundle of the trained default, quantized as it ships. Processes of one test run share it."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    bundle = root / "android" / "tiny-int4"
    bundle.parent.mkdir(exist_ok=True)
    with (bundle.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not bundle.is_dir():
            export_to(ROOT / "tiny" / "checkpoint", bundle, "int4")
    return bundle


@pytest.fixture(params=["trained", "narrow", "wide"])
def bundle(request: pytest.FixtureRequest) -> Path:
    """The trained default and two random shapes."""
    if request.param == "trained":
        return request.getfixturevalue("trained")
    twin: Twin = request.getfixturevalue("make_twin")(request.param)
    return twin.bundle
