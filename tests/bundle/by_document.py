"""A second runtime, written from docs/bundle.md alone, with json, numpy and onnxruntime.

Slow and small: it shows that the document says enough, and is no part of the product.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

Array = np.ndarray
single = np.float32


class Bundle:
    """Section 1 to 5."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
        self.model = self.manifest["model"]
        self.speech = self.model["speech"]

    def session(self, graph: str) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        return ort.InferenceSession(
            self.folder / self.manifest["graphs"][graph]["file"],
            options,
            providers=["CPUExecutionProvider"],
        )

    def rows(self, table: str, ids: list[int]) -> Array:
        entry = self.manifest["tables"][table]
        stored = np.load(self.folder / entry["file"])[ids]
        if entry["encoding"] == "bfloat16":
            return (stored.astype(np.uint32) << 16).view(np.float32)
        if entry["encoding"] == "int8":
            return stored.astype(np.float32) * np.load(self.folder / entry["scales"])[ids, None]
        return stored


def rotary(decoder: dict[str, Any], positions: Array) -> tuple[Array, Array]:
    dim = decoder["head_dim"]
    exponents = np.arange(0, dim, 2, dtype=np.float32) / single(dim)
    powers = np.float64(decoder["rope_theta"]) ** exponents.astype(np.float64)
    inverse = single(1) / powers.astype(np.float32)
    axis = [i for i, count in enumerate(decoder["mrope_section"]) for _ in range(count)]
    angles = positions[axis].T.astype(np.float32) * inverse
    return np.cos(angles), np.sin(angles)


class Decoder:
    """A KV cache in separate buffers, which the document allows: equal, but slower."""

    def __init__(self, bundle: Bundle, graph: str, capacity: int = 512) -> None:
        speaks = graph == "talker"
        self.config = (bundle.speech["talker"] if speaks else bundle.model["thinker"])["decoder"]
        self.session = bundle.session(graph)
        self.length = 0
        half, heads = self.config["head_dim"] // 2, self.config["kv_heads"]
        self.cos, self.sin = (np.zeros((capacity, half), np.float32) for _ in range(2))
        names = [node.name for node in self.session.get_inputs()]
        shape = (1, heads, capacity, 2 * half)
        self.past = {n: np.zeros(shape, np.float32) for n in names if n.startswith("past_")}

    def step(self, rows: Array, positions: Array) -> dict[str, Array]:
        start, total = self.length, self.length + len(rows)
        cos, sin = rotary(self.config, positions)
        self.cos[start:total], self.sin[start:total] = cos, sin
        feeds = {
            "embeddings": rows[None].astype(np.float32),
            "last_position": np.array([total - 1], np.int32),
            "total_length": np.array(total, np.int32),
            "cos": self.cos,
            "sin": self.sin,
            **self.past,
        }
        names = [node.name for node in self.session.get_outputs()]
        found = dict(zip(names, self.session.run(None, feeds), strict=True))
        self.past = {name: found[name.replace("past_", "present_")] for name in self.past}
        self.length = total
        return found


def same(positions: list[int]) -> Array:
    return np.tile(np.array(positions, np.int64), (3, 1))


def thinker(bundle: Bundle, ids: list[int], positions: Array, following: int) -> dict[str, Any]:
    """Prefill a prompt without media and decode three greedy tokens."""
    decoder = Decoder(bundle, "thinker")
    rows = bundle.rows("thinker_embedding", ids)
    found = decoder.step(rows, positions)
    result: dict[str, Any] = {"prompt_rows": found["hidden"][0] + rows}
    logits, reply, tokens = [found["logits"][0]], [], []
    for step in range(3):
        tokens.append(int(logits[-1].argmax()))
        rows = bundle.rows("thinker_embedding", tokens[-1:])
        found = decoder.step(rows, same([following + step]))
        logits.append(found["logits"][0])
        reply.append(found["hidden"][0, 0] + rows[0])
    return {**result, "logits": np.stack(logits), "tokens": tokens, "reply_rows": np.stack(reply)}


