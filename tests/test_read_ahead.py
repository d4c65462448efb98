"""`read_ahead` of an incomplete message does not change the reply."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soxr

from conftest import Twin
from omni_runtime.conversation import Conversation
from omni_runtime.engine.encoders import AudioEncoder
from omni_runtime.engine.thinker import Thinker
from omni_runtime.errors import ContextFullError, MediaError, UsageError
from omni_runtime.events import AudioDelta, TextDelta, TurnDone
from omni_runtime.inputs import mel
from omni_runtime.inputs.audio_stream import AudioStream
from omni_runtime.inputs.messages import Audio, ContentPart, Image, Text
from omni_runtime.inputs.pixels import Patches
from omni_runtime.options import ReplyOptions, SpeechOptions

RATE = 44_100
SPOKEN = ReplyOptions(SpeechOptions(preset="fast", max_codes=40), max_tokens=12)
SILENT = ReplyOptions(None, max_tokens=12)


def recording(seconds: float, *, louder: bool = False) -> np.ndarray:
    """Return a tone in noise. A louder tone raises the floor of the clip."""
    time = np.arange(round(seconds * RATE)) / RATE
    tone = (0.01 * np.exp(time / 2) if louder else 0.1) * np.sin(2000 * time * (1 + time))
    noise = np.random.default_rng(0).normal(0, 0.003 if louder else 0.03, len(time))
    return (tone + noise).astype(np.float32)


def reply(
    conversation: Conversation, parts: Sequence[ContentPart], options: ReplyOptions = SPOKEN
) -> tuple[str, np.ndarray]:
    events = list(conversation.send(parts, options))
    text = "".join(event.text for event in events if isinstance(event, TextDelta))
    sound = [event.samples for event in events if isinstance(event, AudioDelta)]
    return text, np.concatenate([np.zeros(0, np.float32), *sound])


def alike(found: tuple[str, np.ndarray], wanted: tuple[str, np.ndarray]) -> bool:
    same = found[1].shape == wanted[1].shape
    return found[0] == wanted[0] and same and np.allclose(found[1], wanted[1], atol=1e-4)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Record the tokens of each prefill, and its encoded frames or patches."""
    seen: list[tuple[int, int]] = []
    prefill = Thinker.prefill_steps

    def spy(self: Thinker, cache, prompt):
        media = [slot.features for slot in prompt.media]
        sizes = [len(m.values) if isinstance(m, Patches) else m.shape[1] for m in media]
        seen.append((len(prompt.ids), sum(sizes)))
        return prefill(self, cache, prompt)

    monkeypatch.setattr(Thinker, "prefill_steps", spy)
    return seen


@pytest.mark.parametrize("louder", [False, True])
def test_a_growing_recording(twin: Twin, read: list[tuple[int, int]], louder: bool) -> None:
    sound = recording(5.3, louder=louder)
    asked: list[ContentPart] = [Text("Listen:"), Audio((sound, RATE))]
    Conversation(twin.model).read_ahead()  # the system prompt, which is read once for all
    read.clear()
    wanted = reply(Conversation(twin.model), asked)
    (whole,) = read
    read.clear()
    conversation = Conversation(twin.model)
    conversation.read_ahead()
    for seconds in (0.5, 1.4, 2.2, 2.9, 3.7, 4.6):
        heard = sound[: round(seconds * RATE)]
        conversation.read_ahead([Text("Listen:"), Audio((heard, RATE))], more=True)
    before, frames = len(read), sum(frames for _, frames in read)
    assert alike(reply(conversation, asked), wanted)
    (last,) = read[before:]
    if not louder:
        assert frames == 400, "two blocks of two seconds, each encoded once"
        assert last[1] == whole[1] - 400 and last[0] < whole[0] - 100
    else:
        assert frames + last[1] > whole[1], "blocks that turned out otherwise were read again"


