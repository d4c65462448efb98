"""Patches and the vision encoder's geometry equal the reference."""

import numpy as np
import pytest
import torch
from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import (
    Qwen2_5OmniVisionEncoderConfig,
)
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniVisionEncoder
from transformers.models.qwen2_vl import image_processing_qwen2_vl as reference_images

from inputs.reference import VISION, SlowVideoProcessor, image_processor
from inputs.samples import picture
from omni_runtime.errors import MediaError
from omni_runtime.inputs.pixels import (
    image_patches,
    smart_resize,
    video_patches,
    vision_geometry,
)

SIZES = [(28, 28), (56, 84), (1, 1), (100, 333), (480, 640), (37, 4000), (301, 13)]


@pytest.mark.parametrize("size", SIZES)
def test_image_patches_equal_the_reference(size: tuple[int, int]) -> None:
    image = picture(*size)
    made = image_patches(image, VISION)
    expected = image_processor()(image, input_data_format="channels_last", return_tensors="np")
    assert made.grid == tuple(expected["image_grid_thw"][0])
    assert made.values.dtype == np.float32
    np.testing.assert_allclose(made.values, expected["pixel_values"], atol=1e-6)


@pytest.mark.parametrize(("frames", "size"), [(4, (90, 160)), (5, (240, 100)), (1, (56, 56))])
def test_video_patches_equal_the_reference(frames: int, size: tuple[int, int]) -> None:
    video = np.stack([picture(*size, seed=i) for i in range(frames)])
    made = video_patches(video, VISION)
    expected = SlowVideoProcessor()([video])
    assert made.grid == tuple(expected["video_grid_thw"][0])
    np.testing.assert_allclose(made.values, expected["pixel_values_videos"], atol=1e-6)


def test_smart_resize_equals_the_reference() -> None:
    rng = np.random.default_rng(0)
    for height, width in np.exp(rng.uniform(0, 9, (500, 2))).astype(int).tolist():
        bounds = sorted(np.exp(rng.uniform(7, 16, 2)).astype(int).tolist())
        if max(height, width) / min(height, width) > 200:
            with pytest.raises(MediaError, match="aspect ratio"):
                smart_resize(height, width, 28, *bounds)
        else:
            expected = reference_images.smart_resize(height, width, 28, *bounds)
            assert smart_resize(height, width, 28, *bounds) == expected


@pytest.mark.parametrize(
    "grids",
    [
        [(1, 2, 2)],
        [(1, 8, 8)],
        [(1, 16, 24), (1, 6, 10)],
        [(3, 10, 14)],
        [(1, 4, 30), (2, 18, 6), (1, 8, 8)],
    ],
)
def test_geometry_equals_the_encoder(grids: list[tuple[int, int, int]]) -> None:
    config = Qwen2_5OmniVisionEncoderConfig(
        depth=1, hidden_size=32, num_heads=2, intermediate_size=8, out_hidden_size=8
    )
    encoder = Qwen2_5OmniVisionEncoder(config)
    grid_thw = torch.tensor(grids)
    index, bounds = encoder.get_window_index(grid_thw)
    angles = encoder.rot_pos_emb(grid_thw)
    made = vision_geometry(grids, VISION)

    np.testing.assert_array_equal(made.window_index, index)
    np.testing.assert_array_equal(made.reverse_index, torch.argsort(index))
    by_token = angles.reshape(len(index), 4, -1)[index].reshape(len(angles), -1)
    np.testing.assert_allclose(made.angles, by_token, rtol=1e-6)
    assert made.angles.dtype == np.float32
    bounds = torch.unique_consecutive(torch.tensor(bounds))
    np.testing.assert_array_equal(np.cumsum([0, *made.window_lengths]), bounds)
    frames = torch.repeat_interleave(grid_thw[:, 1] * grid_thw[:, 2], grid_thw[:, 0])
    np.testing.assert_array_equal(made.frame_bounds, [0, *frames.cumsum(0)])


def test_window_slots_contain_each_patch_once() -> None:
    made = vision_geometry([(2, 10, 14), (1, 4, 4)], VISION)
    patches = np.arange(2 * 140 + 16)
    np.testing.assert_array_equal(made.window_slots.reshape(-1)[made.unpad], patches)
    assert (made.window_slots < len(patches)).all()
    np.testing.assert_array_equal(made.patch_index.reshape(-1, 4)[:, 0] // 4, made.window_index)
    assert sorted(made.patch_index) == patches.tolist()
    start = 0
    for row, length in zip(made.window_slots, made.window_lengths, strict=True):
        np.testing.assert_array_equal(row[:length], np.arange(start, start + length))
        start += length
