"""Make an android.jar to compile against from `api/current.txt`.

The classes have names, descriptors, generic signatures, nullability, constants and exceptions: what
a compiler and D8 read. Their methods have no bodies, so nothing in the jar can run. Default values
of annotations are missing, because the file does not list them.
"""

import json
import re
import struct
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from toolchain.api_text import ApiClass, Member, Type, Variable, read_api
from toolchain.class_file import CODE, ClassFile, Constant
from toolchain.parts import CACHE, cached, part

FORMAT = 1
"""Increase it when the same API gives other files."""

DESCRIPTORS = {
    "void": "V",
    "boolean": "Z",
    "byte": "B",
    "char": "C",
    "short": "S",
    "int": "I",
    "long": "J",
    "float": "F",
    "double": "D",
}
FLAGS = {
    "public": 0x1,
    "private": 0x2,
    "protected": 0x4,
    "static": 0x8,
    "final": 0x10,
    "volatile": 0x40,
    "transient": 0x80,
    "abstract": 0x400,
}
SUPER, VARARGS, INTERFACE, ANNOTATION, ENUM = 0x20, 0x80, 0x200, 0x2000, 0x4000
NULLABILITY = {
    "NonNull": "Landroid/annotation/NonNull;",
    "Nullable": "Landroid/annotation/Nullable;",
}
OBJECT = Type("java.lang.Object")
Scope = Mapping[str, Variable]
"""Type variables by name."""


def android_jar() -> tuple[Path, Path]:
    """Return android.jar and api.json, which lists every class with its members for `dexcheck`.

    Both are made on first use, in about ten seconds.
    """
    source = part("android-sources")

    def make(new: Path) -> None:
        api = Api(read_api((source / "current.txt").read_text("utf-8")))
        with zipfile.ZipFile(new / "android.jar", "w") as jar:
            for name in sorted(api.classes):
                jar.writestr(zipfile.ZipInfo(f"{name}.class"), api.class_file(name))
        (new / "api.json").write_text(json.dumps(api.members()))

    folder = cached(CACHE / "android" / f"{source.name}-{FORMAT}", make)
    return folder / "android.jar", folder / "api.json"


