"""Turn dex files back into a jar, to run on a desktop JVM what D8 made for the phone."""

import struct
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from toolchain.class_file import JAVA_8
from toolchain.process import find, run

JVM_OPTIONS = ("-XX:+UnlockDiagnosticVMOptions", "-XX:-BytecodeVerificationRemote")
"""Options of a JVM for such a jar: enjarify does not write the tables that its verifier needs."""

INTERFACE = 0x200


def jar_of_dex(dexes: Sequence[bytes], output: Path) -> None:
    """Write a jar with the classes of dex files. Raises OmniError."""
    with tempfile.TemporaryDirectory() as temporary:
        apk, jar = Path(temporary) / "dexes.apk", Path(temporary) / "classes.jar"
        with zipfile.ZipFile(apk, "w") as archive:
            for number, data in enumerate(dexes):
                archive.writestr(f"classes{number + 1 if number else ''}.dex", data)
        # enjarify is a module of Debian's Python
        run(
            [find("enjarify", "enjarify"), apk, "-o", jar],
            environment={"PYTHON": "/usr/bin/python3"},
        )
        with zipfile.ZipFile(jar) as old, zipfile.ZipFile(output, "w") as new:
            for name in old.namelist():
                new.writestr(name, _with_interface_methods(old.read(name)))


def _with_interface_methods(data: bytes) -> bytes:
    """Return a class file, of Java 8 if it is an interface.

    enjarify writes Java 5, in which interfaces cannot have methods with code.
    """
    flags = struct.unpack_from(">H", data, _end_of_pool(data))[0]
    return data[:6] + struct.pack(">H", JAVA_8) + data[8:] if flags & INTERFACE else data


def _end_of_pool(data: bytes) -> int:
    count = struct.unpack_from(">H", data, 8)[0]
    offset, index = 10, 1
    while index < count:
        kind = data[offset]
        if kind == 1:
            offset += 3 + struct.unpack_from(">H", data, offset + 1)[0]
        elif kind in {5, 6}:  # long and double take two entries
            offset += 9
            index += 1
        else:
            offset += {7: 3, 8: 3, 16: 3, 15: 4}.get(kind, 5)
        index += 1
    return offset
