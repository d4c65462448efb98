"""Golden vectors of tables, graphs, noise and sampling.

Graphs run with ONNX Runtime's operators on one thread. Each case starts from recorded inputs, so a
difference in one case does not affect the next.
"""

import numpy as np

from omni_runtime.engine.decoder import complete
from omni_runtime.engine.dit import MelStream, seeded_noise
from omni_runtime.engine.kv_cache import RotaryTable
from omni_runtime.engine.sampling import (
    Sampling,
    keep_top_k,
    keep_top_p,
    penalize_repetition,
    softmax,
)
from omni_runtime.engine.solver import branches, evaluation_times
from omni_runtime.engine.talker import TalkerSettings
from omni_runtime.engine.vocoder import WaveStream
from omni_runtime.golden import samples
from omni_runtime.golden.text_cases import QUESTION, SYSTEM_MESSAGE, Cases, build
from omni_runtime.golden.vectors import Tensor, Values
from omni_runtime.inputs.image import load_image
from omni_runtime.inputs.media import load_audio
from omni_runtime.inputs.mel_features import log_mel
from omni_runtime.inputs.pixels import image_patches
from omni_runtime.model import Model

REPLY_TOKENS, SPEECH_STEPS = 3, 6
FLOAT_TOLERANCE, QUANTIZED_TOLERANCE = 1e-4, 5e-2
"""Tolerated differences between processors: quantized kernels round activations differently."""

SAMPLINGS = [
    {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.3},
    {"temperature": 0.7, "top_k": 5, "top_p": 1.0, "repetition_penalty": 1.0},
    {"temperature": 1.0, "top_k": 0, "top_p": 0.8, "repetition_penalty": 1.0},
    {"temperature": 0.9, "top_k": 8, "top_p": 0.8, "repetition_penalty": 1.05},
]


def _tolerance(model: Model, graph: str) -> float:
    exact = model.bundle.manifest.graphs[graph].error is None
    return FLOAT_TOLERANCE if exact else QUANTIZED_TOLERANCE


def rotary_inputs(_model: Model, _cases: Cases) -> Values:
    return {"positions": [[0, 1, 2, 500, 9000], [0, 7, 2, 40, 9000], [0, 3, 2, 41, 9000]]}


def rotary(model: Model, inputs: Values) -> Values:
    """Return the rows of cos and sin at given positions."""
    positions = np.array(inputs["positions"], np.int64)
    decoders = {"thinker": model.config.thinker.decoder}
    if (speech := model.config.speech) is not None:
        decoders["talker"] = speech.talker.decoder
    outputs: Values = {}
    for name, config in decoders.items():
        cos, sin = RotaryTable(config).rows(positions)
        outputs |= {f"{name}_cos": Tensor(cos, 1e-5), f"{name}_sin": Tensor(sin, 1e-5)}
    return outputs


def table_inputs(model: Model, _cases: Cases) -> Values:
    tables = model.bundle.manifest.tables
    return {
        name: [0, *samples.spread_ids(3, one.rows), one.rows - 1] for name, one in tables.items()
    }


def table_rows(model: Model, inputs: Values) -> Values:
    """Return decoded rows of each table."""
    return {
        name: Tensor(model.bundle.table(name)[np.array(ids, np.int64)])
        for name, ids in inputs.items()
    }


def audio_inputs(_model: Model, cases: Cases) -> Values:
    return cases["mel"].inputs


def audio_encoder(model: Model, inputs: Values) -> Values:
    """Encode a clip of more than one block."""
    config = model.config.audio
    assert config is not None
    features = log_mel(load_audio(inputs["sound"].data, config.sample_rate), config)
    rows = model.audio_encoder.encode(features)
    return {"rows": Tensor(rows, _tolerance(model, "audio_encoder"))}


def vision_inputs(_model: Model, cases: Cases) -> Values:
    return {"picture": cases["picture"].inputs["picture"]}


def vision_encoder(model: Model, inputs: Values) -> Values:
    """Encode an image; the rows are in the order of the prompt."""
    assert model.config.vision is not None
    patches = image_patches(load_image(inputs["picture"].data), model.config.vision)
    rows = model.vision_encoder.encode(patches)
    return {"rows": Tensor(rows, _tolerance(model, "vision_encoder"))}


def thinker_inputs(_model: Model, _cases: Cases) -> Values:
    return {"messages": [SYSTEM_MESSAGE, QUESTION], "start_position": 0, "since_last_reply": False}


def thinker_audio_inputs(_model: Model, cases: Cases) -> Values:
    return cases["prompt.sound"].inputs


def thinker(model: Model, inputs: Values) -> Values:
    """Prefill a prompt and decode some greedy steps; the rows are inputs of the Talker."""
    prompt, tolerance = build(model, inputs), _tolerance(model, "thinker")
    cache = model.thinker.new_cache()
    output = model.thinker.prefill(cache, prompt)
    prompt_rows, logits, rows, tokens = output.talker_rows, [output.logits], [], []
    for step in range(REPLY_TOKENS):
        tokens.append(int(output.logits.argmax()))
        output = model.thinker.step(cache, tokens[-1], prompt.next_position + step)
        logits.append(output.logits)
        rows.append(output.talker_rows[0])
    return {
        "positions": prompt.positions.tolist(),
        "next_position": prompt.next_position,
        "prompt_rows": Tensor(prompt_rows, tolerance),
        "logits": Tensor(np.stack(logits), tolerance),
        "tokens": tokens,
        "reply_rows": Tensor(np.stack(rows), tolerance),
    }


