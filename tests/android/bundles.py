"""The default bundle, exported for the tests of the Android demo."""

from pathlib import Path

from conftest import export_to

CHECKPOINT = Path(__file__).parent.parent.parent / "tiny" / "checkpoint"


def export_default(folder: Path) -> Path:
    """Export the trained checkpoint in int4."""
    return export_to(CHECKPOINT, folder / "tiny-int4", "int4")
