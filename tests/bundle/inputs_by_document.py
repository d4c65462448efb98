"""Prompts, positions, patches and windows, written from docs/bundle.md alone."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

Array = np.ndarray
single = np.float32
MARKERS = {
    "sound": "<|audio_bos|><|AUDIO|><|audio_eos|>",
    "picture": "<|vision_bos|><|IMAGE|><|vision_eos|>",
    "video": "<|vision_bos|><|VIDEO|><|vision_eos|>",
}


class Text:
    """Section 6: byte-pair encoding of the library, with all special tokens disabled."""

    def __init__(self, folder: Path, tokens: dict[str, Any]) -> None:
        content = json.loads((folder / "tokenizer.json").read_text("utf-8"))
        for one in content["added_tokens"]:
            one["special"] |= one["id"] in {*tokens["eos"], *_single(tokens)}
        self.special = {
            one["content"]: one["id"] for one in content["added_tokens"] if one["special"]
        }
        self.backend = Tokenizer.from_str(json.dumps(content))
        self.backend.encode_special_tokens = True
        longest = sorted(map(re.escape, self.special), key=len, reverse=True)
        self.cut = re.compile(f"({'|'.join(longest)})")

    def encode(self, text: str) -> list[int]:
        return self.backend.encode(text, add_special_tokens=False).ids


def _single(tokens: dict[str, Any]) -> list[int]:
    return [one for one in tokens.values() if isinstance(one, int)]


def rendered(messages: list[dict[str, Any]], system: str) -> list[tuple[bool, str]]:
    """Section 7: pieces of text, and whether they are from the template."""
    if messages[0]["role"] != "system":
        messages = [{"role": "system", "parts": [{"text": system}]}, *messages]
    pieces: list[tuple[bool, str]] = []
    for message in messages:
        pieces.append((True, f"<|im_start|>{message['role']}\n"))
        for part in message["parts"]:
            ((kind, value),) = part.items()
            pieces.append((False, value) if kind == "text" else (True, MARKERS[kind]))
        pieces.append((True, "<|im_end|>\n"))
    return [*pieces, (True, "<|im_start|>assistant\n")]


def after_last_reply(pieces: list[tuple[bool, str]]) -> list[tuple[bool, str]]:
    opened = max(i for i, piece in enumerate(pieces[:-1]) if piece[1] == "<|im_start|>assistant\n")
    return pieces[opened + 2 :]


def items(pieces: list[tuple[bool, str]], text: Text) -> list[int]:
    """Ids, with one placeholder for each media part."""
    ids: list[int] = []
    plain = ""
    for template, piece in pieces:
        for part in text.cut.split(piece) if template else [piece]:
            if template and part in text.special:
                ids += [*text.encode(plain), text.special[part]]
                plain = ""
            else:
                plain += part
    return ids + text.encode(plain)


class Layout:
    """Sections 7 and 11."""

    def __init__(self, model: dict[str, Any], start: int) -> None:
        self.tokens, self.rates = model["thinker"]["tokens"], model["thinker"]["positions"]
        self.merge = model["vision"]["merge_size"]
        self.ids: list[int] = []
        self.columns: list[Array] = []
        self.rows: list[list[int]] = []
        self.place = start

    def put(self, ids: list[int], positions: Array) -> list[int]:
        rows = [*range(len(self.ids), len(self.ids) + len(ids))]
        self.ids += ids
        if ids:
            self.columns.append(positions)
        return rows

    def line(self, token: int, count: int) -> list[int]:
        rows = self.put([token] * count, np.tile(np.arange(count) + self.place, (3, 1)))
        self.place += count
        return rows

    def pair(self, ids: list[int]) -> None:
        self.put(ids, np.full((3, 2), self.place))
        self.place += 1

    def seen(self, grid: list[int], seconds: float) -> Array:
        t, h, w = grid[0], grid[1] // self.merge, grid[2] // self.merge
        frames, rows, columns = (axis.reshape(-1) for axis in np.indices((t, h, w)))
        step, rate = single(seconds), single(self.rates["ids_per_second"])
        times = (frames.astype(np.float32) * step * rate).astype(np.int64)
        return np.stack([times, rows, columns]) + self.place

    def picture(self, token: int, grid: list[int], seconds: float) -> None:
        positions = self.seen(grid, seconds)
        self.rows.append(self.put([token] * positions.shape[1], positions))
        self.place = int(positions.max()) + 1

    def film(self, grid: list[int], seconds: float, heard: int) -> None:
        """Append a video with audio, without its markers."""
        seen = self.seen(grid, seconds)
        sound = np.tile(np.arange(heard) + self.place, (3, 1))
        rate, a_frame = self.rates["ids_per_second"], seen.shape[1] // grid[0]
        times = [i // a_frame * seconds * rate for i in range(seen.shape[1])]
        size = int(rate * self.rates["seconds_per_chunk"])
        tracks = [(self.tokens["video"], seen, chunks(times, size))]
        tracks += [(self.tokens["audio"], sound, chunks([*range(heard)], size))]
        rows: list[list[int]] = [[], []]
        for number in range(max(len(parts) for _, _, parts in tracks)):
            for track, (token, positions, parts) in enumerate(tracks):
                if number < len(parts):
                    piece = positions[:, slice(*parts[number])]
                    rows[track] += self.put([token] * piece.shape[1], piece)
        self.rows += rows
        self.place = int(self.columns[-1].max()) + 1


def chunks(times: list[float], size: int) -> list[tuple[int, int]]:
    cuts = [0]
    for i, time in enumerate(times):
        if time >= len(cuts) * size:
            cuts.append(i)
    return [*zip(cuts, [*cuts[1:], len(times)], strict=True)]


def prompt(
    model: dict[str, Any], text: Text, inputs: dict[str, Any], media: list[dict[str, Any]]
) -> dict[str, Any]:
    """`media` has the grids and frames, which other vectors test."""
    pieces = rendered(inputs["messages"], model["system_prompt"])
    pieces = after_last_reply(pieces) if inputs["since_last_reply"] else pieces
    layout, tokens = Layout(model, inputs["start_position"]), model["thinker"]["tokens"]
    sizes, ids = iter(media), items(pieces, text)
    vision = model["vision"]
    seconds = vision["temporal_patch_size"] / vision["video_fps"]
    with_sound = tokens["video"] in ids and len(media) == 2
    for i, token in enumerate(ids):
        if with_sound and ids[i + 1 : i + 2] == [tokens["video"]]:
            layout.pair([tokens["vision_bos"], tokens["audio_bos"]])
        elif with_sound and ids[i - 1 : i] == [tokens["video"]]:
            layout.pair([tokens["audio_eos"], tokens["vision_eos"]])
        elif token == tokens["audio"]:
            layout.rows.append(layout.line(token, ((next(sizes)["frames"] - 1) // 2 + 1) // 2))
        elif with_sound and token == tokens["video"]:
            grid, frames = next(sizes)["grid"], next(sizes)["frames"]
            layout.film(grid, seconds, ((frames - 1) // 2 + 1) // 2)
        elif token in (tokens["image"], tokens["video"]):
            layout.picture(token, next(sizes)["grid"], seconds)
        else:
            layout.line(token, 1)
    positions = np.concatenate(layout.columns, axis=1)
    return {
        "ids": layout.ids,
        "positions": positions.tolist(),
        "next_position": int(positions.max()) + 1,
        "rows": layout.rows,
    }


def patches(frame: Array, config: dict[str, Any]) -> Array:
    """Section 9: patches of one image of the final size."""
    size, merge, depth = config["patch_size"], config["merge_size"], config["temporal_patch_size"]
    value = (frame * (1 / 255)).astype(np.float32)
    mean, std = (np.array(config[name], np.float32) for name in ("image_mean", "image_std"))
    value = (value - mean) / std
    found: list[Array] = []
    side = size * merge
    for y in range(0, frame.shape[0], side):
        for x in range(0, frame.shape[1], side):
            for row in range(y, y + side, size):
                for column in range(x, x + side, size):
                    patch = value[row : row + size, column : column + size].transpose(2, 0, 1)
                    found.append(np.repeat(patch[:, None], depth, axis=1).reshape(-1))
    return np.stack(found)


def windows(grid: list[int], config: dict[str, Any]) -> dict[str, Any]:
    """Section 9: geometry."""
    merge, half = config["merge_size"], config["head_dim"] // 2
    t, h, w = grid[0], grid[1] // merge, grid[2] // merge
    side = config["window_size"] // merge // config["patch_size"]
    order: list[int] = []
    lengths: list[int] = []
    for frame in range(t):
        for top in range(0, h, side):
            for left in range(0, w, side):
                one = [
                    frame * h * w + row * w + column
                    for row in range(top, min(top + side, h))
                    for column in range(left, min(left + side, w))
                ]
                order += one
                lengths.append(len(one) * merge**2)
    places = [token * merge**2 + one for token in order for one in range(merge**2)]
    exponents = (np.arange(0, half, 2) / half).astype(np.float32).astype(np.float64)
    frequency = single(1) / (config["rope_theta"] ** exponents).astype(np.float32)
    frequency = frequency.astype(np.float64)
    angles: list[Array] = []
    for token in order:
        row, column = divmod(token % (h * w), w)
        for y in range(row * merge, row * merge + merge):
            for x in range(column * merge, column * merge + merge):
                angles.append(np.concatenate([y * frequency, x * frequency]))
    starts, widest = np.cumsum([0, *lengths[:-1]]), max(lengths)
    slots = [
        [*range(start, start + n), *[0] * (widest - n)]
        for start, n in zip(starts.tolist(), lengths, strict=True)
    ]
    return {
        "window_index": order,
        "reverse_index": np.argsort(order).tolist(),
        "patch_index": places,
        "window_lengths": lengths,
        "window_slots": slots,
        "unpad": [i * widest + k for i, n in enumerate(lengths) for k in range(n)],
        "cos": np.cos(np.array(angles, np.float32)),
        "sin": np.sin(np.array(angles, np.float32)),
    }


def clip_frames(total: int, rate: float, config: dict[str, Any]) -> tuple[list[int], float]:
    """Section 10."""
    depth = config["temporal_patch_size"]
    limit = min(config["video_max_frames"], total) // depth * depth
    wanted = total / rate * config["video_fps"]
    count = int(min(max(wanted, config["video_min_frames"]), limit)) // depth * depth
    count = max(count, min(depth, total))
    last, step = single(total - 1), single((total - 1) / max(count - 1, 1))
    numbers = [
        round(single(i * step) if i < count // 2 else single(last - single((count - 1 - i) * step)))
        for i in range(count)
    ]
    thinned = wanted // depth * depth > count
    fps = count / (total / rate) if thinned else config["video_fps"]
    return numbers if count > 1 else [0], fps


def film_bounds(frames: int, config: dict[str, Any]) -> tuple[int, float]:
    """Section 10."""
    low, most = config["video_min_pixels"], config["video_max_pixels"]
    token = (config["patch_size"] * config["merge_size"]) ** 2
    share = 115200 * token * config["temporal_patch_size"] / frames
    return low, max(min(most, share), min(int(1.05 * low), most))


def size(h: int, w: int, low: int, high: float, factor: int) -> list[int]:
    """Section 9."""
    rows, columns = round(h / factor) * factor, round(w / factor) * factor
    if rows * columns > high:
        s = (h * w / high) ** 0.5
        return [max(factor, int(one / s / factor) * factor) for one in (h, w)]
    if rows * columns < low:
        s = (low / (h * w)) ** 0.5
        return [-int(-one * s // factor) * factor for one in (h, w)]
    return [rows, columns]
