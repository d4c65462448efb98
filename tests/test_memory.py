"""Memory budgets: estimates, released graphs, and unchanged replies."""

import io
import weakref
from collections.abc import Sequence
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from PIL import Image as Picture

from conftest import Twin
from omni_runtime.bundle.manifest import Measured
from omni_runtime.conversation import Conversation
from omni_runtime.engine.kernels import KernelLibrary
from omni_runtime.engine.kv_cache import FIRST_CAPACITY
from omni_runtime.engine.session import SessionOptions
from omni_runtime.errors import ContextFullError, UsageError
from omni_runtime.events import AudioDelta, TurnDone
from omni_runtime.inputs.messages import Audio, ContentPart, Image, Text
from omni_runtime.memory import ENCODERS, MIN_CONTEXT, Budget, Footprint, format_limit
from omni_runtime.model import Model
from omni_runtime.options import ReplyOptions, SpeechOptions

MIB = 2**20
BRIEF = ReplyOptions(SpeechOptions(preset="fast", max_codes=30), max_tokens=8)
WRITTEN = ReplyOptions(speech=None, max_tokens=4)


def picture() -> list[ContentPart]:
    pixels = np.random.default_rng(1).integers(0, 255, (60, 80, 3), np.uint8)
    file = io.BytesIO()
    Picture.fromarray(pixels).save(file, "png")
    return [Image(file.getvalue()), Text("What is this?")]


def sound() -> list[ContentPart]:
    noise = np.random.default_rng(2).normal(0, 0.1, 16000).astype(np.float32)
    return [Audio((noise, 16000))]


def model_within(twin: Twin, limit: int | None) -> Model:
    return Model(twin.bundle, SessionOptions(threads=1, memory=limit))


def said(talk: Conversation, parts: Sequence[ContentPart] | str) -> tuple[str, np.ndarray]:
    """Return the text and samples of a reply."""
    *events, done = talk.send(parts, BRIEF)
    assert isinstance(done, TurnDone)
    pieces = [event.samples for event in events if isinstance(event, AudioDelta)]
    return done.text, np.concatenate([np.zeros(0, np.float32), *pieces])


def footprint_of(twin: Twin) -> Footprint:
    """Estimates: 10 MiB for overhead and vocoder, 30 for the vision encoder, 20 for others."""
    graphs = dict.fromkeys(twin.model.bundle.manifest.graphs, 20 * MIB)
    graphs |= {"vocoder": 10 * MIB, "vision_encoder": 30 * MIB}
    return Footprint(twin.model.config, graphs, overhead=10 * MIB)


def test_a_released_encoder_is_reloaded(default_twin: Twin) -> None:
    full = default_twin.model.budget.footprint
    model = model_within(default_twin, full.needed(MIN_CONTEXT, speech=True, encoders=ENCODERS))
    free, bound = Conversation(default_twin.model), Conversation(model)
    assert bound.context_limit == MIN_CONTEXT
    eyes: weakref.ref[object] | None = None
    for parts, there in (
        (picture(), "vision_encoder"),
        (sound(), "audio_encoder"),
        (picture(), "vision_encoder"),
    ):
        wanted, found = said(free, parts), said(bound, parts)
        assert found[0] == wanted[0]
        assert np.array_equal(found[1], wanted[1])
        assert [name for name in model.budget.open if name in ENCODERS] == [there]
        if there == "audio_encoder":
            assert eyes is not None and eyes() is None  # not only forgotten: gone
        else:
            eyes = weakref.ref(model.vision_encoder)


def test_speech_graphs_are_released_for_encoders_and_reloaded(default_twin: Twin) -> None:
    full = default_twin.model.budget.footprint
    least = full.least(MIN_CONTEXT, speech=True, encoders=ENCODERS)
    assert least < full.needed(MIN_CONTEXT, speech=True, encoders=ENCODERS)
    model = model_within(default_twin, least)
    free, bound = Conversation(default_twin.model), Conversation(model)
    voice: list[weakref.ref[object]] = []
    for parts in (picture(), picture(), sound()):
        wanted, found = said(free, parts), said(bound, parts)
        assert found[0] == wanted[0]
        assert np.array_equal(found[1], wanted[1])
        assert not voice or any(part() is None for part in voice)
        voice = [weakref.ref(part) for part in (model.talker, model._dit_graph, model.vocoder)]


