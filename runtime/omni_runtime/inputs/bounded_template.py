"""Jinja for templates of strangers: a subset of the language, with bounds of time and memory.

Jinja's sandbox keeps a template from reaching Python. It does not keep `"x" * 10**10`, a filter
that pads, or nested loops from taking all memory or time. So only what chat templates need is
allowed, and evaluation is metered: a loop pays for the nodes of its body, a string for its length.
"""

import json
from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import pairwise
from typing import Any, NoReturn, cast

import jinja2
from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

MAX_SOURCE = 2**16
"""Characters of a template. Those of checkpoints have a few thousand."""

_FUEL = 4_000_000
"""Nodes evaluated in loops and characters made: about two seconds."""

_MAX_VALUE = 2**14
"""Characters or items of a value that is made; texts of users are not in the template's values."""

_NODES = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.For, nodes.If, nodes.Name, nodes.NSRef,
    nodes.Assign, nodes.Getitem, nodes.Getattr, nodes.Slice, nodes.Const, nodes.Compare,
    nodes.Operand, nodes.Or, nodes.And, nodes.Not, nodes.Test, nodes.Add, nodes.Sub, nodes.Mod,
    nodes.Neg, nodes.Concat, nodes.CondExpr, nodes.Call, nodes.Keyword, nodes.Filter, nodes.List,
    nodes.Tuple, nodes.Dict, nodes.Pair, nodes.Break, nodes.Continue,
)  # fmt: skip
_FUNCTIONS = {"namespace", "raise_exception", "strftime_now"}
_METHODS = {"startswith", "endswith", "strip", "lstrip", "rstrip", "upper", "lower", "get"}
_FILTERS = {"trim", "length", "upper", "lower", "first", "last", "default", "tojson"}


class TemplateBoundError(jinja2.TemplateError):
    """A template that uses more than it may."""


class BoundedTemplate:
    """A compiled template."""

    def __init__(self, source: str) -> None:
        """Compile. Raises jinja2.TemplateError, also for what is outside the subset."""
        if len(source) > MAX_SOURCE:
            raise TemplateBoundError(f"it has more than {MAX_SOURCE:,} characters")
        self._environment = _Environment()
        try:
            tree = self._environment.parse(source)
            _check(tree)
            tree = _Meter().visit(tree)
            self._template = self._environment.from_string(tree)
        except jinja2.TemplateError:
            raise
        except Exception as error:  # the compiler's own failures, such as RecursionError
            raise TemplateBoundError(f"it cannot be compiled: {type(error).__name__}") from error

    def render(self, **variables: object) -> str:
        """Render. Raises jinja2.TemplateError for every failure."""
        self._environment.fuel = _FUEL
        try:
            return "".join(self._pieces(variables))
        except jinja2.TemplateError:
            raise
        except Exception as error:  # whatever an expression of a stranger may raise
            raise jinja2.TemplateRuntimeError(f"{type(error).__name__}: {error}") from error

    def _pieces(self, variables: dict[str, object]) -> Iterator[str]:
        for piece in self._template.generate(variables):
            self._environment.pay(len(piece))
            yield piece


class _Environment(ImmutableSandboxedEnvironment):
    """The environment of transformers' chat templates, with a meter."""

    intercepted_binops = frozenset({"+", "-", "%"})
    intercepted_unops = frozenset({"-"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        self.fuel = 0
        self.filters = {name: self._metered(self.filters[name]) for name in _FILTERS - {"tojson"}}
        self.filters |= {"tojson": self._metered(_tojson), "loop": self._loop, "text": self._text}
        cast(dict[str, object], self.globals).update(
            raise_exception=_refuse, strftime_now=_strftime_now
        )

    def pay(self, amount: int) -> None:
        """Take fuel. Raises TemplateBoundError when there is none left."""
        self.fuel -= amount
        if self.fuel < 0:
            raise TemplateBoundError("it takes too long")

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Compute a sum, difference or remainder of numbers, or join strings or lists."""
        if operator != "+" and not (isinstance(left, int) and isinstance(right, int)):
            raise TemplateBoundError(f"{operator} is for whole numbers")
        return self._made(super().call_binop(context, operator, left, right))

    def call(self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a function or a method of the lists above."""
        return self._made(super().call(__context, __obj, *args, **kwargs))

    def _made(self, value: Any) -> Any:
        if isinstance(value, str | list | tuple):
            self.pay(len(cast(str, value)))
            if len(cast(str, value)) > _MAX_VALUE:
                raise TemplateBoundError("it makes a text that is too long")
        elif isinstance(value, int) and abs(value) > 2**53:
            raise TemplateBoundError("it makes a number that is too large")
        return value

    def _metered(self, function: Any) -> Any:
        def metered(*args: Any, **kwargs: Any) -> Any:
            return self._made(function(*args, **kwargs))

        for name in ("jinja_pass_arg",):  # which of them wants the environment first
            if hasattr(function, name):
                setattr(metered, name, getattr(function, name))
        return metered

    def _loop(self, items: Iterable[Any], cost: int) -> Iterator[Any]:
        for item in list(items):
            self.pay(cost)
            yield item

    def _text(self, parts: list[Any]) -> str:
        return str(self._made("".join(str(self._made(part)) for part in parts)))


class _Meter(NodeTransformer):
    """Makes loops pay for their bodies, and `~` for its result."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802 - Jinja's name
        cost = 1 + sum(1 for _ in node.find_all(nodes.Node))
        self.generic_visit(node)
        node.iter = nodes.Filter(node.iter, "loop", [nodes.Const(cost)], [], None, None)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802 - Jinja's name
        self.generic_visit(node)
        return nodes.Filter(nodes.List(node.nodes), "text", [], [], None, None)


def _items(node: nodes.Node) -> list[nodes.Expr]:
    """Return the items of a literal. Targets of loops are none."""
    if isinstance(node, nodes.List) or (isinstance(node, nodes.Tuple) and node.ctx == "load"):
        return node.items
    return [node.key, node.value] if isinstance(node, nodes.Pair) else []


def _check(tree: nodes.Template) -> None:
    """Raise TemplateBoundError for what is outside the subset."""
    for node in tree.find_all(nodes.Node):
        kind = type(node).__name__
        if not isinstance(node, _NODES):
            raise TemplateBoundError(f"it uses {kind}")
        if isinstance(node, nodes.Filter) and node.name not in _FILTERS:
            raise TemplateBoundError(f"it uses the filter {node.name}")
        if isinstance(node, nodes.For) and node.recursive:
            raise TemplateBoundError("it uses recursion")
        if any(not isinstance(item, nodes.Const) for item in _items(node)):
            raise TemplateBoundError("it makes lists of values")
        if isinstance(node, nodes.Call):
            called = node.node
            known = isinstance(called, nodes.Name) and called.name in _FUNCTIONS
            known |= isinstance(called, nodes.Getattr) and called.attr in _METHODS
            if not known or node.dyn_args is not None or node.dyn_kwargs is not None:
                raise TemplateBoundError("it calls an unknown function")


def _refuse(message: object) -> NoReturn:
    raise jinja2.TemplateError(str(message))


def _tojson(value: object, **_: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _strftime_now(form: str) -> str:
    if any(a == "%" and not b.isalpha() for a, b in pairwise(form)):
        raise TemplateBoundError("it formats a date with a width")  # which may be 10**9
    return datetime.now().strftime(form)
