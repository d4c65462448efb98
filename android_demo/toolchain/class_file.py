"""Write Java class files without code: the constant pool, members and attributes."""

import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

CODE = b"\x01\xbf"
"""`aconst_null; athrow`: the body of every method."""

JAVA_8 = 52


@dataclass(frozen=True)
class Constant:
    """A constant of a type: a number, or the text of a string."""

    descriptor: str
    value: int | float | str


class ClassFile:
    """A class file that is being written."""

    def __init__(
        self, flags: int, name: str, parent: str | None, interfaces: Sequence[str]
    ) -> None:
        """Names are binary. Only java/lang/Object has no parent."""
        self._pool = bytearray()
        self._count = 1
        self._index: dict[tuple[str, object], int] = {}
        self._fields: list[bytes] = []
        self._methods: list[bytes] = []
        self._attributes: list[bytes] = []
        self._nested: set[str] = set()
        own, above = self.class_name(name), self.class_name(parent) if parent else 0
        numbers = [self.class_name(interface) for interface in interfaces]
        self._head = struct.pack(f">{4 + len(numbers)}H", flags, own, above, len(numbers), *numbers)

    def _add(self, key: tuple[str, object], content: bytes, slots: int = 1) -> int:
        if key not in self._index:
            self._index[key] = self._count
            self._pool += content
            self._count += slots
        return self._index[key]

    def text(self, text: str) -> int:
        """Return the index of a text. Nested classes that it names are listed in InnerClasses."""
        self._nested.update(re.findall(r"L([\w/]+\$[\w$]+)", text) if "$" in text else ())
        # class files encode NUL and characters outside of the first plane in another way
        encoded = text.encode("utf-16-be", "surrogatepass")
        units = struct.unpack(f">{len(encoded) // 2}H", encoded)
        data = b"".join(
            b"\xc0\x80" if unit == 0 else chr(unit).encode("utf-8", "surrogatepass")
            for unit in units
        )
        return self._add(("text", text), b"\x01" + struct.pack(">H", len(data)) + data)

    def class_name(self, name: str) -> int:
        """Return the index of a class."""
        self._nested.update([name] if "$" in name else ())
        return self._add(("class", name), b"\x07" + struct.pack(">H", self.text(name)))

    def constant(self, constant: Constant) -> int:
        """Return the index of a constant."""
        value = constant.value
        # 0.0 equals -0.0, and NaN does not equal itself
        key = (constant.descriptor, repr(value))
        match constant.descriptor:
            case "J":
                return self._add(key, b"\x05" + struct.pack(">q", value), 2)
            case "F":
                return self._add(key, b"\x04" + struct.pack(">f", value))
            case "D":
                return self._add(key, b"\x06" + struct.pack(">d", value), 2)
            case "I":
                return self._add(key, b"\x03" + struct.pack(">i", value))
            case _:
                return self._add(key, b"\x08" + struct.pack(">H", self.text(str(value))))

    def attribute(self, name: str, content: bytes) -> bytes:
        """Return an attribute."""
        return struct.pack(">HI", self.text(name), len(content)) + content

    def annotations(self, descriptors: Sequence[str]) -> bytes:
        """Return the content of an attribute of annotations without values."""
        entries = b"".join(struct.pack(">HH", self.text(name), 0) for name in descriptors)
        return struct.pack(">H", len(descriptors)) + entries

    def signature(self, signature: str) -> None:
        """Set the generic signature of the class."""
        self._attributes.append(
            self.attribute("Signature", struct.pack(">H", self.text(signature)))
        )

    def field(self, flags: int, name: str, descriptor: str, attributes: Sequence[bytes]) -> None:
        """Add a field."""
        self._fields.append(self._member(flags, name, descriptor, attributes))

    def method(self, flags: int, name: str, descriptor: str, attributes: Sequence[bytes]) -> None:
        """Add a method."""
        self._methods.append(self._member(flags, name, descriptor, attributes))

    def _member(self, flags: int, name: str, descriptor: str, attributes: Sequence[bytes]) -> bytes:
        head = struct.pack(">4H", flags, self.text(name), self.text(descriptor), len(attributes))
        return head + b"".join(attributes)

    def to_bytes(self, nested_flags: Callable[[str], int | None]) -> bytes:
        """Return the file. `nested_flags` gives the flags of a nested class, None if it is none."""
        entries: list[bytes] = []
        names = {
            name[: match.start()] for name in self._nested for match in re.finditer(r"\$|$", name)
        }
        for name in sorted(names):
            outer, _, simple = name.rpartition("$")
            flags = nested_flags(name) if outer else None
            if flags is not None:
                numbers = self.class_name(name), self.class_name(outer), self.text(simple), flags
                entries.append(struct.pack(">4H", *numbers))
        attributes = list(self._attributes)
        if entries:
            content = struct.pack(">H", len(entries)) + b"".join(entries)
            attributes.append(self.attribute("InnerClasses", content))
        parts = [self._fields, self._methods, attributes]
        body = b"".join(struct.pack(">H", len(found)) + b"".join(found) for found in parts)
        head = struct.pack(">IHHH", 0xCAFEBABE, 0, JAVA_8, self._count)
        return head + bytes(self._pool) + self._head + body
