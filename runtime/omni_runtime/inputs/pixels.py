"""Inputs of the vision encoder: normalized patches, window indices and rotary angles.

Not a file decoder (`media.py`) and not the encoder. Windows and rotary angles depend on the grid
alone, so they are computed here and passed to the graph as arrays. The graph needs no loops.

Sources: transformers' Qwen2VLImageProcessor, the Pillow one (resize, normalise, patches), and
Qwen2_5OmniVisionEncoder.get_window_index / rot_pos_emb (geometry).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from omni_runtime.arrays import FloatArray, IntArray
from omni_runtime.bundle.config import VisionConfig
from omni_runtime.errors import MediaError
from omni_runtime.rotary import inverse_frequencies

Grid = tuple[int, int, int]
"""Number of patches in time, height and width, before the encoder merges them in space."""

_CHANNELS = 3

_VIDEO_TOKENS = 0.9 * 128_000
"""Tokens of all frames of a video: many frames become small ones. From qwen_omni_utils."""

_LEAST_ROOM = 1.05
"""The limit of a frame is at least this much above the least size. From qwen_omni_utils."""


@dataclass(frozen=True)
class Patches:
    """The patches of one image or video.

    `values` is float32 (t * h * w, 3 * temporal_patch_size * patch_size**2), normalized. Patches
    that are merged into one token are adjacent. `grid` is (t, h, w).
    """

    values: FloatArray
    grid: Grid


@dataclass(frozen=True)
class VisionGeometry:
    """Geometry of all media of one encoder call, concatenated.

    There are n patches and m = n / merge_size**2 merged tokens.
    `window_index` int64 (m,): merged tokens in window order; `reverse_index` int64 (m,) is the
    inverse permutation; `patch_index` int64 (n,) is the same order for patches. The other arrays
    are in window order.
    `window_lengths` int64 (windows,): number of patches in each attention window, at least one.
    `window_slots` int64 (windows, widest): the patches of each window, padded with patch 0.
    `unpad` int64 (n,): index of each patch in the flattened `window_slots`.
    `frame_bounds` int64 (frames + 1,): start of each frame in patches, from 0 to n.
    `angles` float32 (n, head_dim // 2): rotary angles in radians, height first.
    """

    window_index: IntArray
    reverse_index: IntArray
    patch_index: IntArray
    window_lengths: IntArray
    window_slots: IntArray
    unpad: IntArray
    frame_bounds: IntArray
    angles: FloatArray


def smart_resize(
    height: int, width: int, factor: int, min_pixels: int, max_pixels: float
) -> tuple[int, int]:
    """Return the nearest size in multiples of `factor` whose area is within the pixel limits.

    Raises MediaError when one side is more than 200 times the other, as the reference does.
    """
    require_aspect_ratio(height, width)
    rows, columns = round(height / factor) * factor, round(width / factor) * factor
    if rows * columns > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        rows = max(factor, math.floor(height / shrink / factor) * factor)
        columns = max(factor, math.floor(width / shrink / factor) * factor)
    elif rows * columns < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        rows = math.ceil(height * grow / factor) * factor
        columns = math.ceil(width * grow / factor) * factor
    return rows, columns


def require_aspect_ratio(height: int, width: int) -> None:
    """Raise MediaError when one side is more than 200 times the other."""
    if max(height, width) > 200 * min(height, width):
        raise MediaError(
            f"an image of {width} x {height} pixels exceeds the aspect ratio of 200 : 1",
            fix="crop it",
        )


def video_size(height: int, width: int, frames: int, config: VisionConfig) -> tuple[int, int]:
    """Return the (height, width) to which the sampled frames of a video are resized.

    All `frames` share a budget, which makes them smaller from about 300 frames on. Source:
    fetch_video of qwen_omni_utils.
    """
    factor = config.patch_size * config.merge_size
    least, most = config.video_min_pixels, config.video_max_pixels
    share = _VIDEO_TOKENS * factor**2 / frames * config.temporal_patch_size
    limit = max(min(most, share), min(int(least * _LEAST_ROOM), most))
    return smart_resize(height, width, factor, least, limit)


def resize(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize uint8 (h, w, 3) to `size` = (height, width) with Pillow's bicubic filter."""
    if image.shape[:2] == size:
        return image
    picture = Image.fromarray(image)
    return np.asarray(picture.resize((size[1], size[0]), Image.Resampling.BICUBIC))


def image_patches(image: NDArray[np.uint8], config: VisionConfig) -> Patches:
    """Resize one image, uint8 (h, w, 3), and split it into patches. The grid has t = 1.

    Raises MediaError when the aspect ratio exceeds 200 : 1.
    """
    factor = config.patch_size * config.merge_size
    h, w = image.shape[:2]
    size = smart_resize(h, w, factor, config.image_min_pixels, config.image_max_pixels)
    return patches(resize(image, size)[None], config)


def video_patches(frames: NDArray[np.uint8], config: VisionConfig) -> Patches:
    """Resize the sampled frames of a video, uint8 (t, h, w, 3), and split them into patches.

    Raises MediaError when the aspect ratio exceeds 200 : 1.
    """
    size = video_size(frames.shape[1], frames.shape[2], len(frames), config)
    return patches(np.stack([resize(frame, size) for frame in frames]), config)


def patches(frames: NDArray[np.uint8], config: VisionConfig) -> Patches:
    """Normalize frames of the final size, uint8 (t, h, w, 3), and split them into patches.

    The last frame is repeated until `temporal_patch_size` divides t.
    """
    depth, size, merge = config.temporal_patch_size, config.patch_size, config.merge_size
    frames = np.concatenate([frames, np.repeat(frames[-1:], -len(frames) % depth, axis=0)])
    t, h, w = len(frames) // depth, frames.shape[1] // size, frames.shape[2] // size
    cut = frames.reshape(t, depth, h // merge, merge, size, w // merge, merge, size, _CHANNELS)
    cut = cut.transpose(0, 2, 5, 3, 6, 8, 1, 4, 7).reshape(t * h * w, _CHANNELS, -1)
    values = np.empty(cut.shape, np.float32)
    for channel, table in enumerate(_normalisation(config)):
        values[:, channel] = table[cut[:, channel]]
    return Patches(values.reshape(t * h * w, -1), (t, h, w))


def vision_geometry(grids: Sequence[Grid], config: VisionConfig) -> VisionGeometry:
    """Return the geometry of media with these grids, in this order, for one encoder call."""
    merge, unit = config.merge_size, config.merge_size**2
    order: list[IntArray] = []
    window_sizes: list[IntArray] = []
    angles: list[FloatArray] = []
    frame_sizes: list[int] = []
    tokens = 0
    for t, h, w in grids:
        index, sizes = _windows(t, h // merge, w // merge, config)
        by_token = np.tile(_rotary_angles(h, w, config), (t, 1)).reshape(len(index), unit, -1)
        angles.append(by_token[index].reshape(t * h * w, -1))
        order.append(index + tokens)
        window_sizes.append(sizes * unit)
        frame_sizes += [h * w] * t
        tokens += len(index)
    window_index = np.concatenate(order)
    lengths = np.concatenate(window_sizes)
    slot = np.arange(int(lengths.max()))
    real = slot < lengths[:, None]
    return VisionGeometry(
        window_index=window_index,
        reverse_index=np.argsort(window_index),
        patch_index=(window_index[:, None] * unit + np.arange(unit)).reshape(-1),
        window_lengths=lengths,
        window_slots=np.where(real, (np.cumsum(lengths) - lengths)[:, None] + slot, 0),
        unpad=np.flatnonzero(real),
        frame_bounds=np.cumsum([0, *frame_sizes]),
        angles=np.concatenate(angles),
    )


def _normalisation(config: VisionConfig) -> FloatArray:
    """Return the normalized value of each byte and channel, float32 (3, 256).

    As in the reference, bytes are rescaled in float64 and normalized in float32.
    """
    scaled = (np.arange(256, dtype=np.float64) * (1 / 255)).astype(np.float32)
    mean = np.asarray(config.image_mean, np.float32)[:, None]
    return (scaled - mean) / np.asarray(config.image_std, np.float32)[:, None]


def _windows(t: int, rows: int, columns: int, config: VisionConfig) -> tuple[IntArray, IntArray]:
    """Return merged tokens of a (t, rows, columns) grid in window order, and the window lengths."""
    side = config.window_size // config.merge_size // config.patch_size
    down, across = -(-rows // side), -(-columns // side)
    index = np.full((t, down * side, across * side), -1, np.int64)
    index[:, :rows, :columns] = np.arange(t * rows * columns).reshape(t, rows, columns)
    windows = index.reshape(t, down, side, across, side).transpose(0, 1, 3, 2, 4)
    windows = windows.reshape(-1, side * side)
    inside = windows >= 0
    return windows[inside], inside.sum(axis=1)


def _rotary_angles(h: int, w: int, config: VisionConfig) -> FloatArray:
    """Return rotary angles of one frame, float32 (h * w, head_dim // 2), in patch order."""
    merge, half = config.merge_size, config.head_dim // 2
    frequencies = inverse_frequencies(half, config.rope_theta)
    coordinates = np.stack(list(np.indices((h, w))), axis=-1)
    blocks = coordinates.reshape(h // merge, merge, w // merge, merge, 2).transpose(0, 2, 1, 3, 4)
    angles = blocks.reshape(h * w, 2, 1) * frequencies.astype(np.float64)
    return angles.reshape(h * w, -1).astype(np.float32)
