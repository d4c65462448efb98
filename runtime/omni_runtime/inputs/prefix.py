"""Beginnings of prompts: what two of them share, and how one is cut in two.

Not a cache and not an encoder. The one idea: sound is encoded in blocks that know nothing of each
other, so a prompt may be cut between two blocks of a recording, and what was read of a recording
that is still going on remains true when it has ended. Pictures and videos are never cut.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from omni_runtime.inputs.mel import audio_tokens
from omni_runtime.inputs.pixels import Patches
from omni_runtime.inputs.prompt import MediaSlot, Prompt

FRAMES_A_TOKEN = 4
UNSURE_FRAMES = 5
"""At the end of a recording that goes on: 50 ms, which resampling and transform still change."""
TOLERANCE = 1e-4
"""Of log-mel values: products of another size round differently; another sound differs by more."""


def shared(read: Prompt, wanted: Prompt, block_frames: int) -> int:
    """How many tokens both begin with, media and all, where `split` may cut."""
    length = min(len(read.ids), len(wanted.ids))
    same = read.ids[:length] == wanted.ids[:length]
    same &= (read.positions[:, :length] == wanted.positions[:, :length]).all(axis=0)
    count = length if same.all() else int(same.argmin())
    for index, slot in enumerate(wanted.media):
        if slot.rows[0] < count:
            other = read.media[index] if index < len(read.media) else None
            count = min(count, _agreed(slot, other, block_frames, count))
    return _allowed(wanted, count, block_frames)


def certain(prompt: Prompt, block_frames: int) -> int:
    """How many tokens stay as they are if the recording at the end of the message goes on.

    Its last block may still grow, and its last `UNSURE_FRAMES` still change.
    """
    slot = prompt.media[-1] if prompt.media else None
    if slot is None or isinstance(slot.features, Patches):
        return len(prompt.ids)
    blocks = max(0, slot.features.shape[1] - UNSURE_FRAMES) // block_frames
    whole = blocks * audio_tokens(block_frames)
    end = slot.rows[whole] if whole < len(slot.rows) else slot.rows[-1] + 1
    return _allowed(prompt, int(end), block_frames)


def split(prompt: Prompt, count: int) -> tuple[Prompt, Prompt]:
    """The first `count` tokens, at least one, and the others. `shared` and `certain` say where."""
    media = [_parted(slot, count) for slot in prompt.media]
    head = [first for first, _ in media if first is not None]
    tail = [second for _, second in media if second is not None]
    ids, positions = prompt.ids, prompt.positions
    following = int(positions[:, :count].max()) + 1
    return (
        Prompt(ids[:count], positions[:, :count], head, following),
        Prompt(ids[count:], positions[:, count:], tail, prompt.next_position),
    )


def _parted(slot: MediaSlot, count: int) -> tuple[MediaSlot | None, MediaSlot | None]:
    inside = int((slot.rows < count).sum())
    if inside == len(slot.rows):
        return slot, None
    moved = slot.rows[inside:] - count
    if inside == 0:
        return None, MediaSlot(slot.kind, moved, slot.features)
    assert not isinstance(slot.features, Patches)
    frames = inside * FRAMES_A_TOKEN
    return (
        MediaSlot(slot.kind, slot.rows[:inside], slot.features[:, :frames]),
        MediaSlot(slot.kind, moved, slot.features[:, frames:]),
    )


def _allowed(prompt: Prompt, count: int, block_frames: int) -> int:
    """The last place up to `count` where no picture and no block of sound is cut."""
    tokens = audio_tokens(block_frames)
    while True:
        before = count
        for slot in prompt.media:
            inside = int((slot.rows < count).sum())
            if 0 < inside < len(slot.rows):
                whole = 0 if isinstance(slot.features, Patches) else inside // tokens * tokens
                count = int(slot.rows[whole])
        if count == before:
            return count


def _agreed(slot: MediaSlot, other: MediaSlot | None, block_frames: int, count: int) -> int:
    """Up to which token two media put the same rows into a prompt; `count` if they are the same."""
    start = int(slot.rows[0])
    if other is None or other.kind != slot.kind or other.rows[0] != start:
        return start
    ours, theirs = slot.features, other.features
    if isinstance(ours, Patches):
        return count if isinstance(theirs, Patches) and _equal(ours, theirs) else start
    if isinstance(theirs, Patches):
        return start
    tokens = audio_tokens(block_frames)
    pairs = zip(_blocks(ours, block_frames), _blocks(theirs, block_frames), strict=False)
    for index, (a, b) in enumerate(pairs):
        if a.shape != b.shape or not np.allclose(a, b, rtol=0, atol=TOLERANCE):
            return int(slot.rows[index * tokens])
    both = min(len(slot.rows), len(other.rows))
    return count if both == len(slot.rows) else int(slot.rows[both])


def _equal(ours: Patches, theirs: Patches) -> bool:
    return ours.grid == theirs.grid and np.array_equal(ours.values, theirs.values)


def _blocks(mel: NDArray[np.float32], frames: int) -> Iterator[NDArray[np.float32]]:
    for start in range(0, mel.shape[1], frames):
        yield mel[:, start : start + frames]