@pytest.mark.parametrize("louder", [False, True])
def test_an_audio_stream(twin: Twin, read: list[tuple[int, int]], louder: bool) -> None:
    assert twin.model.config.audio is not None
    sound = recording(5.3, louder=louder)
    Conversation(twin.model).read_ahead()  # the system prompt, which is read once for all
    read.clear()
    wanted = reply(Conversation(twin.model), [Text("Listen:"), Audio((sound, RATE))])
    (whole,) = read
    read.clear()
    stream = AudioStream(twin.model.config.audio)
    asked: list[ContentPart] = [Text("Listen:"), Audio(stream)]
    conversation = Conversation(twin.model)
    for piece in np.array_split(sound, 9):
        stream.push(piece, RATE)
        conversation.read_ahead(asked, more=True)
    with pytest.raises(UsageError, match="still running"):
        next(conversation.send(asked, SILENT))
    conversation.read_ahead(asked, more=True)
    stream.finish()
    before = len(read)
    assert alike(reply(conversation, asked), wanted)
    (last,) = read[before:]
    if not louder:
        assert last[1] == whole[1] - 400 and last[0] < whole[0] - 100
    else:
        assert sum(frames for _, frames in read) > whole[1], "blocks of a new revision again"


def test_work_per_second_is_constant(twin: Twin, monkeypatch: pytest.MonkeyPatch) -> None:
    """Count samples, frames and blocks of a minute, pushed every 0.1 s and read every second."""
    assert twin.model.config.audio is not None
    work = dict.fromkeys(("samples", "frames", "blocks"), 0)

    def counted(owner: Any, name: str, key: str, size: Callable[..., int]) -> None:
        function = getattr(owner, name)

        def count(*args: Any, **options: Any) -> Any:
            work[key] += size(*args)
            return function(*args, **options)

        monkeypatch.setattr(owner, name, count)

    counted(soxr.ResampleStream, "resample_chunk", "samples", lambda _, chunk, *__: len(chunk))
    counted(mel, "log_power", "frames", lambda windows, **_: len(windows))
    counted(AudioEncoder, "_encode_blocks", "blocks", lambda _, __, frames: len(frames))
    sound = np.random.default_rng(0).normal(0, 0.1, 60 * RATE).astype(np.float32)
    sound[:4000] *= 3  # the loudest moment comes first: no block is revised
    stream = AudioStream(twin.model.config.audio, RATE)
    asked = [Audio(stream)]
    conversation = Conversation(twin.model)
    for index, piece in enumerate(np.split(sound, 600)):
        stream.push(piece)
        if index % 10 == 9:
            conversation.read_ahead(asked, more=True, speech=False)
    assert work == {"samples": 60 * RATE, "frames": 29 * 200, "blocks": 29}
    stream.finish()
    *_, done = conversation.send(asked, SILENT)
    assert isinstance(done, TurnDone)
    behind_the_end = 2
    assert work == {"samples": 60 * RATE, "frames": 6000 + behind_the_end, "blocks": 30}


@pytest.mark.parametrize("options", [SPOKEN, SILENT])
def test_another_message_is_sent(
    twin: Twin, tmp_path: Path, options: ReplyOptions, read: list[tuple[int, int]]
) -> None:
    from PIL import Image as Picture  # noqa: PLC0415

    Picture.new("RGB", (84, 84), "red").save(tmp_path / "red.png")
    Picture.new("RGB", (84, 84), "blue").save(tmp_path / "blue.png")
    red, blue = Image(tmp_path / "red.png"), Image(tmp_path / "blue.png")
    sound, other = Audio((recording(2.5), RATE)), Audio((recording(2.5)[::-1].copy(), RATE))
    sent: list[list[ContentPart]] = [
        [red, other],
        [red, Text("What?")],
        [blue, sound],
        [Text("Hello")],
    ]
    announced: list[list[ContentPart]] = [[red, sound], [red], [sound], [], *sent[2:]]
    for parts in sent:
        wanted = reply(Conversation(twin.model), parts, options)
        for early in announced:
            conversation = Conversation(twin.model)
            conversation.read_ahead(early, speech=options.speech is not None)
            read.clear()
            assert alike(reply(conversation, parts, options), wanted)
            if early is parts:
                assert read == [(1, 0)], "only for the logits"
            if early is announced[1] and parts[0] is red:
                assert all(size in {0, 250} for _, size in read), "no picture again"


