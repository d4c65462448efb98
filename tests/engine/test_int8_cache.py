"""The int8 KV cache: close to float32, a quarter of the size, at any position."""

import shutil
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest

from conftest import Twin, relative
from omni_export import own_replies
from omni_runtime.bundle.manifest import read_manifest, write_manifest
from omni_runtime.conversation import Conversation
from omni_runtime.engine.kv_cache import KVCache
from omni_runtime.engine.session import SessionOptions
from omni_runtime.engine.thinker import Thinker
from omni_runtime.errors import OmniError, UsageError
from omni_runtime.events import TurnDone
from omni_runtime.memory import DECODERS, Footprint
from omni_runtime.model import Model
from omni_runtime.options import ReplyOptions, SpeechOptions

ROWS = 60


def int8_model(twin: Twin, *, native: bool = True) -> Model:
    return Model(twin.bundle, SessionOptions(threads=1, native=native, kv_cache="int8"))


def read(thinker: Thinker, cache: KVCache, first: int = 0) -> np.ndarray:
    """Return logits after random rows, in two pieces and one row, from position `first`."""
    rows = np.random.default_rng(5).standard_normal((ROWS, thinker.config.decoder.hidden_size))
    rows = (rows * np.abs(thinker.embed(np.arange(50))).mean()).astype(np.float32)
    where = np.tile(np.arange(first, first + ROWS), (3, 1))
    for some in (slice(0, 37), slice(37, ROWS - 1), slice(ROWS - 1, ROWS)):
        logits = thinker._decoder.extend(cache, rows[some], where[:, some])["logits"]
    return logits


@pytest.mark.parametrize("native", [True, False])
def test_int8_is_close_to_float32(twin: Twin, native: bool) -> None:
    exact, near = twin.model.thinker, int8_model(twin, native=native).thinker
    caches = exact.new_cache(), near.new_cache()
    assert relative(read(near, caches[1]), read(exact, caches[0])) < 0.03
    assert {state.dtype for state in caches[1].states} == {np.dtype(np.int8)}
    assert caches[1].nbytes < 0.6 * caches[0].nbytes  # cos and sin stay: much of a tiny model's
    assert max(int(np.abs(state).max()) for state in caches[1].states) > 40  # uses its range


def test_a_spoken_reply(default_twin: Twin) -> None:
    talk = Conversation(int8_model(default_twin))
    for question in ("Hello", "And then?"):
        brief = ReplyOptions(SpeechOptions(preset="fast", max_codes=30), max_tokens=8)
        *_, done = talk.send(question, brief)
        assert isinstance(done, TurnDone) and done.timings.speech
    assert talk._context.talker is not None
    assert (talk._context.thinker.dtype, talk._context.talker.dtype) == ("int8", "int8")


def test_calibration_of_keys_does_not_depend_on_position(default_twin: Twin) -> None:
    """Otherwise a channel that is small during calibration would be clipped in a long context."""
    thinker = default_twin.model.thinker
    near, far = thinker.new_cache(), thinker.new_cache()
    read(thinker, near), read(thinker, far, first=20_000)
    assert not np.allclose(near.states[0], far.states[0], atol=1e-3)
    for here, there in zip(own_replies.channels(near), own_replies.channels(far), strict=True):
        assert np.all(here > 0) and np.allclose(here, there, rtol=0.02)


def test_both_graphs_share_their_weights(default_twin: Twin) -> None:
    for name in DECODERS:
        entry = default_twin.model.bundle.manifest.graphs[name]
        assert entry.int8_cache is not None
        models = [
            onnx.load(default_twin.bundle / file, load_external_data=False)
            for file in (entry.file, entry.int8_cache)
        ]
        places = [
            {t.name: {e.key: e.value for e in t.external_data} for t in m.graph.initializer}
            for m in models
        ]
        shared = {name: where for name, where in places[0].items() if where}
        assert shared and shared.items() <= places[1].items()
        onnx.checker.check_model(default_twin.bundle / entry.int8_cache)


def test_save_fork_and_load(default_twin: Twin, tmp_path: Path) -> None:
    thinker = int8_model(default_twin).thinker
    cache = thinker.new_cache()
    read(thinker, cache)
    twin = cache.fork()
    cache.save(tmp_path / "cache.npz")
    loaded = KVCache.load(tmp_path / "cache.npz", cache.config, "int8")
    found = [thinker.step(one, 7, ROWS).logits for one in (cache, twin, loaded)]
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[0], found[2])
    with pytest.raises(OmniError, match="a cache of int8, not of float32") as told:
        KVCache.load(tmp_path / "cache.npz", cache.config)
    assert (told.value.code, told.value.details) == ("kv_cache_type", {"dtype": "int8"})


def test_a_bundle_without_int8_graphs(default_twin: Twin, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(default_twin.bundle, folder)
    (folder / "manifest.json").unlink()
    (folder / "manifest.sha256").unlink()
    manifest = read_manifest(default_twin.bundle)
    graphs = {
        name: msgspec.structs.replace(entry, int8_cache=None)
        for name, entry in manifest.graphs.items()
    }
    reason = "a reply may need 9 GB of memory, 1 GB were free"
    write_manifest(msgspec.structs.replace(manifest, graphs=graphs, not_measured=reason), folder)
    model = Model(folder, SessionOptions(kv_cache="int8"))
    with pytest.raises(UsageError, match="no thinker with an int8 KV cache: a reply may need 9 GB"):
        Conversation(model)


def test_memory_counts_a_quarter(default_twin: Twin) -> None:
    manifest = default_twin.model.bundle.manifest
    exact, near = Footprint.of(manifest), Footprint.of(manifest, cache="int8")
    assert near.overhead == exact.overhead
    decoder = manifest.model.thinker.decoder
    states = 2 * decoder.layers * decoder.kv_heads * decoder.head_dim
    assert exact.context(10, speech=False) - near.context(10, speech=False) == 10 * 3 * states
