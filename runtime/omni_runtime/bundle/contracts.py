"""Graph contracts: names, shapes and dtypes of the inputs and outputs of each graph.

The export builds graphs to these contracts, the manifest records them, and the runtime checks each
file against them when it is loaded. A shape has numbers and names. A named dimension may change
from call to call; equal names are equal sizes.
"""

from typing import Literal

from msgspec import Struct

from omni_runtime.bundle.config import (
    AudioConfig,
    DecoderConfig,
    DitConfig,
    ModelConfig,
    SpeechConfig,
    VisionConfig,
)

Dim = int | str

CacheType = Literal["float32", "int8"]
"""Dtype of the KV cache. int8 has one scale per channel, stored in the graph."""

DECODERS = ("thinker", "talker")
"""The graphs with a KV cache."""

OPSET = 23
"""ONNX opset. It has RMSNormalization and runs on ONNX Runtime 1.29, the oldest supported."""

DOMAIN = "pocket_omni"
"""Domain of custom operators. A graph defines them as functions of ONNX operators. The runtime's
kernel of the same name replaces the function, if there is one."""

MODULATION_ROWS = 6
"""Modulation rows of a DiT layer: 1+scale, shift and gate of attention, then of feed-forward."""

FINAL_MODULATION_ROWS = 2
"""Rows of the DiT's final modulation: 1+scale, shift."""


class TensorSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """One input or output. `dtype` is a numpy name: float32, int8, int32 or int64."""

    name: str
    dtype: str
    shape: tuple[Dim, ...]


