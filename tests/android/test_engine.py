"""The Kotlin engine equals the Python runtime: tokens, features, hidden states, codes, samples.

A light portion; `python -m tests.android.parity` compares at length.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from tests.android import golden, parity, runtime
from tests.android.engine import Engine, EngineError, Jvm

from omni_runtime.bundle.manifest import DIGEST_NAME, FILE_NAME, read_manifest, write_manifest
from omni_runtime.checksums import write_with_digest
from omni_runtime.golden import suite
from omni_runtime.inputs.media import load_audio
from omni_runtime.voice.turn_detector import TurnDetector, TurnEnded, TurnOptions, TurnStarted
from omni_runtime.voice.vad import FRAME, MODEL, VoiceActivity
from toolchain import unicode_classes

RECORDINGS = Path(__file__).parents[1] / "data"
GREEDY = {"temperature": 0.0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0}
SPEECH = {"voice": None, "preset": "fast", "sampling": None, "max_codes": None, "chunks": "fixed"}
OPTIONS = {"speech": SPEECH, "sampling": GREEDY, "max_tokens": 60, "seed": 0}


def recording(name: str) -> np.ndarray:
    return load_audio(RECORDINGS / f"{name}.flac", 16_000)


def silence(seconds: float) -> np.ndarray:
    noise = np.random.default_rng(0).normal(size=int(seconds * 16_000))
    return (noise * 1e-4).astype(np.float32)


def test_both_runtimes_give_the_same(jvm: Jvm, bundle: Path, tmp_path: Path) -> None:
    model, engine = runtime.open_model(bundle), jvm.load(bundle)
    suite.save(model, tmp_path / "vectors")
    assert list(golden.differences(engine, tmp_path / "vectors")) == []
    for found in (
        parity.strings(model, engine, 300),
        parity.pictures(model, engine, 4),
        parity.sounds(model, engine, 2)[0],
        parity.conversations(model, engine, 1),
    ):
        assert not found.failed and found.worst == 0, found
    engine.close()


def test_reading_a_recording_ahead(jvm: Jvm, trained: Path) -> None:
    """A live sound is prefilled block by block, and the reply is that of the whole sound."""
    model, engine = runtime.open_model(trained), jvm.load(trained)
    sound = recording("seven_plus_five")
    replies = []
    for talk in (runtime.Talk(model), engine.talk()):
        talk.ask("stream", rate=16_000)
        for start in range(0, len(sound), 8000):
            talk.ask("push", samples=sound[start : start + 8000])
            talk.ask("read_ahead", parts=[], live=True, more=True, speech=True)
        talk.ask("finish")
        replies.append(talk.ask("send", parts=[], live=True, options=OPTIONS))
    found = parity.Comparison()
    found.add("reply", *replies)
    assert not found.failed and found.worst == 0, found
    assert replies[0]["text"] == "Seven plus five is twelve." and replies[0]["cached_tokens"] > 40
    engine.close()


def test_sounds_padded_on_the_left(jvm: Jvm, make_twin, tmp_path: Path) -> None:
    """Whole clips, and a live one, whose samples after the last full hop are dropped."""
    bundle = shutil.copytree(make_twin("narrow").bundle, tmp_path / "left")
    manifest = read_manifest(bundle)
    audio = replace(manifest.model.audio, padding_side="left")
    write_manifest(replace(manifest, model=replace(manifest.model, audio=audio)), bundle)
    model, engine = runtime.open_model(bundle), jvm.load(bundle)
    found = parity.sounds(model, engine, 5)[0]
    assert not found.failed and found.worst == 0, found
    replies = []
    for talk in (runtime.Talk(model), engine.talk()):
        talk.ask("stream", rate=16_000)
        for piece in np.array_split(recording("seven_plus_five")[:-50], 7):
            talk.ask("push", samples=piece)
            talk.ask("read_ahead", parts=[], live=True, more=True, speech=True)
        talk.ask("finish")
        replies.append(talk.ask("send", parts=[], live=True, options=OPTIONS))
    found.add("reply", *replies)
    assert not found.failed and found.worst == 0, found
    engine.close()


def test_a_call(jvm: Jvm, trained: Path) -> None:
    """Spoken turns on a simulated clock, and a voice that cuts a reply to what was heard."""
    engine = jvm.load(trained)
    talk = engine.talk()
    talk.ask("listen", vad=str(MODEL), options=OPTIONS)
    turn = [silence(0.8), recording("seven_plus_five"), silence(4)]
    played = talk.ask("voice.hear", samples=np.concatenate(turn))
    events = talk.ask("voice.events")
    states = [event["state"] for event in events if "state" in event]
    assert states == ["hearing", "thinking", "speaking", "listening"]
    (figures,) = [event for event in events if "reply" in event]
    assert figures["reply"] == "Seven plus five is twelve."
    assert 0 < figures["cached_tokens"] < figures["prompt_tokens"], "prefilled during the voice"
    assert len(played) == sum(event.get("speech", 0) for event in events)

    talk.ask("voice.say", text="Count from one to ten.")
    cut = [silence(0.9), recording("seven_plus_five"), silence(3)]
    talk.ask("voice.hear", samples=np.concatenate(cut))
    (cut_reply,) = [event for event in talk.ask("voice.events") if "heard" in event]
    assert 0 < len(cut_reply["heard"]) < len(cut_reply["text"])
    assert ["assistant", cut_reply["heard"]] in talk.ask("messages"), "only what was heard is kept"
    engine.close()


def test_voice_activity(jvm: Jvm) -> None:
    sound = np.concatenate([silence(0.5), recording("ten"), silence(1)])
    sound = sound[: len(sound) // FRAME * FRAME]
    found = jvm.ask("voice_activity", vad=str(MODEL), samples=sound)
    activity, detector = VoiceActivity(), TurnDetector(TurnOptions())
    frames = sound.reshape(-1, FRAME)
    wanted = np.concatenate([activity.probabilities(frame) for frame in frames])
    np.testing.assert_array_equal(found["probabilities"], wanted)
    events = [event for one in wanted for event in detector.push(float(one))]
    (started,) = [event.frame for event in events if isinstance(event, TurnStarted)]
    (ended,) = [event.frame for event in events if isinstance(event, TurnEnded)]
    assert [found["turns"][0], found["turns"][-1]] == [
        f"Started(frame={started})",
        f"Ended(frame={ended})",
    ]


def test_stopping_at_any_moment(jvm: Jvm, trained: Path) -> None:
    """In the middle of a graph or between two: what was said is kept, and nothing else."""
    engine = jvm.load(trained)
    story = {"parts": [{"text": "Count from one to ten."}], "options": OPTIONS}
    follow = {"parts": [{"text": "What is seven plus five?"}], "options": OPTIONS}
    whole = engine.talk().ask("send", **story)
    kept: set[int] = set()
    for milliseconds in np.linspace(0, 300, 5):
        talk, again = engine.talk(), engine.talk()
        cut = talk.ask("send", stop_after=float(milliseconds), **story)
        kept.add(len(cut["tokens"]))
        assert cut["tokens"] == whole["tokens"][: len(cut["tokens"])]
        if cut["texts"]:  # the same cut, made at a known place
            at = {"event": "text", "count": len(cut["texts"])}
            same = again.ask("send", cancel_after=at, **story)
            assert same["tokens"] == cut["tokens"]
        found, wanted = (one.ask("send", **follow) for one in (talk, again))
        assert found["tokens"] == wanted["tokens"]
        # The last token of the cut reply was read by itself, or together with the follow-up. That
        # rounds otherwise, which can change a late code.
        assert found["codes"][:10] == wanted["codes"][:10]
        assert found["used"] == wanted["used"]
    assert len(kept) > 1
    engine.close()


def test_int8_cache(jvm: Jvm, trained: Path) -> None:
    """The cache takes a quarter of the memory, and answers stay those of the Python runtime."""
    model, engine = runtime.open_model(trained, kv_cache="int8"), jvm.load(trained, int8_cache=True)
    request = {"parts": [{"text": "What is seven plus five?"}], "options": OPTIONS}
    wanted = runtime.Talk(model).ask("send", **request)
    found = engine.talk().ask("send", **request)
    assert wanted["text"] == found["text"] and wanted["codes"] == found["codes"]
    assert wanted["cache_bytes"] == found["cache_bytes"]
    engine.close()


def test_unicode_classes_are_current() -> None:
    assert unicode_classes.KOTLIN.read_text("utf-8") == unicode_classes.kotlin()


def _changed(folder: Path, change: str) -> None:
    """Damage a copy of a bundle."""
    manifest = folder / FILE_NAME
    content = json.loads(manifest.read_text("utf-8"))
    if change == "changed":
        manifest.write_bytes(manifest.read_bytes() + b" ")
    elif change == "no digest":
        (folder / DIGEST_NAME).unlink()
    elif change == "cut":
        (folder / "graphs" / "thinker" / "model.onnx.data").write_bytes(b"short")
    elif change == "missing":
        (folder / "tokenizer.json").unlink()
    else:
        content.update({"newer": {"format": 99}, "unknown": {"colour": "red"}}[change])
        write_with_digest(manifest, json.dumps(content).encode())


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ("changed", "invalid_bundle"),
        ("no digest", "invalid_bundle"),
        ("cut", "invalid_bundle"),
        ("missing", "invalid_bundle"),
        ("newer", "newer_bundle"),
        ("unknown", "invalid_bundle"),
    ],
)
def test_damaged_bundles_are_refused(
    jvm: Jvm, make_twin, tmp_path: Path, change: str, code: str
) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(make_twin("narrow").bundle, folder)
    assert jvm.ask("parse", bundle=str(folder))
    _changed(folder, change)
    with pytest.raises(EngineError) as error:
        jvm.ask("parse", bundle=str(folder))
    assert error.value.code == code and "(" in error.value.message


@pytest.mark.parametrize(
    ("part", "code"),
    [
        ({"sound": {"samples": np.zeros(0, np.float32), "rate": 16000}}, "invalid_media"),
        ({"sound": {"samples": np.full(9, np.nan, np.float32), "rate": 16000}}, "invalid_media"),
        ({"picture": np.zeros((3, 900, 3), np.uint8)}, "invalid_media"),
        ({"text": "word " * 9000}, "context_full"),
    ],
)
def test_a_failed_turn_leaves_no_trace(jvm: Jvm, trained: Path, part, code: str) -> None:
    engine: Engine = jvm.load(trained)
    talk = engine.talk()
    before = talk.ask("messages")
    assert talk.ask("send", parts=[part], options=OPTIONS)["error"] == code
    assert talk.ask("messages") == before
    request = {
        "parts": [{"text": "What is seven plus five?"}],
        "options": {**OPTIONS, "speech": None},
    }
    assert talk.ask("send", **request)["text"] == "Seven plus five is twelve."
    engine.close()
