"""TMRoPE equals get_rope_index, its quirks included, in one call or in several."""

import numpy as np
import pytest

from inputs.reference import POSITIONS, rope_index
from omni_runtime.bundle.config import SpecialTokens
from omni_runtime.inputs.mel import audio_tokens
from omni_runtime.inputs.positions import (
    SequentialRun,
    SharedRun,
    TokenRun,
    VideoWithAudioRun,
    VisionRun,
    interleave,
    token_positions,
)

TOKENS = SpecialTokens(
    audio=1, image=2, video=3, audio_bos=4, audio_eos=5, vision_bos=6, vision_eos=7, eos=(8,)
)
TEXT = 9


class Layout:
    """One prompt: ids and grids for the reference, runs for `token_positions`."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.runs: list[TokenRun] = []
        self.images: list[tuple[int, int, int]] = []
        self.videos: list[tuple[int, int, int]] = []
        self.frames: list[int] = []
        self.seconds: list[float] = []

    def text(self, count: int) -> None:
        self.ids += [TEXT] * count
        self.runs.append(SequentialRun(count))

    def audio(self, frames: int) -> None:
        count = audio_tokens(frames)
        self.ids += [TOKENS.audio_bos] + [TOKENS.audio] * count + [TOKENS.audio_eos]
        self.runs += [SequentialRun(1), SequentialRun(count), SequentialRun(1)]
        self.frames.append(frames)

    def picture(self, grid: tuple[int, int, int], seconds: float | None = None) -> None:
        token = TOKENS.image if seconds is None else TOKENS.video
        run = VisionRun((grid[0], grid[1] // 2, grid[2] // 2), seconds or 0.0)
        self.ids += [TOKENS.vision_bos] + [token] * run.tokens + [TOKENS.vision_eos]
        self.runs += [SequentialRun(1), run, SequentialRun(1)]
        (self.images if seconds is None else self.videos).append(grid)
        self.seconds += [] if seconds is None else [seconds]

    def video_with_sound(self, grid: tuple[int, int, int], seconds: float, frames: int) -> None:
        picture = VisionRun((grid[0], grid[1] // 2, grid[2] // 2), seconds)
        run = VideoWithAudioRun(picture, audio_tokens(frames))
        self.ids += [TOKENS.vision_bos, TOKENS.audio_bos]
        for track, start, stop in interleave(run, POSITIONS):
            self.ids += [TOKENS.video if track == "video" else TOKENS.audio] * (stop - start)
        self.ids += [TOKENS.audio_eos, TOKENS.vision_eos]
        self.runs += [SharedRun(2), run, SharedRun(2)]
        self.videos.append(grid)
        self.seconds.append(seconds)
        self.frames.append(frames)

    def check(self, *, sound_in_video: bool = False) -> None:
        expected, following = rope_index(
            np.array(self.ids),
            TOKENS,
            images=self.images,
            videos=self.videos,
            frames=self.frames,
            seconds=self.seconds,
            sound_in_video=sound_in_video,
        )
        positions, ours = token_positions(self.runs, POSITIONS)
        assert positions.dtype == np.int64
        np.testing.assert_array_equal(positions, expected)
        assert ours == following


def test_text_and_audio() -> None:
    layout = Layout()
    layout.text(5)
    layout.audio(401)
    layout.text(3)
    layout.check()


@pytest.mark.parametrize("sound_in_video", [False, True])
def test_random_prompts_equal_the_reference(sound_in_video: bool) -> None:
    rng = np.random.default_rng(int(sound_in_video))
    for _ in range(60):
        layout = Layout()
        layout.text(int(rng.integers(1, 9)))
        for _ in range(rng.integers(1, 5)):
            kind = rng.integers(3)
            height, width = (2 * rng.integers(1, 7, 2)).tolist()
            grid = (int(rng.integers(1, 8)), height, width)
            seconds = float(rng.choice([1.0, 0.5, 2 / 3, 0.36, 1.16, 2.0, 2.3, 2 / 29.97]))
            frames = int(rng.integers(3, 900))
            if kind == 0:
                layout.audio(frames)
            elif kind == 1:
                layout.picture((1, height, width))
            elif sound_in_video:
                layout.video_with_sound(grid, seconds, frames)
            else:
                layout.picture(grid, seconds)
            layout.text(int(rng.integers(0, 9)))
        layout.check(sound_in_video=sound_in_video)


def test_video_longer_than_its_audio() -> None:
    """The next run follows the last slice; decoding continues after the maximum of all."""
    layout = Layout()
    layout.text(2)
    layout.video_with_sound((8, 4, 4), 1.0, 620)
    layout.text(3)
    layout.check(sound_in_video=True)
    positions, following = token_positions(layout.runs, POSITIONS)
    assert following > positions[0, -1] + 1


def test_two_calls_equal_one() -> None:
    layout = Layout()
    layout.text(4)
    layout.audio(300)
    layout.picture((3, 6, 8), 1.0)
    layout.text(6)
    whole, following = token_positions(layout.runs, POSITIONS)
    for cut in range(len(layout.runs) + 1):
        first, place = token_positions(layout.runs[:cut], POSITIONS)
        second, end = token_positions(layout.runs[cut:], POSITIONS, place)
        np.testing.assert_array_equal(np.concatenate([first, second], axis=1), whole)
        assert end == following


def test_no_runs_give_no_positions() -> None:
    positions, following = token_positions([], POSITIONS, 17)
    assert positions.shape == (3, 0)
    assert following == 17