def talker_inputs(model: Model, cases: Cases) -> Values:
    spoken = cases["thinker"].outputs
    return {
        "voice": model.speech.default_voice,
        "prompt_rows": Tensor(spoken["prompt_rows"].values),
        "positions": spoken["positions"],
        "next_position": spoken["next_position"],
        "reply_rows": Tensor(spoken["reply_rows"].values),
    }


def talker(model: Model, inputs: Values) -> Values:
    """Decode greedy codes with the checkpoint's repetition penalty, beyond the end of the text.

    The logits are the outputs of the graph, before penalty and suppression.
    """
    cache = model.talker.new_cache()
    positions = np.array(inputs["positions"], np.int64)
    complete(model.talker.append(cache, inputs["prompt_rows"].values, positions))
    penalty = model.speech.talker.repetition_penalty
    settings = TalkerSettings(
        Sampling(repetition_penalty=penalty), SPEECH_STEPS, np.random.default_rng(0)
    )
    first, *rest = inputs["reply_rows"].values
    bos = model.speech.voices[inputs["voice"]]
    speech = model.talker.start(cache, bos, first, inputs["next_position"], settings)
    for row in rest:
        speech.feed(row)
    speech.end_text()
    logits: list[np.ndarray] = []
    while speech.ready:
        speech.step()
        logits.append(speech.logits)
    return {
        "logits": Tensor(np.stack(logits), _tolerance(model, "talker")),
        "codes": speech.codes,
        "ended": speech.complete,
    }


def noise_inputs(_model: Model, _cases: Cases) -> Values:
    return {"seeds": [0, 12345, 2**40 + 7], "blocks": [0, 1, 1000]}


def noise(model: Model, inputs: Values) -> Values:
    """Return one block of noise for each pair of seed and block number."""
    pairs = zip(inputs["seeds"], inputs["blocks"], strict=True)
    blocks = [seeded_noise(seed, model.speech.dit)(block, 1) for seed, block in pairs]
    return {"noise": Tensor(np.stack(blocks), 1e-6)}


def dit_inputs(model: Model, _cases: Cases) -> Values:
    """Return two chunks: one with a block of look-ahead, and the last, shorter than a block."""
    speech = model.speech
    block = speech.dit.block_frames // speech.dit.frames_per_code
    codes = samples.spread_ids(2 * block + block // 2, speech.dit.codes)
    return {
        "voice": speech.default_voice,
        "preset": speech.default_preset,
        "seed": 7,
        "chunks": [
            {"codes": codes[: 2 * block], "commit": 1},
            {"codes": codes[block:], "commit": 2},
        ],
    }


def dit(model: Model, inputs: Values) -> Values:
    """Return the mel of each chunk, with the previous chunk as left context."""
    preset = model.bundle.preset(inputs["preset"])
    condition = np.asarray(model.bundle.voice(inputs["voice"]), np.float32)
    noise_of = seeded_noise(inputs["seed"], model.speech.dit)
    stream = MelStream(model.dit(inputs["preset"]), condition, noise_of)
    tolerance = _tolerance(model, "dit")
    outputs: Values = {
        "times": Tensor(evaluation_times(preset), 1e-6),
        "branches": branches(preset),
    }
    for number, one in enumerate(inputs["chunks"]):
        chunk = stream.chunk(np.array(one["codes"], np.int64), one["commit"])
        outputs[f"mel_{number}"] = Tensor(chunk.mel, tolerance)
        if len(chunk.provisional):
            outputs[f"provisional_{number}"] = Tensor(chunk.provisional, tolerance)
    return outputs


def vocoder_inputs(_model: Model, cases: Cases) -> Values:
    mels = cases["dit"].outputs
    return {name: Tensor(mels[name].values) for name in ("mel_0", "provisional_0", "mel_1")}


def vocoder(model: Model, inputs: Values) -> Values:
    """Return the samples of each chunk; the second is cross-faded with the provisional frames."""
    config, tolerance = model.speech.vocoder, _tolerance(model, "vocoder")
    stream = WaveStream(model.vocoder, model.speech.dit.mel_dim)
    first, ahead, second = (inputs[name].values for name in ("mel_0", "provisional_0", "mel_1"))
    samples_0 = stream.push(first, ahead, last=False)
    samples_1 = stream.push(second, ahead[:0], last=True)
    right = min(len(ahead), config.context_frames + 1) - 1
    left = min(len(first), config.context_frames)
    return {
        "crops_0": model.vocoder.crops(0, right).tolist(),
        "crops_1": model.vocoder.crops(left, 0).tolist(),
        "samples_0": Tensor(samples_0, tolerance),
        "samples_1": Tensor(samples_1, tolerance),
    }


def sampling_inputs(_model: Model, _cases: Cases) -> Values:
    """Return logits with ties, and previous tokens."""
    logits = np.array([((7 * i * i + 3 * i) % 41 - 20) / 4 for i in range(24)], np.float32)
    return {"logits": Tensor(logits), "seen": [0, 3, 3, 11], "settings": SAMPLINGS}


def sampling(_model: Model, inputs: Values) -> Values:
    """Return the logits after each step of the sampling chain, and the final probabilities."""
    links: list[Values] = []
    for one in inputs["settings"]:
        settings = Sampling(**one)
        penalized = penalize_repetition(
            inputs["logits"].values, inputs["seen"], settings.repetition_penalty
        )
        top_k = keep_top_k(penalized / np.float32(settings.temperature), settings.top_k)
        top_p = keep_top_p(top_k, settings.top_p)
        links.append(
            {
                "penalized": Tensor(penalized, 1e-6),
                "after_temperature_and_top_k": Tensor(top_k, 1e-6),
                "after_top_p": Tensor(top_p, 1e-6),
                "probabilities": Tensor(softmax(top_p), 1e-6),
                "greedy": int(penalized.argmax()),
            }
        )
    return {"links": links}
