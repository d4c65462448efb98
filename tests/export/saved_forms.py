"""The forms in which programs save a checkpoint, made from a published one.

Those of transformers 4.57 and PEFT are made by them. Those of transformers 5.24 are rewritten here:
`tests/data/transformers5` has the configurations that it wrote for the same model.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from omni_runtime.model import Model

WRITTEN_BY_5 = Path(__file__).parents[1] / "data" / "transformers5"
INV_FREQ = "token2wav.code2wav_dit_model.rotary_embed.inv_freq"
WEIGHTS = ("model-*.safetensors", "model.safetensors.index.json")


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for shard in sorted(folder.glob("model*.safetensors")):
        found.update(load_file(shard))
    return found


def rewritten(
    source: Path,
    folder: Path,
    change: Callable[[dict[str, torch.Tensor]], Mapping[str, torch.Tensor]] = dict,
) -> Path:
    """Copy a checkpoint, with its tensors changed, to one file."""
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns(*WEIGHTS))
    save_file(dict(change(tensors_of(source))), folder / "model.safetensors")
    return folder


def renamed(source: Path, folder: Path, name: Callable[[str], str]) -> Path:
    return rewritten(source, folder, lambda tensors: {name(k): v for k, v in tensors.items()})


def by_transformers_5(source: Path, folder: Path) -> Path:
    """What save_pretrained of the model and of the processor write, and the voices."""
    rewritten(source, folder, lambda tensors: {k: v for k, v in tensors.items() if k != INV_FREQ})
    for name in ("config.json", "processor_config.json"):
        shutil.copyfile(WRITTEN_BY_5 / name, folder / name)
    template = json.loads((folder / "chat_template.json").read_text())["chat_template"]
    (folder / "chat_template.jinja").write_text(template)
    for name in ("preprocessor_config.json", "chat_template.json", "vocab.json", "merges.txt"):
        (folder / name).unlink()
    return folder


def thinker_alone(source: Path, folder: Path, reference: Any) -> Path:
    """What LLaMA-Factory exports: the Thinker, tokenizer and processor; no speech, no voices."""
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns(*WEIGHTS, "spk_dict.pt"))
    reference.thinker.save_pretrained(folder)
    return folder


def pickled(source: Path, folder: Path) -> Path:
    """Shards of torch.save, one of which has a view into a larger tensor."""
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns(*WEIGHTS))
    tensors = tensors_of(source)
    names = sorted(tensors)
    viewed = torch.cat([torch.zeros(3, tensors[names[0]].numel()), tensors[names[0]].view(1, -1)])
    tensors[names[0]] = viewed[3].view(tensors[names[0]].shape)
    files = [f"pytorch_model-{n:05}-of-00002.bin" for n in (1, 2)]
    half = len(names) // 2
    for file, part in zip(files, (names[:half], names[half:]), strict=True):
        torch.save({name: tensors[name] for name in part}, folder / file)
    weight_map = {name: files[n >= half] for n, name in enumerate(names)}
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return folder


def sharded(source: Path, folder: Path, count: int) -> Path:
    """As transformers saves a large model: tensors spread over files by an index."""
    tensors = load_file(source / "model.safetensors")
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("model.safetensors"))
    weight_map: dict[str, str] = {}
    for n in range(count):
        file = f"model-{n + 1:05}-of-{count:05}.safetensors"
        names = sorted(tensors)[n::count]
        save_file({name: tensors[name] for name in names}, folder / file)
        weight_map |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def edit_json(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def logits(bundle: Path) -> np.ndarray:
    """Text logits of a bundle after three tokens."""
    thinker = Model(bundle).thinker
    cache = thinker.new_cache()
    for token in (5, 6, 7):
        found = thinker.step(cache, token, cache.length).logits
    return found
