"""Read `api/current.txt` of the Android framework: every public class with its members.

The file lists one class or member a line, in Java's syntax without bodies:

    public class ArrayMap<K, V> implements java.util.Map<K,V> {
      method @Nullable public V get(Object);
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

TOKEN = re.compile(
    r"""\s*(?:
        (?P<comment>//.*)
      | (?P<text>"(?:[^"\\]|\\.)*")
      | (?P<word>@?[\w$]+(?:\.[\w$]+)*)
      | (?P<sign>\.\.\.|\S)
    )""",
    re.VERBOSE,
)
MODIFIERS = frozenset(
    [
        "public",
        "protected",
        "private",
        "static",
        "final",
        "abstract",
        "default",
        "synchronized",
        "native",
        "transient",
        "volatile",
        "strictfp",
        "sealed",
    ]
)
KINDS = frozenset({"class", "interface", "enum", "@interface"})


@dataclass(frozen=True)
class Type:
    """A type as it is written. `name` is a class, a primitive type, a type variable or `?`."""

    name: str
    arguments: tuple["Type", ...] = ()
    dimensions: int = 0
    bound: tuple[str, "Type"] | None = None
    """Of a wildcard: `extends` or `super`, and the type."""


@dataclass(frozen=True)
class Variable:
    """A type variable. Without bounds, it is bounded by Object."""

    name: str
    bounds: tuple[Type, ...]


@dataclass(frozen=True)
class Member:
    """A field, a constructor or a method. `kind` is the first word of its line."""

    kind: str
    name: str
    modifiers: frozenset[str]
    annotations: frozenset[str]
    type: Type
    variables: tuple[Variable, ...] = ()
    parameters: tuple[tuple[Type, frozenset[str]], ...] = ()
    varargs: bool = False
    throws: tuple[Type, ...] = ()
    value: str | None = None
    """Of a constant, as it is written."""


@dataclass
class ApiClass:
    """A class, an interface, an enum or an annotation. `name` has dots between nested classes."""

    package: str
    name: str
    kind: str
    modifiers: frozenset[str]
    annotations: frozenset[str]
    variables: tuple[Variable, ...]
    extends: tuple[Type, ...]
    implements: tuple[Type, ...]
    members: list[Member] = field(default_factory=list[Member])


def read_api(text: str) -> list[ApiClass]:
    """Return the classes of `current.txt`. Raises ValueError with a line that cannot be parsed."""
    classes: list[ApiClass] = []
    package = ""
    for line in text.splitlines():
        words = _Line(line)
        if words.next is None or words.next == "}":
            continue
        try:
            if words.next == "package":
                package = line.split("package ")[1].removesuffix("{").strip().rpartition(" ")[2]
            elif words.next in {"field", "enum_constant", "ctor", "method"}:
                classes[-1].members.append(words.member())
            else:
                classes.append(words.api_class(package))
        except (AssertionError, IndexError) as error:
            raise ValueError(f"current.txt: {line.strip()}") from error
    return classes


class _Line:
    """A parser of one line."""

    def __init__(self, line: str) -> None:
        self._line = line
        self._tokens = self._split(line)
        self.next: str | None = None
        self.end = 0
        """Where the next token ends in the line."""
        self._advance()

    def _split(self, line: str) -> Iterator[str]:
        for match in TOKEN.finditer(line):
            if match["comment"] is None and (token := match[0].strip()):
                self.end = match.end()
                yield token

    def _advance(self) -> str:
        token = self.next
        self.next = next(self._tokens, None)
        return token or ""

    def _accept(self, token: str) -> bool:
        if self.next == token:
            self._advance()
            return True
        return False

    def _expect(self, token: str) -> None:
        assert self._accept(token), f"{token} expected, not {self.next}"

    def _modifiers(self) -> tuple[frozenset[str], frozenset[str]]:
        """Modifiers and annotations, in any order. Arguments of annotations are skipped."""
        modifiers: set[str] = set()
        annotations: set[str] = set()
        while self.next:
            if self.next in MODIFIERS:
                modifiers.add(self._advance())
            elif self.next.startswith("@") and self.next not in KINDS:
                annotations.add(self._advance()[1:])
                if self.next == "(":
                    self._skip_parentheses()
            else:
                break
        return frozenset(modifiers), frozenset(annotations)

    def _skip_parentheses(self) -> None:
        depth = 0
        while True:
            word = self._advance()
            depth += (word == "(") - (word == ")")
            if depth == 0:
                return

    def _type(self) -> Type:
        self._modifiers()
        name = self._advance()
        assert re.fullmatch(r"[\w$.]+|\?", name), name
        bound = None
        if name == "?" and self.next in {"extends", "super"}:
            bound = (self._advance(), self._type())
        arguments: list[Type] = []
        if self._accept("<"):
            arguments.append(self._type())
            while self._accept(","):
                arguments.append(self._type())
            self._expect(">")
        dimensions = 0
        while self._accept("["):
            self._expect("]")
            dimensions += 1
        return Type(name, tuple(arguments), dimensions, bound)

    def _variables(self) -> tuple[Variable, ...]:
        found: list[Variable] = []
        if self._accept("<"):
            while not self._accept(">"):
                name = self._advance()
                bounds: list[Type] = []
                if self._accept("extends"):
                    bounds.append(self._type())
                    while self._accept("&"):
                        bounds.append(self._type())
                found.append(Variable(name, tuple(bounds)))
                self._accept(",")
        return tuple(found)

    def _types(self, *ends: str) -> tuple[Type, ...]:
        found: list[Type] = []
        while self.next not in ends:
            found.append(self._type())
            self._accept(",")
        return tuple(found)

    def api_class(self, package: str) -> ApiClass:
        modifiers, annotations = self._modifiers()
        kind, name = self._advance(), self._advance()
        assert kind in KINDS
        variables = self._variables()
        extends = self._types("implements", "{") if self._accept("extends") else ()
        implements = self._types("{") if self._accept("implements") else ()
        self._expect("{")
        return ApiClass(package, name, kind, modifiers, annotations, variables, extends, implements)

    def member(self) -> Member:
        kind = self._advance()
        modifiers, annotations = self._modifiers()
        variables = self._variables()
        result = Type("void") if kind == "ctor" else self._type()
        name = self._advance()
        if kind in {"field", "enum_constant"}:
            # the text of a constant may contain what looks like a comment
            value = re.match(r'("(?:[^"\\]|\\.)*"|[^;]*);', self._line[self.end :].lstrip())
            constant = value[1] if self.next == "=" and value else None
            return Member(kind, name, modifiers, annotations, result, value=constant)
        self._expect("(")
        parameters: list[tuple[Type, frozenset[str]]] = []
        varargs = False
        while not self._accept(")"):
            _, marks = self._modifiers()
            parameter = self._type()
            if self._accept("..."):
                varargs = True
                parameter = Type(
                    parameter.name, parameter.arguments, parameter.dimensions + 1, parameter.bound
                )
            if self.next not in {",", ")"}:
                self._advance()  # the name of the parameter
            self._accept(",")
            parameters.append((parameter, marks))
        throws = self._types(";") if self._accept("throws") else ()
        return Member(
            kind,
            name,
            modifiers,
            annotations,
            result,
            variables,
            tuple(parameters),
            varargs,
            throws,
        )
