"""One finding of the doctor. Needs nothing, so that it can be made where all else is broken."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Check:
    """One finding. `fix` repairs it; an "ok" has none."""

    status: Literal["ok", "warn", "fail"]
    name: str
    found: str
    fix: str = ""