class GraphContract(Struct, frozen=True, forbid_unknown_fields=True):
    """All inputs and outputs of one graph, in order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def _floats(name: str, *shape: Dim) -> TensorSpec:
    return TensorSpec(name, "float32", shape)


def _longs(name: str, *shape: Dim) -> TensorSpec:
    return TensorSpec(name, "int64", shape)


def _ints(name: str, *shape: Dim) -> TensorSpec:
    return TensorSpec(name, "int32", shape)


def audio_encoder(config: AudioConfig, hidden_size: int) -> GraphContract:
    """Return the contract of the audio encoder: independent blocks of mel frames to embeddings.

    `frames` is the number of valid mel frames of each block; the rest is zero padding. The first
    ((frames - 1) // 2 + 1) // 2 rows of a block in `embeddings` are valid.
    """
    return GraphContract(
        inputs=(
            _floats("mel", "blocks", config.n_mels, "mel_frames"),
            _ints("frames", "blocks"),
        ),
        outputs=(_floats("embeddings", "blocks", "tokens", hidden_size),),
    )


def vision_encoder(config: VisionConfig, hidden_size: int) -> GraphContract:
    """Return the contract of the vision encoder: patches in window order to embeddings.

    `window_slots` lists the patches of each attention window, padded to the widest window.
    `window_lengths` is the number of valid ones. `unpad` is the index of each patch in the padded
    layout. `grid_frames` is the number of temporal patches; full attention acts inside each.
    The embeddings are in window order, too.
    """
    pixels = 3 * config.temporal_patch_size * config.patch_size**2
    half = config.head_dim // 2
    return GraphContract(
        inputs=(
            _floats("patches", "patches", pixels),
            _floats("cos", "patches", half),
            _floats("sin", "patches", half),
            _longs("window_slots", "windows", "window_size"),
            _ints("window_lengths", "windows"),
            _longs("unpad", "patches"),
            _longs("grid_frames", 1),
        ),
        outputs=(_floats("embeddings", "tokens", hidden_size),),
    )


def _cache(config: DecoderConfig, state: str, dtype: CacheType) -> tuple[TensorSpec, ...]:
    shape = (1, config.kv_heads, "capacity", config.head_dim)
    return tuple(
        TensorSpec(f"{state}_{kind}_{layer}", dtype, shape)
        for layer in range(config.layers)
        for kind in ("key", "value")
    )


def _decoder(
    config: DecoderConfig, rows: TensorSpec, outputs: tuple[TensorSpec, ...], cache: CacheType
) -> GraphContract:
    return GraphContract(
        inputs=(
            rows,
            _ints("last_position", 1),
            _ints("total_length"),
            _floats("cos", "capacity", config.head_dim // 2),
            _floats("sin", "capacity", config.head_dim // 2),
            *_cache(config, "past", cache),
        ),
        outputs=(*outputs, *_cache(config, "present", cache)),
    )


def thinker(config: DecoderConfig, cache: CacheType = "float32") -> GraphContract:
    """Return the contract of the Thinker: append embeddings to the KV cache.

    It returns the hidden states of all new rows and the logits of the last one. `past_*` and
    `present_*` share memory. `last_position` is the index of the last new row, and `total_length`
    is one more. Row p of `cos` and `sin` belongs to KV slot p (TMRoPE).
    """
    return _decoder(
        config,
        _floats("embeddings", 1, "rows", config.hidden_size),
        (
            _floats("hidden", 1, "rows", config.hidden_size),
            _floats("logits", 1, config.vocab_size),
        ),
        cache,
    )


def talker(config: DecoderConfig, input_size: int, cache: CacheType = "float32") -> GraphContract:
    """Return the contract of the Talker: append rows to the KV cache, get logits of the last."""
    return _decoder(
        config,
        _floats("embeddings", 1, "rows", input_size),
        (_floats("logits", 1, config.vocab_size),),
        cache,
    )


def dit(config: DitConfig) -> GraphContract:
    """Return the contract of the DiT: one evaluation of the flow's velocity over blocks of frames.

    The last block may have fewer than `block_frames` frames. `condition` is the input projection
    of codes and voice, one row per frame for each branch (guided first, null second). `key_bias` is
    0 for valid frames and very negative for masked ones, also for the frames that the last block
    lacks. Its row 0 is the left block, then come the blocks of `noisy`, then the right block, which
    is always masked. `past_*` are keys and values of the look-back layers for the left block;
    `present_*` are those of block `commit`.
    """
    inner = config.heads * config.head_dim
    block = config.block_frames

    def left_context(state: str) -> tuple[TensorSpec, ...]:
        shape = (config.look_back_layers, "branches", block, inner)
        return _floats(f"{state}_key", *shape), _floats(f"{state}_value", *shape)

    return GraphContract(
        inputs=(
            _floats("noisy", 1, "frames", config.mel_dim),
            _floats("condition", "branches", "frames", config.hidden_size),
            _floats("modulation", config.layers, MODULATION_ROWS, config.hidden_size),
            _floats("final_modulation", FINAL_MODULATION_ROWS, config.hidden_size),
            _floats("cos", "frames", config.head_dim // 2),
            _floats("sin", "frames", config.head_dim // 2),
            _floats("key_bias", "blocks_and_two", block),
            _longs("commit", 1),
            *left_context("past"),
        ),
        outputs=(
            _floats("velocity", "branches", "frames", config.mel_dim),
            *left_context("present"),
        ),
    )


def vocoder(speech: SpeechConfig) -> GraphContract:
    """Return the contract of the vocoder: a window of mel frames to waveform samples.

    `crops[i]` is the number of samples to drop on the left and right after stage i, so that only
    the context that later stages need is computed. The last row crops the output. Zeros return the
    whole window.
    """
    stages = len(speech.vocoder.stage_rates)
    return GraphContract(
        inputs=(
            _floats("mel", 1, speech.dit.mel_dim, "frames"),
            _longs("crops", stages + 1, 2),
        ),
        outputs=(_floats("waveform", "samples"),),
    )


def contracts(config: ModelConfig, cache: CacheType = "float32") -> dict[str, GraphContract]:
    """Return the contracts of a model by graph name, decoders with this type of KV cache."""
    width = config.thinker.decoder.hidden_size
    graphs: dict[str, GraphContract] = {}
    if (audio := config.audio) is not None:
        graphs["audio_encoder"] = audio_encoder(audio, width)
    if (vision := config.vision) is not None:
        graphs["vision_encoder"] = vision_encoder(vision, width)
    graphs["thinker"] = thinker(config.thinker.decoder, cache)
    if (speech := config.speech) is not None:
        graphs["talker"] = talker(speech.talker.decoder, speech.talker.input_size, cache)
        graphs["dit"] = dit(speech.dit)
        graphs["vocoder"] = vocoder(speech)
    return graphs
