"""Prompt prefixes: the longest common prefix of two prompts, and how to split a prompt.

Not a cache and not an encoder. The one idea: the audio encoder's blocks are independent, so a
prompt may be split between two blocks of a clip, and blocks of a running recording stay valid when
it goes on. Pictures and videos are never split.
"""

import numpy as np

from omni_runtime.inputs.mel_features import MelFeatures
from omni_runtime.inputs.pixels import Patches
from omni_runtime.inputs.prompt import MediaSlot, Prompt


def common_prefix(read: Prompt, wanted: Prompt) -> int:
    """Return how many tokens both begin with, media included, where `split` may cut `wanted`."""
    length = min(len(read.ids), len(wanted.ids))
    same = read.ids[:length] == wanted.ids[:length]
    same &= (read.positions[:, :length] == wanted.positions[:, :length]).all(axis=0)
    count = length if same.all() else int(same.argmin())
    for index, slot in enumerate(wanted.media):
        if slot.rows[0] < count:
            other = read.media[index] if index < len(read.media) else None
            count = min(count, _common(slot, other, count))
    return _allowed(wanted, count)


def stable_length(prompt: Prompt) -> int:
    """Return how many tokens stay the same if the recording at the end of the message goes on.

    Tokens of its last block, and all that follow, may change.
    """
    slot = prompt.media[-1] if prompt.media else None
    if slot is None or isinstance(slot.features, Patches):
        return len(prompt.ids)
    stable = slot.features.stable_blocks * slot.features.block_tokens
    end = slot.rows[stable] if stable < len(slot.rows) else slot.rows[-1] + 1
    return _allowed(prompt, int(end))


def split(prompt: Prompt, count: int) -> tuple[Prompt, Prompt]:
    """Return the first `count` tokens, at least one, and the others.

    `count` must be a result of `common_prefix` or `stable_length`.
    """
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
    assert isinstance(slot.features, MelFeatures)
    head, tail = slot.features.split(inside // slot.features.block_tokens)
    return MediaSlot(slot.kind, slot.rows[:inside], head), MediaSlot(slot.kind, moved, tail)


def _allowed(prompt: Prompt, count: int) -> int:
    """Return the last place up to `count` that splits no picture and no block of audio."""
    while True:
        before = count
        for slot in prompt.media:
            inside = int((slot.rows < count).sum())
            if 0 < inside < len(slot.rows):
                whole = 0
                if isinstance(slot.features, MelFeatures):
                    whole = inside - inside % slot.features.block_tokens
                count = int(slot.rows[whole])
        if count == before:
            return count


def _common(slot: MediaSlot, other: MediaSlot | None, count: int) -> int:
    """Return the first token that `other` fills otherwise; `count` if there is none before it."""
    start = int(slot.rows[0])
    if other is None or other.kind != slot.kind or other.rows[0] != start:
        return start
    ours, theirs = slot.features, other.features
    if isinstance(ours, Patches) or isinstance(theirs, Patches):
        same = isinstance(ours, Patches) and isinstance(theirs, Patches) and _equal(ours, theirs)
        return count if same else start
    blocks = ours.common_blocks(theirs)
    return count if blocks == ours.blocks else int(slot.rows[blocks * ours.block_tokens])


def _equal(ours: Patches, theirs: Patches) -> bool:
    return ours.grid == theirs.grid and np.array_equal(ours.values, theirs.values)