class Api:
    """The classes by binary name, such as `java/util/Map$Entry`."""

    def __init__(self, classes: Iterable[ApiClass]) -> None:
        listed = list(classes)
        self._packages = {found.package for found in listed}
        self.classes = {self._binary(f"{found.package}.{found.name}"): found for found in listed}
        self._nested: dict[str, list[str]] = {}
        for name in self.classes:
            self._nested.setdefault(name.rpartition("$")[0], []).append(name)

    def _binary(self, name: str) -> str:
        """Return the binary name. Names without a package are of java.lang."""
        package = name.rpartition(".")[0]
        while package and package not in self._packages:
            package = package.rpartition(".")[0]
        if not package:
            return f"java/lang/{name.replace('.', '$')}"
        return f"{package.replace('.', '/')}/{name[len(package) + 1 :].replace('.', '$')}"

    def _scope(self, name: str) -> dict[str, Variable]:
        """Return the type variables of a class and of the classes around it."""
        outer = name.rpartition("$")[0]
        scope = self._scope(outer) if outer else {}
        found = self.classes.get(name)
        return (
            {**scope, **{variable.name: variable for variable in found.variables}}
            if found
            else scope
        )

    def descriptor(self, kind: Type, scope: Scope) -> str:
        """Return the erased type."""
        if kind.name in scope:
            bounds = scope[kind.name].bounds
            erased = self.descriptor(bounds[0] if bounds else OBJECT, scope)
        else:
            erased = DESCRIPTORS.get(kind.name) or f"L{self._binary(kind.name)};"
        return "[" * kind.dimensions + erased

    def signature(self, kind: Type, scope: Scope) -> str:
        """Return the type with its arguments, as in a Signature attribute."""
        if kind.bound is not None:
            return ("+" if kind.bound[0] == "extends" else "-") + self.signature(
                kind.bound[1], scope
            )
        if kind.name == "?":
            return "*"
        if kind.name in scope:
            text = f"T{kind.name};"
        elif kind.name in DESCRIPTORS:
            text = DESCRIPTORS[kind.name]
        else:
            arguments = "".join(self.signature(argument, scope) for argument in kind.arguments)
            text = f"L{self._binary(kind.name)}{f'<{arguments}>' if arguments else ''};"
        return "[" * kind.dimensions + text

    def _bounds(self, variables: Sequence[Variable], scope: Scope) -> str:
        def bound(kind: Type) -> str:
            found = self.classes.get(self._binary(kind.name))
            interface = kind.name not in scope and found is not None and "interface" in found.kind
            return f":{':' if interface else ''}{self.signature(kind, scope)}"

        texts: list[str] = []
        for variable in variables:
            first, *others = variable.bounds or (OBJECT,)
            rest = "".join(f":{self.signature(other, scope)}" for other in others)
            texts.append(f"{variable.name}{bound(first)}{rest}")
        return f"<{''.join(texts)}>" if texts else ""

    def _parents(self, found: ApiClass) -> tuple[Type, tuple[Type, ...]]:
        """Return the superclass and the interfaces."""
        match found.kind:
            case "interface":
                return OBJECT, found.extends + found.implements
            case "@interface":
                return OBJECT, (Type("java.lang.annotation.Annotation"),)
            case "enum":
                own = Type(f"{found.package}.{found.name}")
                return Type("java.lang.Enum", (own,)), found.implements
            case _:
                return (found.extends or (OBJECT,))[0], found.implements

    def class_flags(self, name: str) -> int:
        """Return the access flags of a class, as its InnerClasses entry has them."""
        found = self.classes[name]
        flags = sum(FLAGS.get(word, 0) for word in found.modifiers)
        if "interface" in found.kind:
            flags |= INTERFACE | FLAGS["abstract"] | (ANNOTATION if found.kind[0] == "@" else 0)
        if found.kind == "enum":
            flags |= ENUM | FLAGS["final"]
        if found.kind != "class" and "$" in name:
            flags |= FLAGS["static"]
        return flags

    def class_file(self, name: str) -> bytes:
        """Return the bytes of a class."""
        found = self.classes[name]
        scope = self._scope(name)
        parent, interfaces = self._parents(found)
        flags = self.class_flags(name)
        # a class is public or package-private for the machine; `protected` is in InnerClasses only
        own = (flags & ~0xF) | (1 if flags & 0x5 else 0)
        file = ClassFile(
            own | (0 if flags & INTERFACE else SUPER),
            name,
            None if name == "java/lang/Object" else self.descriptor(parent, {})[1:-1],
            [self.descriptor(interface, {})[1:-1] for interface in interfaces],
        )
        parents = "".join(self.signature(kind, scope) for kind in (parent, *interfaces))
        if "<" in (signature := self._bounds(found.variables, scope) + parents):
            file.signature(signature)
        for member in found.members:
            if member.kind in {"field", "enum_constant"}:
                self._field(file, member, scope)
            else:
                self._method(file, found, member, scope)
        for nested in self._nested.get(name, ()):
            file.class_name(nested)
        return file.to_bytes(self._nested_flags)

    def _nested_flags(self, name: str) -> int | None:
        return self.class_flags(name) if name in self.classes else None

    def _field(self, file: ClassFile, member: Member, scope: Scope) -> None:
        flags = sum(FLAGS.get(word, 0) for word in member.modifiers)
        if member.kind == "enum_constant":
            flags |= ENUM | FLAGS["public"] | FLAGS["static"] | FLAGS["final"]
        descriptor = self.descriptor(member.type, scope)
        attributes = self._annotations(file, member.annotations)
        if (
            member.value is not None
            and (constant := _constant(descriptor, member.value)) is not None
        ):
            attributes.append(
                file.attribute("ConstantValue", struct.pack(">H", file.constant(constant)))
            )
        attributes += self._signature(file, self.signature(member.type, scope))
        file.field(flags, member.name, descriptor, attributes)

    def _method(self, file: ClassFile, found: ApiClass, member: Member, scope: Scope) -> None:
        scope = {**scope, **{variable.name: variable for variable in member.variables}}
        flags = sum(FLAGS.get(word, 0) for word in member.modifiers)
        if member.varargs:
            flags |= VARARGS
        if "interface" in found.kind and not member.modifiers & {"static", "default"}:
            flags |= FLAGS["abstract"]
        kinds = [kind for kind, _ in member.parameters]
        parameters = [self.descriptor(kind, scope) for kind in kinds]
        name = "<init>" if member.kind == "ctor" else member.name
        descriptor = f"({''.join(parameters)}){self.descriptor(member.type, scope)}"
        attributes = self._annotations(file, member.annotations)
        if not flags & FLAGS["abstract"]:
            slots = 1 + sum(2 if kind in "JD" else 1 for kind in parameters)
            attributes.append(
                file.attribute("Code", struct.pack(">HHI", 1, slots, len(CODE)) + CODE + bytes(4))
            )
        if member.throws:
            names = [file.class_name(self.descriptor(kind, scope)[1:-1]) for kind in member.throws]
            attributes.append(
                file.attribute("Exceptions", struct.pack(f">{1 + len(names)}H", len(names), *names))
            )
        if any(marks & NULLABILITY.keys() for _, marks in member.parameters):
            marks = [file.annotations(_nullability(marks)) for _, marks in member.parameters]
            content = bytes([len(marks)]) + b"".join(marks)
            attributes.append(file.attribute("RuntimeInvisibleParameterAnnotations", content))
        generic = "".join(self.signature(kind, scope) for kind in kinds)
        result = self.signature(member.type, scope)
        attributes += self._signature(
            file, f"{self._bounds(member.variables, scope)}({generic}){result}"
        )
        file.method(flags, name, descriptor, attributes)

    def _signature(self, file: ClassFile, signature: str) -> list[bytes]:
        if not re.search(r"[<]|(?:^|[\[;()BCDFIJSZ+*-])T\w+;", signature):
            return []
        return [file.attribute("Signature", struct.pack(">H", file.text(signature)))]

    def _annotations(self, file: ClassFile, names: frozenset[str]) -> list[bytes]:
        attributes: list[bytes] = []
        if "Deprecated" in names:
            content = file.annotations(["Ljava/lang/Deprecated;"])
            attributes.append(file.attribute("RuntimeVisibleAnnotations", content))
        if found := _nullability(names):
            attributes.append(
                file.attribute("RuntimeInvisibleAnnotations", file.annotations(found))
            )
        return attributes

    def members(self) -> dict[str, list[list[str]]]:
        """Return `[parents, members]` of each class. A member is its name and descriptor."""
        listed: dict[str, list[list[str]]] = {}
        for name, found in self.classes.items():
            scope = self._scope(name)
            parent, interfaces = self._parents(found)
            parents = [self.descriptor(kind, scope)[1:-1] for kind in (parent, *interfaces)]
            members = [self._key(member, scope) for member in found.members]
            if found.kind == "enum":
                members += [f"values()[L{name};", f"valueOf(Ljava/lang/String;)L{name};"]
            listed[name] = [[] if name == "java/lang/Object" else parents, sorted(set(members))]
        return listed

    def _key(self, member: Member, scope: Scope) -> str:
        if member.kind in {"field", "enum_constant"}:
            return f"{member.name}:{self.descriptor(member.type, scope)}"
        scope = {**scope, **{variable.name: variable for variable in member.variables}}
        parameters = "".join(self.descriptor(kind, scope) for kind, _ in member.parameters)
        name = "<init>" if member.kind == "ctor" else member.name
        return f"{name}({parameters}){self.descriptor(member.type, scope)}"


