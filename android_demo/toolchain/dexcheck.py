"""Check that a dex file refers only to what a phone with API 29 has.

Every class, method and field outside of the dex must be in `api/current.txt`, which also lists
java.*. A desktop compiler accepts more, and a phone fails only when it reaches the missing call.
"""

import json
import struct
from dataclasses import dataclass

from toolchain.android_jar import android_jar

RUNTIME_ONLY = "Ldalvik/annotation/"
"""Annotations that D8 writes and Android's runtime reads. They are not part of the public API."""


@dataclass(frozen=True)
class Dex:
    """What a dex file defines and refers to. Classes are descriptors, members as in api.json."""

    types: frozenset[str]
    members: frozenset[tuple[str, str]]
    """Class and member: `name:descriptor` of a field, `name(descriptors)descriptor` of a method."""
    defined: frozenset[str]


def read_dex(data: bytes) -> Dex:
    """Read the tables of a dex file."""

    def table(offset: int, width: int) -> list[bytes]:
        count, start = struct.unpack_from("<II", data, offset)
        return [data[at : at + width] for at in range(start, start + width * count, width)]

    strings = [_string(data, struct.unpack("<I", entry)[0]) for entry in table(56, 4)]
    types = [strings[struct.unpack("<I", entry)[0]] for entry in table(64, 4)]
    prototypes: list[str] = []
    for entry in table(72, 12):
        _, result, offset = struct.unpack("<III", entry)
        count = struct.unpack_from("<I", data, offset)[0] if offset else 0
        parameters = struct.unpack_from(f"<{count}H", data, offset + 4)
        prototypes.append(f"({''.join(types[index] for index in parameters)}){types[result]}")
    members: set[tuple[str, str]] = set()
    for entry in table(80, 8):
        owner, kind, name = struct.unpack("<HHI", entry)
        members.add((types[owner], f"{strings[name]}:{types[kind]}"))
    for entry in table(88, 8):
        owner, prototype, name = struct.unpack("<HHI", entry)
        members.add((types[owner], f"{strings[name]}{prototypes[prototype]}"))
    defined = {types[struct.unpack_from("<I", entry)[0]] for entry in table(96, 32)}
    return Dex(frozenset(types), frozenset(members), frozenset(defined))


def _string(data: bytes, offset: int) -> str:
    while data[offset] & 0x80:  # the length, in 7 bits a byte
        offset += 1
    end = data.index(0, offset + 1)
    # NUL is written in two bytes
    return data[offset + 1 : end].replace(b"\xc0\x80", b"\0").decode("utf-8", "surrogatepass")


def unknown_references(dexes: list[bytes]) -> list[str]:
    """Return every reference of dex files that is neither in one of them nor in the API."""
    api: dict[str, list[list[str]]] = json.loads(android_jar()[1].read_text())
    read = [read_dex(data) for data in dexes]
    defined = frozenset[str]().union(*(dex.defined for dex in read))
    unknown: set[str] = set()
    for dex in read:
        for name in dex.types:
            element = name.lstrip("[")
            outside = element.startswith("L") and element not in defined
            if outside and element[1:-1] not in api and not element.startswith(RUNTIME_ONLY):
                unknown.add(element)
        for owner, member in dex.members:
            if (
                owner.startswith("L")
                and owner not in defined
                and not _has(api, owner[1:-1], member)
            ):
                unknown.add(f"{owner} {member}")
    return sorted(unknown)


def _has(api: dict[str, list[list[str]]], owner: str, member: str) -> bool:
    """Return whether a class or one of its parents has a member. A class always has Object's."""
    if owner not in api:
        return False
    parents, members = api[owner]
    return member in members or any(_has(api, parent, member) for parent in parents)