@pytest.mark.parametrize("quick", [False, True])
def test_without_a_budget_only_fast_loading_graphs_are_released(
    default_twin: Twin, monkeypatch: pytest.MonkeyPatch, quick: bool
) -> None:
    monkeypatch.setattr(KernelLibrary, "reads", lambda native, graph: quick)
    model = model_within(default_twin, None)

    def there() -> set[str]:
        return {name for name in model.budget.open if name in ENCODERS}

    talk = Conversation(model)
    assert talk.context_limit == model.config.thinker.decoder.max_context
    eyes = weakref.ref(model.vision_encoder)
    assert model.vision_encoder is eyes()
    _ = model.audio_encoder
    assert there() == ({"audio_encoder"} if quick else set(ENCODERS))
    assert (eyes() is None) == quick
    assert said(talk, picture())[1].size
    assert there() == (set() if quick else set(ENCODERS))  # what speaks came last
    assert said(talk, picture())[1].size
    assert there() == ({"vision_encoder"} if quick else set(ENCODERS))
    assert {"talker", "dit", "vocoder"} < set(model.budget.open)


def test_as_little_as_possible_is_released(default_twin: Twin) -> None:
    footprint = footprint_of(default_twin)
    context = footprint.context(MIN_CONTEXT, speech=True)
    for limit, opened, gone in (
        (130, ("vision_encoder", "audio_encoder"), []),
        (129, ("vision_encoder", "audio_encoder"), ["vision_encoder"]),
        (110, ("audio_encoder", "vision_encoder"), ["audio_encoder"]),
        (109, ("audio_encoder", "vision_encoder"), ["audio_encoder", "vision_encoder"]),
    ):
        budget = Budget(footprint, limit * MIB + context)
        budget.open = ["thinker", *opened]
        assert budget.displaced_by("talker") == gone, limit
        assert budget.open == ["thinker", *opened]
    voice = ["talker", "dit", "vocoder"]
    for limit, count in ((100, 0), (99, 1), (80, 1), (79, 2), (60, 2), (59, 3), (50, 3)):
        budget = Budget(footprint, limit * MIB + context)
        budget.open = ["thinker", *voice]
        assert budget.displaced_by("audio_encoder") == voice[:count], limit
        budget.open = ["thinker", *voice[count:]]  # what is gone has left its cache behind
        assert budget.displaced_by("audio_encoder") == [], limit
    budget = Budget(footprint, 59 * MIB + context)
    budget.open = ["thinker", "talker", "dit", "vocoder"]
    with pytest.raises(
        UsageError, match=r"the vision encoder does not fit: about .*\(raise the memory"
    ):
        budget.displaced_by("vision_encoder")


def test_the_context_fits_the_remaining_memory(default_twin: Twin) -> None:
    footprint = footprint_of(default_twin)
    everything = footprint.needed(0, speech=True, encoders=ENCODERS)
    for tokens in (2000, 5000):
        limit = everything + footprint.context(tokens, speech=True)
        assert Budget(footprint, limit).lease(None).tokens == tokens
    tight = footprint.needed(MIN_CONTEXT, speech=False)
    assert Budget(footprint, tight).lease(None).tokens == MIN_CONTEXT
    assert Budget(footprint, tight).lease(700).tokens == 700
    with pytest.raises(UsageError, match="a context of 1025 tokens does not fit"):
        Budget(footprint, tight).lease(MIN_CONTEXT + 1)
    with pytest.raises(UsageError, match="a shorter context, reply without speech"):
        Budget(footprint, tight - 1).lease(None)


