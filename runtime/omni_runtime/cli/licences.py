"""Licences of Pocket Omni and of all packages that it depends on, as their metadata states them."""

import re
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = "pocket-omni"
_CLASSIFIER = "License :: "


def licences() -> list[tuple[str, str, str]]:
    """Return (name, version, licence) of each installed package, sorted by name.

    They are Pocket Omni and what it needs with all its extras, directly or not.
    """
    found: dict[str, tuple[str, str, str]] = {}
    waiting = [(ROOT, True)]
    while waiting:
        name, extras = waiting.pop()
        if canonicalize_name(name) in found:
            continue
        try:
            package = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        known = package.metadata
        found[canonicalize_name(name)] = (known["Name"], package.version, _licence(known))
        for line in package.requires or ():
            needed = Requirement(line)
            if extras or needed.marker is None or needed.marker.evaluate({"extra": ""}):
                waiting.append((needed.name, needed.name == ROOT))
    return [found[name] for name in sorted(found)]


def _licence(known: "metadata.PackageMetadata") -> str:
    """Return the SPDX expression, the classifiers, or the first line of the free text."""
    given = known.json
    if expression := given.get("license_expression"):
        return str(expression)
    classifiers = [str(line) for line in given.get("classifier", [])]
    names = [
        line.rpartition(" :: ")[2]
        for line in classifiers
        if line.startswith(_CLASSIFIER) and not line.endswith("OSI Approved")
    ]
    text = re.split(r"[\r\n]", str(given.get("license", "")).strip())[0][:60]
    return ", ".join(names) or text or "not stated"
