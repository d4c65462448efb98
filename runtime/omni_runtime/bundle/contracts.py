"""The door of every graph: names, shapes and dtypes of what goes in and out.

One place says it, three use it: the export builds graphs to it, the manifest records it, and the
runtime checks each file against it at load. Shapes mix numbers and names; a name stands for a
size that may differ from call to call, the same name for the same size.
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
"""Of keys and values. int8 has one scale for each channel, which is in the graph."""

DECODERS = ("thinker", "talker")
"""The graphs with a KV cache."""

OPSET = 23
"""Of ONNX. Has RMSNormalization; runs on ONNX Runtime 1.29, the oldest we allow."""

DOMAIN = "pocket_omni"
"""Of our own operators. In each graph that has them they are functions of ONNX operators; where the
runtime has a kernel of that name, it runs instead."""

MODULATION_ROWS = 6
"""Rows of one DiT layer's modulation: 1+scale, shift, gate of attention, then of feed-forward."""

FINAL_MODULATION_ROWS = 2
"""Rows of the DiT's last modulation: 1+scale, shift."""


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
    """Independent blocks of mel frames to embeddings.

    `frames` gives how many of a block's mel frames are real; the rest are zeros and change
    nothing. Of a block's rows in `embeddings` the first ((frames - 1) // 2 + 1) // 2 are real.
    """
    return GraphContract(
        inputs=(
            _floats("mel", "blocks", config.n_mels, "mel_frames"),
            _ints("frames", "blocks"),
        ),
        outputs=(_floats("embeddings", "blocks", "tokens", hidden_size),),
    )


def vision_encoder(config: VisionConfig, hidden_size: int) -> GraphContract:
    """Patches of one picture or video, in window order, to embeddings in window order.

    `window_slots` lists the patches of each attention window, padded to the widest one;
    `window_lengths` counts the real ones; `unpad` finds each patch again in the padded layout;
    `grid_frames` is the number of temporal patches, inside each of which full attention acts.
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
    """Rows of embeddings appended to the KV cache: hidden states of all, logits of the last.

    `past_*` and `present_*` are the same memory; `last_position` is the index of the last new
    row, `total_length` that plus one. `cos`/`sin` row p belongs to KV slot p (TMRoPE).
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
    """Rows in the Thinker's width appended to the KV cache: codec logits of the last."""
    return _decoder(
        config,
        _floats("embeddings", 1, "rows", input_size),
        (_floats("logits", 1, config.vocab_size),),
        cache,
    )


def dit(config: DitConfig) -> GraphContract:
    """One evaluation of the flow's velocity over whole blocks of mel frames.

    `condition` is the input projection of codes and voice, one row a frame for each branch
    (guided first, null second). `key_bias` is 0 for real frames and very negative for absent
    ones: row 0 for the block to the left, then the blocks of `noisy`, then the block to the
    right, which is always absent. `past_*` holds keys and values of the look-back layers for the
    block to the left, `present_*` those of block `commit`.
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
    """A window of mel frames to waveform samples.

    `crops[i]` says how many samples to drop on the left and right after stage i, so that only
    what later stages need of the window's context is computed; the last row leaves the samples
    wanted. Zeros everywhere give the whole window.
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
    """The graphs that a bundle of this model has, by name; of decoders that with this cache."""
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
