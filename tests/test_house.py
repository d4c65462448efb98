"""House rules: sizes of files and functions, and the direction of imports."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = {
    "omni_runtime": ROOT / "runtime",
    "omni_quantize": ROOT / "quantize",
    "omni_export": ROOT / "export",
}
MAY_IMPORT = {
    "omni_runtime": set(),
    "omni_quantize": {"omni_runtime"},
    "omni_export": {"omni_runtime", "omni_quantize"},
}
HEAVY = {"torch", "transformers", "onnx", "onnx_ir", "onnxscript", "optimum", "safetensors"}

RUNTIME_LAYERS = [
    {"arrays", "errors", "rotary"},
    {
        "atomic_file",
        "atomic_folder",
        "checksums",
        "child_process",
        "machine",
        "processor_features",
        "wav",
    },
    {"bundle"},
    {"inputs"},
    {"engine"},
    {"memory"},
    {"model", "options", "events"},
    {"context", "timeline"},
    {"reply"},
    {"response"},
    {"conversation", "persistence", "system_prefix", "turns"},
    {"serving"},
    {"voice"},
    {"server"},
    {"bench", "golden"},
    {"cli"},
]
"""Each layer may import itself and earlier layers."""

MAX_FILE, MAX_FUNCTION = 500, 80
SOURCES = sorted(
    path
    for folder in ("runtime", "quantize", "export", "android_demo", "tests", "tiny")
    for path in (ROOT / folder).rglob("*.py")
    if "work" not in path.relative_to(ROOT).parts
)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_sizes(path: Path) -> None:
    text = path.read_text("utf-8")
    assert len(text.splitlines()) <= MAX_FILE
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            assert lines <= MAX_FUNCTION, f"{node.name} has {lines} lines"
    assert ast.get_docstring(tree), "a file says what it is"


def imports(path: Path, package: str) -> set[str]:
    """Return absolute names of all modules that a file imports, also inside functions."""
    found: set[str] = set()
    here = [package, *path.relative_to(PACKAGES[package] / package).parts]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(here[: -node.level]) if node.level else ""
            module = ".".join(part for part in (base, node.module or "") if part)
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_in_one_direction(package: str) -> None:
    for path in (PACKAGES[package] / package).rglob("*.py"):
        names = {name.split(".")[0] for name in imports(path, package)}
        strangers = names & (set(PACKAGES) - MAY_IMPORT[package] - {package})
        assert not strangers or name_of(path) == "runtime/omni_runtime/cli/main.py", name_of(path)
        if package == "omni_runtime":
            assert not names & HEAVY, f"{name_of(path)} imports {names & HEAVY}"


def test_runtime_layers_import_in_one_direction() -> None:
    rank = {name: level for level, names in enumerate(RUNTIME_LAYERS) for name in names}
    folder = PACKAGES["omni_runtime"] / "omni_runtime"
    for path in folder.rglob("*.py"):
        own = path.relative_to(folder).parts[0].removesuffix(".py")
        if own == "__init__":
            continue
        for name in imports(path, "omni_runtime"):
            parts = name.split(".")
            if parts[0] == "omni_runtime" and len(parts) > 1 and parts[1] in rank:
                assert rank[parts[1]] <= rank[own], f"{name_of(path)} imports {name}"


def modules() -> dict[str, Path]:
    """Every module of the three packages by its name."""
    found: dict[str, Path] = {}
    for package, root in PACKAGES.items():
        for path in (root / package).rglob("*.py"):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def by_name(path: Path) -> set[str]:
    """Literal names of modules that a file hands to `import_module`."""
    calls = (n for n in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(n, ast.Call))
    return {
        argument.value
        for call in calls
        if ast.unparse(call.func).endswith("import_module")
        for argument in call.args
        if isinstance(argument, ast.Constant)
    }


def test_no_modules_import_each_other() -> None:
    """Not along any number of steps, under TYPE_CHECKING, inside functions, or by name."""
    known = modules()
    edges = {
        name: ((imports(path, name.split(".")[0]) | by_name(path)) & known.keys()) - {name}
        for name, path in known.items()
    }
    assert "omni_export.cli" in edges["omni_runtime.cli.main"]
    del edges["omni_runtime"]  # the public names, each imported when it is first used
    while leaves := [name for name, targets in edges.items() if not targets & edges.keys()]:
        for name in leaves:
            del edges[name]
    assert not edges, "these import each other, or modules that do"


def test_runtime_imports_no_export_packages() -> None:
    """Importing the complete runtime loads none of them, even if they are installed."""
    import subprocess  # noqa: PLC0415

    code = (
        "import sys, importlib; "
        "[importlib.import_module('omni_runtime.' + m) for m in "
        "('conversation', 'cli.main', 'cli.run', 'cli.show', 'cli.repl', 'cli.doctor', "
        "'cli.bench', 'cli.golden')]; "
        f"found = {HEAVY!r} & set(sys.modules); "
        "sys.exit(str(found) if found else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT / "runtime",
        env={"PYTHONPATH": str(ROOT / "runtime"), "PATH": ""},
    )
    assert done.returncode == 0, done.stderr