def test_a_long_context_leaves_less_for_the_encoders(default_twin: Twin) -> None:
    footprint = footprint_of(default_twin)
    budget = Budget(footprint, footprint.needed(MIN_CONTEXT, speech=False, encoders=ENCODERS))
    budget.open = ["thinker"]
    assert budget.displaced_by("vision_encoder") == []
    lease = budget.lease(2 * MIN_CONTEXT)  # held until it is dropped
    with pytest.raises(UsageError, match="vision encoder"):
        budget.displaced_by("vision_encoder")
    lease.release()
    assert budget.displaced_by("vision_encoder") == []


def test_a_budget_that_is_too_small_loads_nothing(
    default_twin: Twin, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_within(default_twin, 50 * MIB)
    monkeypatch.setattr(model, "graph", lambda graph: pytest.fail(f"{graph} was opened"))
    with pytest.raises(UsageError, match=r"about \d+M of memory are needed, the budget is 50M"):
        Conversation(model)


def test_a_turn_without_memory_changes_nothing(default_twin: Twin) -> None:
    """The turn fails before its first event, and later replies are unchanged."""
    full = default_twin.model.budget.footprint
    *_, wanted = Conversation(default_twin.model).send("Hello", WRITTEN)
    assert isinstance(wanted, TurnDone)
    turns: list[tuple[int, Sequence[ContentPart] | str, ReplyOptions, str]] = [
        (full.needed(MIN_CONTEXT, speech=False), picture(), WRITTEN, "the vision encoder does"),
        (full.needed(MIN_CONTEXT, speech=True) - 1, "Hello", BRIEF, "speech does"),
    ]
    for limit, parts, options, words in turns:
        talk = Conversation(model_within(default_twin, limit))
        with pytest.raises(UsageError, match=words):
            next(talk.send(parts, options))
        assert len(talk.messages) == 1 and talk.context_used == 0
        *_, found = talk.send("Hello", WRITTEN)
        assert isinstance(found, TurnDone) and found.text == wanted.text


def test_a_saved_conversation_is_counted_in_the_budget(default_twin: Twin, tmp_path) -> None:
    talk = Conversation(default_twin.model)
    list(talk.send("count " * MIN_CONTEXT, WRITTEN))
    talk.save(tmp_path / "talk")
    full = default_twin.model.budget.footprint
    tight = model_within(default_twin, full.needed(MIN_CONTEXT, speech=False))
    with pytest.raises(ContextFullError, match="room for 1024"):
        Conversation.load(tmp_path / "talk", tight)
    roomy = model_within(default_twin, full.needed(2 * talk.context_used, speech=True))
    loaded = Conversation.load(tmp_path / "talk", roomy)
    assert loaded.context_used == talk.context_used < loaded.context_limit


def test_the_measured_peak_is_used(default_twin: Twin) -> None:
    manifest = default_twin.model.bundle.manifest
    measured = Measured(
        machine="", onnxruntime="", threads=1, peak_memory=3 * 2**30, load=0.0, first_text=0.0,
        first_audio=None, realtime_factor=None,
    )  # fmt: skip
    found = Footprint.of(msgspec.structs.replace(manifest, measured=measured))
    assert found.needed(FIRST_CAPACITY, speech=True) == 3 * 2**30
    for encoder in ENCODERS:
        added = found.needed(FIRST_CAPACITY, speech=True, encoders=[encoder]) - 3 * 2**30
        assert added == found.graphs[encoder] > manifest.graphs[encoder].bytes


def test_context_bytes_equal_those_of_the_kv_caches(twin: Twin) -> None:
    talk = Conversation(twin.model)
    footprint = twin.model.budget.footprint
    assert footprint.context(FIRST_CAPACITY, speech=False) == talk.cache_bytes
    list(talk.send("Hello", replace(BRIEF, max_tokens=2)))
    assert footprint.context(FIRST_CAPACITY, speech=True) == talk.cache_bytes


def test_sizes_are_rounded_up() -> None:
    assert format_limit(140 * MIB) == "140M" and format_limit(140 * MIB + 1) == "141M"
    assert format_limit(4 * 2**30) == "4.0G" and format_limit(4 * 2**30 + 1) == "4.1G"