def test_read_ahead_in_later_turns_and_undo(twin: Twin) -> None:
    """Other operations on the caches discard the read-ahead prefix."""
    plain, eager = Conversation(twin.model), Conversation(twin.model)
    for conversation in (plain, eager):
        reply(conversation, [Text("Hello")])
    used = eager.context_used
    eager.read_ahead([Audio((recording(2.6), RATE))], more=True)
    assert eager.context_used == used < eager._context.length
    asked = [Text("And then?")]
    wanted = reply(plain, asked)
    assert alike(reply(eager, asked), wanted) and eager.context_used == plain.context_used
    eager.read_ahead([Text("Never")])
    again = [list(talk.regenerate(SPOKEN))[-1] for talk in (eager, plain)]
    assert again[0].text == again[1].text  # type: ignore[union-attr]
    eager.read_ahead([Text("Never")])
    eager.undo()
    assert eager.context_used == used and len(eager.messages) == 3


def test_a_shorter_read_ahead(twin: Twin, read: list[tuple[int, int]]) -> None:
    sound = recording(5.3)
    wanted = reply(Conversation(twin.model), [Audio((sound, RATE))])
    conversation = Conversation(twin.model)
    for seconds in (4.6, 2.2):
        conversation.read_ahead([Audio((sound[: round(seconds * RATE)], RATE))], more=True)
        assert conversation.context_used == 0
    read.clear()
    assert alike(reply(conversation, [Audio((sound, RATE))]), wanted)
    assert read[0][1] == 530 - 200, "of the first block nothing again"


def test_a_turn_that_is_taken_back_keeps_its_prompt(
    twin: Twin, read: list[tuple[int, int]]
) -> None:
    """A question that goes on: what its beginning was read for is not read again."""
    sound = recording(5.3)
    wanted = reply(Conversation(twin.model), [Audio((sound, RATE))])
    conversation = Conversation(twin.model)
    events = conversation.send([Audio((sound[: 4 * RATE + RATE // 2], RATE))], SPOKEN)
    while not isinstance(next(events), TextDelta):
        pass
    events.close()
    conversation.undo(keep_prompt=True)
    assert conversation.turn_count == 0 and conversation.context_used == 0
    assert len(conversation.messages) == 1
    read.clear()
    assert alike(reply(conversation, [Audio((sound, RATE))]), wanted)
    assert read[0][1] == 530 - 400, "two blocks of two seconds are not encoded again"


def test_a_prefill_that_is_stopped_keeps_what_was_read_ahead(
    twin: Twin, read: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = recording(5.3)
    wanted = reply(Conversation(twin.model), [Audio((sound, RATE))])
    conversation = Conversation(twin.model)
    conversation.read_ahead([Audio((sound[: 3 * RATE], RATE))], more=True)

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(twin.model.talker, "append", stopped)
        with pytest.raises(KeyboardInterrupt):
            list(conversation.send([Audio((sound[: 4 * RATE], RATE))], SPOKEN))
    read.clear()
    assert alike(reply(conversation, [Audio((sound, RATE))]), wanted)
    assert 530 - 400 <= read[0][1] <= 530 - 200


def test_a_save_excludes_the_read_ahead_prefix(twin: Twin, tmp_path: Path) -> None:
    conversation = Conversation(twin.model)
    reply(conversation, [Text("Hello")])
    used = conversation.context_used
    conversation.read_ahead([Text("Half a")])
    conversation.save(tmp_path / "talk")
    assert Conversation.load(tmp_path / "talk", twin.model).context_used == used


def test_a_failed_read_ahead_changes_nothing(
    default_twin: Twin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversation = Conversation(default_twin.model, context=90)
    used = conversation.context_used
    with pytest.raises(ContextFullError):
        conversation.read_ahead([Text("word " * 80)])
    (tmp_path / "empty.wav").touch()
    with pytest.raises(MediaError):
        conversation.read_ahead([Audio(tmp_path / "empty.wav")])
    assert conversation._context.length == used and len(conversation.messages) == 1

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(default_twin.model.talker, "append", interrupted)
        with pytest.raises(KeyboardInterrupt):
            conversation.read_ahead()
    assert conversation._context.length == used
    fresh = Conversation(default_twin.model, context=90)
    assert alike(reply(conversation, [Text("Hi")]), reply(fresh, [Text("Hi")]))
