"""The version catalog, `gradle/libs.versions.toml`."""

import tomllib
from pathlib import Path

CATALOG = Path(__file__).parent.parent / "gradle" / "libs.versions.toml"


def version(name: str) -> str:
    """Return a version of the catalog. Raises KeyError."""
    return str(tomllib.loads(CATALOG.read_text("utf-8"))["versions"][name])
