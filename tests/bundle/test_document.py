"""docs/bundle.md names every field, graph, tensor, operator and golden vector."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args, get_type_hints

import msgspec
import onnx

from conftest import Twin
from omni_runtime.bundle.contracts import DECODERS, DOMAIN, OPSET
from omni_runtime.bundle.manifest import FORMAT, Manifest
from omni_runtime.bundle.tables import STORED
from omni_runtime.engine.chunk_scheduler import CHUNK_BLOCKS
from omni_runtime.golden import suite, vectors

DOCUMENT = (Path(__file__).parents[2] / "docs" / "bundle.md").read_text("utf-8")
NAMES = set(re.findall(r"`([^`\s]+)`", DOCUMENT))


def records(kind: object) -> Iterator[type[msgspec.Struct]]:
    """Yield a record and all records in its fields."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        yield kind
        for field in get_type_hints(kind).values():
            yield from records(field)
    for part in get_args(kind):
        yield from records(part)


def test_every_field_of_the_manifest() -> None:
    found = {
        field.name for record in set(records(Manifest)) for field in msgspec.structs.fields(record)
    }
    assert len(found) > 100
    assert not found - NAMES
    assert f"The bundle, format {FORMAT}\n" in DOCUMENT


def test_every_tensor(default_twin: Twin) -> None:
    for name, graph in default_twin.model.bundle.manifest.graphs.items():
        assert name in NAMES
        for spec in (*graph.contract.inputs, *graph.contract.outputs):
            word = re.sub(r"_\d+$", "_L", spec.name) if name in DECODERS else spec.name
            assert word in NAMES, (name, word)


def test_every_operator(export_default: Callable[[str], Path]) -> None:
    """Custom operators of float32 and quantized graphs."""
    bundles = [export_default("fp32"), export_default("int4")]
    found: set[str] = {"IntegerMatMul"}
    for path in (file for bundle in bundles for file in bundle.rglob("*.onnx")):
        model = onnx.load(path, load_external_data=False)
        assert {one.domain: one.version for one in model.opset_import} == {
            "": OPSET,
            "com.microsoft": 1,
            DOMAIN: 1,
        }
        nodes = [*model.graph.node, *(node for one in model.functions for node in one.node)]
        found |= {node.op_type for node in nodes if node.domain}
        found |= {one.name for one in model.functions}
    assert len(found) == 11 and not found - NAMES


def test_tables_encodings_presets_and_cases(default_twin: Twin) -> None:
    bundle = default_twin.model.bundle
    assert not {*bundle.manifest.tables, *STORED, *bundle.manifest.capabilities} - NAMES
    speech = bundle.config.speech
    assert speech is not None
    assert not {preset.solver for preset in speech.presets.values()} - NAMES
    assert not {*suite.CASE_BUILDERS} - NAMES
    assert f"{vectors.INDEX}`: `format` ({vectors.FORMAT})" in DOCUMENT
    sizes = ", ".join(map(str, (*CHUNK_BLOCKS, CHUNK_BLOCKS[-1])))
    assert f"{sizes}, ... blocks" in DOCUMENT


def test_every_file(default_twin: Twin) -> None:
    patterns = [
        re.compile(re.sub("NAME|VOICE", r"\\w+", re.escape(name)).replace(r"\*", ".+"))
        for name in re.findall(r"`([^`\s]+)`", DOCUMENT.partition("## 2.")[0])
    ]
    names = [*default_twin.model.bundle.manifest.files, "manifest.json", "manifest.sha256"]
    names = [name.replace("int8_cache.onnx", "onnx") for name in names]
    for name in names:
        last = name.rpartition("/")[2]
        assert any(one.fullmatch(name) or one.fullmatch(last) for one in patterns), name
