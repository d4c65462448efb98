"""Write the decoder graphs that use an int8 KV cache."""

from pathlib import Path

import msgspec
import onnx_ir as ir

from omni_export.artifacts import file_entry
from omni_export.own_replies import AbsMax
from omni_quantize import kv_cache
from omni_runtime.bundle.manifest import Manifest

FILE = "model.int8_cache.onnx"


def add(bundle: Path, manifest: Manifest, absmax: AbsMax) -> Manifest:
    """Write the graphs of a bundle that has its manifest. Return the new manifest."""
    graphs, files = dict(manifest.graphs), dict(manifest.files)
    for name, layers in absmax.items():
        path = (bundle / graphs[name].file).with_name(FILE)
        model = ir.load(bundle / graphs[name].file)
        kv_cache.rewrite(model, layers)
        ir.save(model, path)
        file = path.relative_to(bundle).as_posix()
        graphs[name] = msgspec.structs.replace(graphs[name], int8_cache=file)
        files[file] = file_entry(path)
    return msgspec.structs.replace(manifest, graphs=graphs, files=dict(sorted(files.items())))
