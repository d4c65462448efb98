"""The default bundle, exported once for all tests of the Android demo."""

import fcntl
import os
from pathlib import Path

import pytest

from conftest import export_to

CHECKPOINT = Path(__file__).parent.parent.parent / "tiny" / "checkpoint"


@pytest.fixture(scope="session")
def default_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained checkpoint in int4. Processes of one test run share it."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    bundle = root / "android" / "tiny-int4"
    bundle.parent.mkdir(exist_ok=True)
    with (bundle.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return bundle if bundle.is_dir() else export_to(CHECKPOINT, bundle, "int4")
