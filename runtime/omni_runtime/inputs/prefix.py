"""Prompt prefixes: the longest common prefix of two prompts, and how to split a prompt.

Not a cache and not an encoder. The blocks of the audio encoder are independent. A prompt may
therefore be split between two blocks of a clip, and the blocks of a running recording stay valid
while it continues. Images and videos are never split.
"""

import numpy as np

from omni_runtime.inputs.mel_features import MelFeatures
from omni_runtime.inputs.pixels import Patches
from omni_runtime.inputs.prompt import MediaSlot, Prompt


def common_prefix(cached: Prompt, prompt: Prompt) -> int:
    """Return the length in tokens of the longest common prefix at which `split` may cut `prompt`.

    Media are compared by their features.
    """
    length = min(len(cached.ids), len(prompt.ids))
    same = cached.ids[:length] == prompt.ids[:length]
    same &= (cached.positions[:, :length] == prompt.positions[:, :length]).all(axis=0)
    count = length if same.all() else int(same.argmin())
    for index, slot in enumerate(prompt.media):
        if slot.rows[0] < count:
            other = cached.media[index] if index < len(cached.media) else None
            count = min(count, _first_difference(slot, other, count))
    return _split_point(prompt, count)


def stable_length(prompt: Prompt) -> int:
    """Return the number of tokens that cannot change while the recording at the end continues.

    The tokens of its last block, and all later ones, may change.
    """
    slot = prompt.media[-1] if prompt.media else None
    if slot is None or isinstance(slot.features, Patches):
        return len(prompt.ids)
    stable = slot.features.stable_blocks * slot.features.block_tokens
    end = slot.rows[stable] if stable < len(slot.rows) else slot.rows[-1] + 1
    return _split_point(prompt, int(end))


def split(prompt: Prompt, count: int) -> tuple[Prompt, Prompt]:
    """Return two prompts: the first `count` tokens, at least one, and the others.

    `count` must be a result of `common_prefix` or `stable_length`.
    """
    media = [_split_slot(slot, count) for slot in prompt.media]
    head = [first for first, _ in media if first is not None]
    tail = [second for _, second in media if second is not None]
    ids, positions = prompt.ids, prompt.positions
    following = int(positions[:, :count].max()) + 1
    return (
        Prompt(ids[:count], positions[:, :count], head, following),
        Prompt(ids[count:], positions[:, count:], tail, prompt.next_position),
    )


def _split_slot(slot: MediaSlot, count: int) -> tuple[MediaSlot | None, MediaSlot | None]:
    inside = int((slot.rows < count).sum())
    if inside == len(slot.rows):
        return slot, None
    moved = slot.rows[inside:] - count
    if inside == 0:
        return None, MediaSlot(slot.kind, moved, slot.features)
    assert isinstance(slot.features, MelFeatures)
    head, tail = slot.features.split(inside // slot.features.block_tokens)
    return MediaSlot(slot.kind, slot.rows[:inside], head), MediaSlot(slot.kind, moved, tail)


def _split_point(prompt: Prompt, count: int) -> int:
    """Return the largest length up to `count` that splits neither vision media nor audio blocks."""
    while True:
        before = count
        for slot in prompt.media:
            inside = int((slot.rows < count).sum())
            if 0 < inside < len(slot.rows):
                boundary = 0
                if isinstance(slot.features, MelFeatures):
                    boundary = inside - inside % slot.features.block_tokens
                count = int(slot.rows[boundary])
        if count == before:
            return count


def _first_difference(slot: MediaSlot, other: MediaSlot | None, count: int) -> int:
    """Return the first token of `slot` whose features differ in `other`, at most `count`."""
    start = int(slot.rows[0])
    if other is None or other.kind != slot.kind or other.rows[0] != start:
        return start
    features, other_features = slot.features, other.features
    if isinstance(features, Patches) or isinstance(other_features, Patches):
        same = (
            isinstance(features, Patches)
            and isinstance(other_features, Patches)
            and _equal(features, other_features)
        )
        return count if same else start
    blocks = features.common_blocks(other_features)
    return count if blocks == features.blocks else int(slot.rows[blocks * features.block_tokens])


def _equal(patches: Patches, other: Patches) -> bool:
    return patches.grid == other.grid and np.array_equal(patches.values, other.values)