def _nullability(names: frozenset[str]) -> list[str]:
    return [NULLABILITY[name] for name in sorted(names & NULLABILITY.keys())]


def _constant(descriptor: str, text: str) -> Constant | None:
    """Return the value of a constant, or None for an object that is no string."""
    if descriptor == "Ljava/lang/String;":
        return Constant(descriptor, _unescape(text[1:-1])) if text.startswith('"') else None
    if descriptor == "Z":
        return Constant("I", int(text == "true"))
    if descriptor in {"F", "D"}:
        ratio = re.fullmatch(r"\((-?[01])\.0f?/0\.0f?\)", text)
        special = {"0": "nan", "1": "inf", "-1": "-inf"}
        return Constant(descriptor, float(special[ratio[1]] if ratio else text.rstrip("fF")))
    if descriptor == "J":
        return Constant(descriptor, int(text.rstrip("lL"), 0))
    if descriptor in {"I", "S", "B", "C"}:
        return Constant("I", int(text, 0))
    return None


def _unescape(text: str) -> str:
    """Resolve the escapes of a Java string. Unicode escapes are UTF-16 code units."""
    special = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}

    def replace(match: re.Match[str]) -> str:
        escape = match[1]
        return chr(int(escape[1:], 16)) if len(escape) == 5 else special.get(escape, escape)

    return re.sub(r"\\(u[0-9a-fA-F]{4}|.)", replace, text)
