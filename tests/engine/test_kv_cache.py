"""KVCache: append in any split, truncate, fork, grow, save."""

from pathlib import Path

import numpy as np
import pytest

from conftest import Twin
from omni_runtime.engine.kv_cache import FIRST_CAPACITY, KVCache
from omni_runtime.engine.thinker import Thinker
from omni_runtime.errors import ContextFullError, OmniError


def feed(thinker: Thinker, cache: KVCache, ids: list[int]) -> np.ndarray:
    logits = np.zeros(0)
    for token in ids:
        logits = thinker.step(cache, token, cache.length).logits
    return logits


def test_truncate_is_exact(default_twin: Twin) -> None:
    thinker, cache = default_twin.model.thinker, default_twin.model.thinker.new_cache()
    feed(thinker, cache, [5, 6, 7])
    wanted = feed(thinker, cache.fork(), [8, 9])
    feed(thinker, cache, [10, 11, 12])
    cache.truncate(3)
    assert np.array_equal(feed(thinker, cache, [8, 9]), wanted)


def test_a_fork_is_independent(default_twin: Twin) -> None:
    thinker, cache = default_twin.model.thinker, default_twin.model.thinker.new_cache()
    feed(thinker, cache, [5, 6])
    twin = cache.fork()
    feed(thinker, twin, [1, 2, 3])
    assert (cache.length, twin.length) == (2, 5)
    wanted = feed_last(thinker, [5, 6, 1, 2, 3])
    assert np.array_equal(feed(thinker, cache, [1, 2, 3]), wanted)


def feed_last(thinker: Thinker, ids: list[int]) -> np.ndarray:
    return feed(thinker, thinker.new_cache(), ids)


def test_a_new_cache_never_reuses_bindings(default_twin: Twin) -> None:
    """A new cache may have the address of a deleted one, but must not use its buffers."""
    thinker = default_twin.model.thinker
    wanted = feed_last(thinker, [3, 4, 5])
    for _ in range(5):
        assert np.array_equal(feed_last(thinker, [3, 4, 5]), wanted)


def test_growing_keeps_contents(default_twin: Twin) -> None:
    thinker, cache = default_twin.model.thinker, default_twin.model.thinker.new_cache()
    rows = thinker.embed(np.arange(FIRST_CAPACITY + 40) % 300)
    where = np.tile(np.arange(len(rows)), (3, 1))
    whole = thinker._decoder.extend(cache, rows, where)
    assert cache.capacity == 2 * FIRST_CAPACITY
    other = thinker.new_cache()
    for start in range(0, len(rows), 100):
        part = thinker._decoder.extend(
            other, rows[start : start + 100], where[:, start : start + 100]
        )
    assert np.allclose(part["logits"], whole["logits"], atol=1e-4)


def test_a_full_cache_reports_its_length(default_twin: Twin) -> None:
    thinker = default_twin.model.thinker
    cache = thinker.new_cache(limit=4)
    feed(thinker, cache, [1, 2, 3])
    with pytest.raises(ContextFullError, match="3 of 4 tokens are in use and 2 more"):
        thinker._decoder.extend(cache, thinker.embed(np.array([1, 2])), np.zeros((3, 2), np.int64))
    assert cache.length == 3


def test_save_and_load(default_twin: Twin, tmp_path: Path) -> None:
    thinker, cache = default_twin.model.thinker, default_twin.model.thinker.new_cache()
    feed(thinker, cache, [5, 6, 7])
    cache.save(tmp_path / "cache.npz")
    loaded = KVCache.load(tmp_path / "cache.npz", cache.config)
    assert np.array_equal(feed(thinker, loaded, [8]), feed(thinker, cache, [8]))
    (tmp_path / "cache.npz").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(OmniError, match="holds no saved cache"):
        KVCache.load(tmp_path / "cache.npz", cache.config)
    with pytest.raises(OmniError, match="another model"):
        cache.save(tmp_path / "other.npz")
        KVCache.load(tmp_path / "other.npz", default_twin.model.talker.config.decoder)