def talker(bundle: Bundle, inputs: dict[str, Any], steps: int) -> dict[str, Any]:
    """Decode greedy codes with the repetition penalty."""
    config, decoder = bundle.speech["talker"], Decoder(bundle, "talker")
    decoder.step(inputs["prompt_rows"], np.array(inputs["positions"]))

    def text(token: int) -> Array:
        return bundle.rows("thinker_embedding", [token])[0]

    def codec(code: int) -> Array:
        return bundle.rows("talker_embedding", [code])[0]

    reply = inputs["reply_rows"]
    rest = [*reply[1:], text(config["text_eos"])]
    place, ids = inputs["next_position"], np.arange(config["decoder"]["vocab_size"])
    ends = np.isin(ids, config["codec_eos"])
    banned = (ids == config["codec_bos"]) | ((ids >= bundle.speech["dit"]["codes"]) & ~ends)
    seen = {config["codec_pad"], config["codec_bos"], config["codec_mask"]}
    first = text(bundle.speech["voices"][inputs["voice"]]) + codec(config["codec_pad"])
    rows = np.stack([first, reply[0] + codec(config["codec_bos"])])
    found: list[Array] = []
    codes: list[int] = []
    for step in range(1, steps + 1):
        if step > 1:
            row = rest[step - 2] if step - 2 < len(rest) else text(config["text_pad"])
            rows = (codec(codes[-1]) + row)[None]
        positions = [place, place + 1] if step == 1 else [place + step]
        found.append(decoder.step(rows, same(positions))["logits"][0])
        scores = np.where(banned, -np.inf, found[-1])
        for one in seen:
            penalty = config["repetition_penalty"]
            scores[one] = scores[one] * penalty if scores[one] < 0 else scores[one] / penalty
        code = int(scores.argmax())
        if code in config["codec_eos"]:
            break
        codes.append(code)
        seen.add(code)
    return {"logits": np.stack(found), "codes": codes}


Velocity = Callable[[int, int, Array], Array]
"""Arguments: number of the evaluation, row of the modulation, state."""


def flow(preset: dict[str, Any], x: Array, v: Velocity) -> Array:
    """Section 12: time grid and solvers."""
    even = np.linspace(0, 1, preset["steps"] + 1, dtype=np.float32)
    swayed = np.cos(single(np.pi / 2) * even) - single(1) + even
    grid = even + single(preset["sway"]) * swayed
    for i, d in enumerate(np.diff(grid)):
        match preset["solver"]:
            case "euler":
                x = x + d * v(i, i, x)
            case "midpoint":
                half = x + d / 2 * v(2 * i, 2 * i, x)
                x = x + d * v(2 * i + 1, 2 * i + 1, half)
            case _:
                v0 = v(4 * i, 3 * i, x)
                v1 = v(4 * i + 1, 3 * i + 1, x + d * v0 / 3)
                v2 = v(4 * i + 2, 3 * i + 2, x + d * (v1 - v0 / 3))
                v3 = v(4 * i + 3, 3 * i + 3, x + d * (v0 - v1 + v2))
                x = x + d * (v0 + 3 * (v1 + v2) + v3) / 8
    return x


