"""Error codes are documented, and the library names no flag of the command line."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from omni_runtime.cli.hints import HINTS, hint
from omni_runtime.errors import OmniError

ROOT = Path(__file__).parent.parent
RUNTIME = ROOT / "runtime" / "omni_runtime"
LIBRARY = sorted(
    path
    for path in RUNTIME.rglob("*.py")
    if path.relative_to(RUNTIME).parts[0] not in ("cli", "server")  # its codes are those of an API
)
SYSTEM_COMMANDS = {"xcode-select --install", "--no-deps", "--dest", "pip download --no-deps "}
FLAG = re.compile(
    r"--[a-z]|\bomni (run|talk|show|verify|doctor|bench|golden|download|export)\b|export/run\.py"
)
TABLE_ROW = re.compile(r"^\| (`[a-z_0-9`, ]+`) \|", re.MULTILINE)


def literals(path: Path) -> Iterator[str]:
    """Yield the string literals of a file, parts of f-strings included, but not its docstrings."""
    tree = ast.parse(path.read_text("utf-8"))
    nodes = list(ast.walk(tree))
    docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    for node in nodes:
        if isinstance(node, ast.Constant) and id(node) not in docstrings:
            yield from [node.value] if isinstance(node.value, str) else []


def codes(path: Path) -> Iterator[str]:
    """Yield the error codes that a file assigns to a class or passes to a call."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ClassDef):
            for line in node.body:
                if isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == "code":
                    yield ast.literal_eval(line.value)
        elif isinstance(node, ast.keyword) and node.arg == "code":
            yield from [str(node.value.value)] if isinstance(node.value, ast.Constant) else []


def test_the_library_names_no_command_and_no_flag() -> None:
    found = [
        f"{path.relative_to(RUNTIME)}: {text}"
        for path in LIBRARY
        for text in literals(path)
        if FLAG.search(text) and text not in SYSTEM_COMMANDS
    ]
    assert not found


def test_every_code_is_documented() -> None:
    raised = {code for path in LIBRARY for code in codes(path)}
    section = (ROOT / "docs" / "python.md").read_text("utf-8").split("## Errors")[1]
    documented = {
        code for row in TABLE_ROW.findall(section) for code in re.findall(r"`(\w+)`", row)
    }
    assert raised == documented - {"code"}
    assert HINTS.keys() <= raised


def calls(code: str) -> Iterator[ast.Call]:
    """Yield the calls of the library that make an error with this code."""
    for path in LIBRARY:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call):
                given = {word.arg: ast.unparse(word.value) for word in node.keywords}
                made = "AdmissionError" if code == "out_of_memory" else None
                if given.get("code") == repr(code) or ast.unparse(node.func) == made:
                    yield node


@pytest.mark.parametrize("code", [code for code in HINTS if code != "invalid_bundle"])
def test_the_details_of_an_error_fill_its_hint(code: str) -> None:
    found = list(calls(code))
    assert found
    for call in found:
        details = [word.value for word in call.keywords if word.arg == "details"]
        keys = [
            ast.literal_eval(key)
            for d in details
            if isinstance(d, ast.Dict)
            for key in d.keys
            if key
        ]
        assert keys == re.findall(r"{(\w+)}", HINTS[code])


def test_a_hint_replaces_the_fix() -> None:
    error = OmniError(
        "another type", fix="as saved", code="kv_cache_type", details={"dtype": "int8"}
    )
    assert hint(error) == "--kv-cache int8"
    assert hint(OmniError("a failure", fix="try again")) == "try again"
