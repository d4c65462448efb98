"""A dry run: what an export reads, drops, writes and needs, from config.json and names alone.

The names are those of the index, or of the headers of a local folder; no weight is read, except by
a short trial of the quantizer on random numbers, which gives the time. Sizes and memory are sums
over the shapes that config.json implies, by the rules of the recipe.
"""

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from omni_export import assets, equalize, kinds, packed, weight_files
from omni_export.adapter import Adapter
from omni_export.checkpoint import SPEECH, canonical
from omni_export.graphs.layers import Matrix, Weight
from omni_export.hub import LocalCheckpoint
from omni_export.model_config import decoder_config
from omni_export.networks import LM_HEAD, TALKER_TABLE, networks
from omni_export.plan import DROPPED, SILENT
from omni_export.second_moments import MAX_TOKENS
from omni_export.source import SourceConfig, read_config, read_json
from omni_export.speech import (
    ROTARY,
    SPEECH_FIX,
    THINKER_TABLE,
    VOICES,
    InputProjection,
    TimeModulation,
    code_table_shape,
    voice_encoder_shapes,
)
from omni_export.weight_files import TensorHandle, some
from omni_quantize.nbits import BlockMatrix
from omni_quantize.recipe import Recipe, Rule, layers_in
from omni_runtime.cli.common import format_size
from omni_runtime.engine.kv_cache import KVCache
from omni_runtime.engine.session import available_cores
from omni_runtime.errors import OmniError
from omni_runtime.memory import ENCODED, ENCODERS, MAPPED, OVERHEAD, VOICE

CONTEXT = 4096
"""Tokens of the conversation whose memory is stated."""

TRIAL = (2048, 1024)
"""Shape of the matrix that the trial quantizes."""

ENCODED_BYTES = {"float32": 4, "bfloat16": 2, "int8": 1}

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Size:
    """Estimated bytes of each graph and of all tables; number of weights of all graphs."""

    graphs: dict[str, float]
    tables: float
    weights: dict[str, int]

    @property
    def bundle(self) -> float:
        """Bytes of the bundle."""
        return sum(self.graphs.values()) + self.tables


def report(local: LocalCheckpoint, recipe: Recipe, *, calibrated: bool) -> str:
    """Return the report, one line per fact. Raises OmniError for what the export would refuse."""
    source = read_config(local.folder, speech_from=local.speech_from, mute=local.mute)
    raw = read_json(local.folder / "config.json")
    layout = packed.layout_of(raw, local.folder)
    names = _names(local)
    tied = names is not None and LM_HEAD not in names
    need = needs(source, recipe, tied=tied)
    size, wanted = need.size, need.shapes
    dtype = raw.get("dtype") or raw.get("torch_dtype")
    seconds = _seconds(recipe, size, calibrated=calibrated)
    lines = [
        ("kind", ", ".join(filter(None, [_kind(raw, layout), dtype]))),
        ("model", f"{local.origin}, revision {local.revision}"),
        ("licence", assets.licence_of(local.folder) or "no licence file; that of its source"),
        ("size", _stated(local.folder, names)),
        ("bundle", f"about {format_size(size.bundle)} with {recipe.name}"),
        ("memory", f"about {format_size(_memory(source, size))} to talk, for {CONTEXT} tokens"),
        ("time", f"about {max(seconds / 60, 1):.0f} min on this machine, after the download"),
        *_dropped(source, names, set(wanted)),
    ]
    if local.adapter is not None:
        Adapter(local.adapter).apply({name: _known(name, shape) for name, shape in wanted.items()})
        lines.append(("adapter", f"LoRA, {local.adapter}, merged while reading"))
    if source.speech is None:
        lines.append(("speech", "none: the bundle will answer in text"))
    elif not (local.speech_folder / VOICES).is_file() and _is_local(local):
        raise OmniError(f"{local.speech_folder} has no {VOICES} (the voices)", fix=SPEECH_FIX)
    if names is not None and (missing := set(wanted) - set(names) - {ROTARY}):
        only = all(name.startswith(SPEECH) for name in missing)
        raise OmniError(
            f"the checkpoint lacks {len(missing)} tensors: {some(missing)}",
            fix=SPEECH_FIX if only else "save the complete model",
        )
    return "\n".join(f"{name:<9} {text}" for name, text in lines)


