"""A JVM with the Kotlin engine. Skipped only where no JDK or C compiler is installed."""

import shutil
import sys
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from tests.android.engine import Jvm

from conftest import Twin

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def jvm() -> Generator[Jvm]:
    """One JVM for all tests."""
    if sys.platform != "linux" or not shutil.which("java") or not shutil.which("cc"):
        pytest.skip("needs Linux, a JDK and a C compiler")
    with Jvm() as machine:
        yield machine


@pytest.fixture(scope="session")
def trained(export_trained: Callable[[str], Path]) -> Path:
    """Bundle of the trained default, quantized as it ships."""
    return export_trained("int4")


@pytest.fixture(params=["trained", "narrow", "wide"])
def bundle(request: pytest.FixtureRequest) -> Path:
    """The trained default and two random shapes."""
    if request.param == "trained":
        return request.getfixturevalue("trained")
    twin: Twin = request.getfixturevalue("make_twin")(request.param)
    return twin.bundle