class Dit:
    """One utterance, chunk by chunk. `noise(first, count)` returns `count` blocks."""

    def __init__(self, bundle: Bundle, voice: str, preset: str, noise: Callable) -> None:
        self.bundle, self.config = bundle, bundle.speech["dit"]
        self.preset, self.noise = bundle.speech["presets"][preset], noise
        self.voice = np.load(bundle.folder / "voices" / f"{voice}.npy")
        self.modulation = np.load(bundle.folder / "tables" / f"modulation_{preset}.npy")
        self.session, self.done = bundle.session("dit"), 0
        self.left: dict[int, tuple[Array, Array]] = {}

    def chunk(self, codes: list[int], commit: int) -> tuple[Array, Array]:
        config, size = self.config, self.config["block_frames"]
        frames = len(codes) * config["frames_per_code"]
        blocks = -(-frames // size)
        condition = np.repeat(self.voice[:, None], frames, axis=1)
        rows = self.bundle.rows("dit_code", codes)
        condition[0] += np.repeat(rows, config["frames_per_code"], axis=0)
        condition[1] += self.bundle.rows("dit_code", [0])[0]
        places = self.done * size + np.arange(frames, dtype=np.float32)
        angles = places[:, None] * np.array(config["rotary_frequencies"], np.float32)
        bias = np.full((blocks + 2) * size, -1e9, np.float32)
        bias[size : size + frames] = 0
        bias[: size if self.done else 0] = 0

        def velocity(evaluation: int, row: int, x: Array) -> Array:
            branches = 2 if evaluation < self.preset["guided"] else 1
            inner = config["heads"] * config["head_dim"]
            empty = np.zeros((config["look_back_layers"], branches, size, inner), np.float32)
            key, value = self.left.get(evaluation, (empty, empty))
            rows, layers = self.modulation[row], config["layers"]
            feeds = {
                "noisy": x[None].astype(np.float32),
                "condition": condition[:branches],
                "modulation": rows[: 6 * layers].reshape(layers, 6, -1),
                "final_modulation": rows[6 * layers :],
                "cos": np.cos(angles),
                "sin": np.sin(angles),
                "key_bias": bias.reshape(blocks + 2, size),
                "commit": np.array([commit - 1]),
                "past_key": key,
                "past_value": value,
            }
            found, *self_left = self.session.run(None, feeds)
            self.left[evaluation] = (self_left[0], self_left[1])
            if branches == 1:
                return found[0]
            return found[0] + single(self.preset["guidance"]) * (found[0] - found[1])

        mel = flow(self.preset, self.noise(self.done, blocks)[:frames], velocity)
        self.done += commit
        split = min(commit * size, frames)
        return mel[:split], mel[split:frames]


class Vocoder:
    """Section 13."""

    def __init__(self, bundle: Bundle) -> None:
        self.config, self.session = bundle.speech["vocoder"], bundle.session("vocoder")
        self.before = np.zeros((0, bundle.speech["dit"]["mel_dim"]), np.float32)
        self.seam = np.zeros(0, np.float32)

    def push(self, mel: Array, provisional: Array | None) -> Array:
        """`provisional` None marks the last chunk."""
        config, frame = self.config, self.config["samples_per_frame"]
        ahead = mel[:0] if provisional is None else provisional[: config["context_frames"] + 1]
        kept = np.array([len(self.before), max(len(ahead) - 1, 0)])
        crops: list[Array] = []
        for rate, margin in zip(config["stage_rates"], config["margins"], strict=True):
            there = kept * rate
            kept = np.minimum(there, margin)
            crops.append(there - kept)
        window = np.concatenate([self.before, mel, ahead])
        feeds = {"mel": np.ascontiguousarray(window.T)[None], "crops": np.stack([*crops, kept])}
        (wave,) = self.session.run(None, feeds)
        assert len(wave) == (len(mel) + (provisional is not None)) * frame
        if len(self.seam):
            weight = np.arange(frame, dtype=np.float32) / (frame - 1)
            wave[:frame] = self.seam * (1 - weight) + wave[:frame] * weight
        self.seam = wave[len(mel) * frame :]
        self.before = np.concatenate([self.before, mel])[-config["context_frames"] :]
        return wave[: len(mel) * frame]


def log_mel(samples: Array, config: dict[str, Any]) -> Array:
    """Section 8."""
    hop, n_fft = config["hop_length"], config["n_fft"]
    left = config.get("padding_side") == "left"
    frames = max(len(samples) // hop if left else math.ceil(len(samples) / hop), 3)
    if left:
        length = max(config["padded_samples"], math.ceil((len(samples) + n_fft) / hop) * hop)
        signal = np.pad(samples.astype(np.float64), (length - len(samples), 0))
    else:
        length = max(config["padded_samples"], frames * hop)
        signal = np.pad(samples.astype(np.float64), (0, length - len(samples)))
    signal = np.pad(signal, n_fft // 2, mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    top = 15 + math.log(config["sample_rate"] / 2 / 1000) * 27 / math.log(6.4)
    mels = np.linspace(0, top, config["n_mels"] + 2)
    edges = np.where(mels < 15, mels * 200 / 3, 1000 * np.exp((mels - 15) * math.log(6.4) / 27))
    bins = np.arange(n_fft // 2 + 1) * config["sample_rate"] / n_fft
    lower, middle, upper = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    triangles = np.minimum((bins - lower) / (middle - lower), (upper - bins) / (upper - middle))
    filters = np.maximum(triangles, 0) * 2 / (upper - lower)
    columns: list[Array] = []
    for k in range(length // hop):
        piece = signal[k * hop : k * hop + n_fft]
        power = np.abs(np.fft.rfft(piece * window)) ** 2 if piece.any() else np.zeros(len(bins))
        columns.append(np.log10(np.maximum(filters @ power, 1e-10)).astype(np.float32))
    x = np.stack(columns, axis=1)
    x = (np.maximum(x, x.max() - single(8)) + single(4)) / single(4)
    return x[:, -frames:] if left else x[:, :frames]


def probabilities(logits: Array, seen: list[int], settings: dict[str, Any]) -> Array:
    """The sampling chain without suppression."""
    x = logits.copy()
    for one in set(seen):
        q = settings["repetition_penalty"]
        x[one] = x[one] * q if x[one] < 0 else x[one] / q
    x = x / single(settings["temperature"])
    if settings["top_k"]:
        x[x < np.sort(x)[-settings["top_k"]]] = -np.inf
    if settings["top_p"] < 1:
        order = np.argsort(x, kind="stable")
        p = np.exp(x[order].astype(np.float64) - x.max())
        sums = np.cumsum(p / p.sum())
        x[
            [one for one, s in zip(order[:-1], sums, strict=False) if s <= 1 - settings["top_p"]]
        ] = -np.inf
    p = np.exp(x.astype(np.float64) - x.max())
    return p / p.sum()
