"""The result of one check of `omni doctor`. Imports nothing, so it works in a broken install."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Check:
    """The result of a check. `fix` is the step that repairs it; empty for "ok"."""

    status: Literal["ok", "warn", "fail"]
    name: str
    found: str
    fix: str = ""