@dataclass(frozen=True)
class Need:
    """The tensors that an export reads, with their shapes, and the size of what it writes."""

    shapes: Shapes
    size: Size


def needs(source: SourceConfig, recipe: Recipe, *, tied: bool = False) -> Need:
    """Return what an export of this configuration reads and writes by a recipe.

    `tied`: the embedding table is also the output matrix.
    """
    graphs: dict[str, float] = {}
    weights: dict[str, int] = {}
    shapes: Shapes = {}
    for network in networks(source, () if tied else (LM_HEAD,)):
        graph = network.name
        graphs[graph] = weights[graph] = 0
        parameters = dict(network.module.named_parameters())
        layers = layers_in(parameters)
        for path, weight in parameters.items():
            if not isinstance(weight, Weight):
                continue
            count = math.prod(weight.built_shape)
            weights[graph] += count
            graphs[graph] += count * _bytes(_rule(recipe, graph, path, weight, layers))
            names = (network.prefix + name for name in weight.sources(path))
            found = zip(names, weight.source_shapes, strict=True)
            shapes |= {network.aliases.get(name, name): shape for name, shape in found}
    tables = {"thinker_embedding": (source.text.vocab_size, source.text.hidden_size)}
    shapes[THINKER_TABLE] = tables["thinker_embedding"]
    if (speech := source.speech) is not None:
        tables["talker_embedding"] = (speech.talker.vocab_size, speech.talker_ids.embedding_size)
        tables["dit_code"] = (speech.dit.num_embeds + 1, speech.dit.hidden_size)
        shapes[TALKER_TABLE] = tables["talker_embedding"]
        shapes[ROTARY] = (speech.dit.head_dim // 2,)
        shapes |= InputProjection.shapes(speech.dit) | code_table_shape(speech.dit)
        shapes |= TimeModulation.shapes(speech.dit) | voice_encoder_shapes(speech)
    stored = sum(
        rows * columns * ENCODED_BYTES[recipe.tables[name].encoding]
        for name, (rows, columns) in tables.items()
    )
    return Need(shapes, Size(graphs, stored, weights))


def _rule(recipe: Recipe, graph: str, path: str, weight: Weight, layers: int) -> Rule | None:
    rule = recipe.rule(graph, path, layers)
    convolution = len(weight.built_shape) == 3
    fits = convolution if rule.method == "static" else isinstance(weight, Matrix)
    return rule if fits else None


def _bytes(rule: Rule | None) -> float:
    """Return bytes per weight."""
    if rule is None or rule.method == "none":
        return 4
    return rule.bits / 8 + 2 / rule.block if rule.method == "nbits" else 1


def _memory(source: SourceConfig, size: Size) -> float:
    """Estimate the memory of a spoken conversation, as `omni_runtime.memory` does for a bundle."""
    voice = [name for name in VOICE if name in size.graphs]
    speaking = sum(size.graphs[name] * (MAPPED if name == "talker" else ENCODED) for name in voice)
    beside = max(speaking, *(size.graphs[name] * ENCODED for name in ENCODERS))
    decoders = [source.text, *([source.speech.talker] if source.speech else [])]
    context = sum(KVCache.bytes_for(decoder_config(decoder), CONTEXT) for decoder in decoders)
    return OVERHEAD + size.graphs["thinker"] * MAPPED + beside + context


def _seconds(recipe: Recipe, size: Size, *, calibrated: bool) -> float:
    """Estimate the time of an export from a trial on this machine."""
    inner, outer = TRIAL
    values = np.random.default_rng(0).standard_normal(TRIAL, np.float32)
    rule = recipe.graphs["thinker"][-1]
    started = perf_counter()
    if rule.method == "nbits":
        BlockMatrix("trial", inner, outer, rule, lambda a, b: values[:, a:b]).quantize(values)
    else:
        np.clip(np.rint(values * np.float32(20)), -128, 127).astype(np.int8)
    seconds = (perf_counter() - started) / values.size * sum(size.weights.values())
    seconds /= available_cores()
    if calibrated and rule.method == "nbits" and rule.bits == 4:
        started = perf_counter()
        np.matmul(values.T[:512], values)
        rate = 512 * values.size / (perf_counter() - started)  # products a second
        products = size.weights["thinker"] * (MAX_TOKENS + equalize.TOKENS)
        seconds += 2 * products / rate  # the moments of the inputs take as long again
    return seconds


def _names(local: LocalCheckpoint) -> Collection[str] | None:
    """Return the names of all tensors as `Checkpoint` has them; None if only headers have them."""
    found = _of(local.folder)
    if found is None or local.speech_from is None:
        return found
    speech = _of(local.speech_from)
    own = {name for name in found if not name.startswith(SPEECH)}
    return own | {name for name in speech or () if name.startswith(SPEECH)}


def _of(folder: Path) -> Collection[str] | None:
    if (index := weight_files.index_of(folder)) is not None:
        return set(packed.weight_names(canonical(index[0]).values()).values())
    if any((folder / file).is_file() for file in weight_files.MODEL):
        return set(packed.weight_names(canonical(weight_files.handles(folder)).values()).values())
    return None


def _known(name: str, shape: tuple[int, ...]) -> TensorHandle:
    """Return a handle for a weight that is not there yet."""

    def get(_: slice | None) -> torch.Tensor:
        raise AssertionError(f"a check does not read {name}")

    return TensorHandle(name, shape, get)


def _is_local(local: LocalCheckpoint) -> bool:
    """Whether the folders have the weights, not only the small files of a hub."""
    index = weight_files.index_of(local.speech_folder)
    files = index[0].values() if index else weight_files.MODEL
    return any((local.speech_folder / file).is_file() for file in files)


def _stated(folder: Path, names: Collection[str] | None) -> str:
    index = weight_files.index_of(folder)
    files = sorted(set(index[0].values())) if index else list(weight_files.MODEL)
    here = [folder / file for file in files if (folder / file).is_file()]
    total = index[1] if index and index[1] else sum(path.stat().st_size for path in here)
    if not total:
        return "not stated before the download: the checkpoint has no index"
    count = len(files) if index else len(here)
    return f"{format_size(total)} in {count} file{'s' * (count > 1)}" + (
        f", {len(names)} tensors" if names else ""
    )


def _dropped(
    source: SourceConfig, names: Collection[str] | None, wanted: Collection[str]
) -> Iterator[tuple[str, str]]:
    reasons: Mapping[str, str] = DROPPED
    if source.speech is None:
        reasons = {**DROPPED, **dict.fromkeys(SPEECH, SILENT)}
    rest = set(names or ()) - set(wanted)
    for prefix, reason in reasons.items():
        if found := {name for name in rest if name.startswith(prefix)}:
            yield "dropped", f"{len(found)} of {prefix}*: {reason}"
            rest -= found
    if rest:
        raise OmniError(
            f"the checkpoint has tensors that no graph uses: {some(rest)}",
            fix="use a checkpoint of the published architecture",
        )


def _kind(raw: dict[str, Any], layout: packed.Layout | None) -> str:
    if layout is None:
        return kinds.name_of(raw)
    model = kinds.name_of({"model_type": raw.get("model_type")})
    return f"{model}, {kinds.QUANTIZED[layout.partition('_')[0]]} of 4 bits, kept exactly"
