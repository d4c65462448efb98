"""Videos as the official pipeline reads them: qwen_omni_utils 0.0.9, with decord.

It imports torchvision, whose wheels do not load beside the CPU build of torch. A stand-in has the
one function of it that is used: `resize`, which calls `interpolate` of torch as here.
"""

import importlib
import sys
from types import ModuleType
from typing import Any

import numpy as np
import torch

NAMES = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")


def _resize(video: torch.Tensor, size: list[int], interpolation: str, antialias: bool) -> Any:
    found = torch.nn.functional.interpolate(
        video.float(), size, mode=interpolation, align_corners=False, antialias=antialias
    )
    return found.clamp(0, 255).round().to(video.dtype)


def _imported() -> Any:
    modules = {name: ModuleType(name) for name in NAMES}
    torchvision, transforms, functional = (modules[name] for name in NAMES)
    torchvision.io = ModuleType("io")  # type: ignore[attr-defined]
    torchvision.transforms = transforms  # type: ignore[attr-defined]
    transforms.functional = functional  # type: ignore[attr-defined]
    transforms.InterpolationMode = type("Mode", (), {"BICUBIC": "bicubic"})  # type: ignore[attr-defined]
    functional.resize = _resize  # type: ignore[attr-defined]
    sys.modules.update(modules)
    try:
        return importlib.import_module("qwen_omni_utils.v2_5.vision_process")
    finally:
        for name in NAMES:
            del sys.modules[name]


process = _imported()


def sample_frames(total: int, rate: float) -> np.ndarray:
    """Return the indices of the frames that the pipeline takes."""
    count = process.smart_nframes({}, total, rate)
    return torch.linspace(0, total - 1, count).round().long().numpy()


def video_size(height: int, width: int, frames: int) -> tuple[int, int]:
    """Return the size of sampled frames, (height, width)."""
    readers = {"decord": lambda _: (torch.empty(frames, 3, height, width, device="meta"), {}, 2.0)}
    before, process.VIDEO_READER_BACKENDS = process.VIDEO_READER_BACKENDS, readers
    try:
        return tuple(process.fetch_video({"video": "any"}).shape[2:])
    finally:
        process.VIDEO_READER_BACKENDS = before


def read_video(path: str) -> tuple[np.ndarray, list[int]]:
    """Return the frames, uint8 (t, h, w, 3), and their indices."""
    video, metadata = process.fetch_video({"video": path}, return_video_metadata=True)
    return video.permute(0, 2, 3, 1).numpy(), list(metadata["frames_indices"])
