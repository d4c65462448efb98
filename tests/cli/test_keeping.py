"""Conversations: regenerate, save and load, and interruption at any line."""

import errno
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import numpy as np
import pytest

from conftest import Twin
from omni_runtime.conversation import Conversation
from omni_runtime.engine.code2wav import Code2Wav
from omni_runtime.engine.sampling import Sampling
from omni_runtime.engine.session import SessionOptions
from omni_runtime.errors import ContextFullError, OmniError, UsageError
from omni_runtime.events import Event, TextDelta, TurnDone
from omni_runtime.inputs.prompt import Image, Message, Text
from omni_runtime.model import Model
from omni_runtime.options import ReplyOptions, SpeechOptions

FAST = SpeechOptions(preset="fast", max_codes=14)
WARM = Sampling(temperature=1.0)
SPOKEN, MUTE = ReplyOptions(FAST, WARM, 5), ReplyOptions(None, WARM, 5)


@pytest.fixture(scope="module")
def model(make_twin: Callable[[str], Twin]) -> Model:
    return make_twin("default").model


CODES: list[int] = []


@pytest.fixture(autouse=True)
def record_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Record the codes of replies; the waves of an untrained vocoder hardly differ."""
    push = Code2Wav.push

    def note(self: Code2Wav, code: int) -> np.ndarray | None:
        CODES.append(code)
        return push(self, code)

    monkeypatch.setattr(Code2Wav, "push", note)


def say(events: Iterator[Event]) -> tuple[str, list[int]]:
    CODES.clear()
    events = list(events)
    assert isinstance(events[-1], TurnDone)
    return "".join(event.text for event in events if isinstance(event, TextDelta)), CODES[:]


def whole(conversation: Conversation) -> None:
    """Assert the invariants of a conversation between calls."""
    context = conversation._context
    read = context.talker.length if context.talker else 0
    assert context.thinker.length == context.length - len(context.pending)
    assert read + len(context.unread) == context.thinker.length
    ahead = 0 if conversation._ahead is None else len(conversation._ahead.ids)
    assert context.length == conversation.context_used + ahead
    assert len(context.pending) <= 1
    roles = [message.role for message in conversation.messages]
    assert roles == ["system"] + ["user", "assistant"] * (len(roles) // 2)
    assert len(conversation._turns) == len(roles) // 2


@pytest.fixture
def picture(tmp_path: Path) -> Image:
    from PIL import Image as Pillow  # noqa: PLC0415

    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    Pillow.fromarray(pixels).save(tmp_path / "a.png")
    return Image(tmp_path / "a.png")


@pytest.mark.parametrize("options", [SPOKEN, MUTE], ids=["spoken", "mute"])
def test_regenerate_replies_to_the_same_message(
    model: Model, picture: Image, options: ReplyOptions
) -> None:
    talk = Conversation(model)
    say(talk.send("Hello", SPOKEN))
    first = say(talk.send([picture, Text("What?")], options))
    picture.source.unlink()  # it is not read again
    used = talk.context_used
    other = ReplyOptions(options.speech, WARM, 5, seed=9)
    assert say(talk.regenerate(other))[0] != first[0]
    assert say(talk.regenerate(options)) == first
    assert talk.context_used == used
    whole(talk)
    after = say(talk.send("And now?", SPOKEN))
    talk.undo()
    assert say(talk.regenerate(options)) == first  # after the turn behind it was taken back
    assert say(talk.send("And now?", SPOKEN)) == after
    whole(talk)


def test_regenerate_from_mute_to_spoken_and_back(model: Model) -> None:
    talk, twin = Conversation(model), Conversation(model)
    spoken = say(twin.send("Hello", SPOKEN))
    assert say(talk.send("Hello", MUTE))[0] == spoken[0]
    assert say(talk.regenerate(SPOKEN)) == spoken
    assert say(talk.regenerate(MUTE))[0] == spoken[0]
    whole(talk)
    assert say(talk.send("More", SPOKEN)) == say(twin.send("More", SPOKEN))


def test_regenerate_needs_a_reply_and_room(model: Model) -> None:
    with pytest.raises(UsageError, match="no reply"):
        Conversation(model).regenerate()
    talk = Conversation(model)
    say(talk.send("Hello", MUTE))
    asked = talk._turns[-1].asked.context.length
    full = Conversation(model, context=asked + 1)
    say(full.send("Hello", MUTE))
    with pytest.raises(ContextFullError):
        say(full.regenerate(SPOKEN))
    whole(full)
    assert full.context_used == asked + 1  # still there
    say(full.regenerate(MUTE))


@pytest.mark.parametrize("spoken", [True, False])
def test_a_saved_conversation_continues(
    model: Model, picture: Image, tmp_path: Path, spoken: bool
) -> None:
    options = SPOKEN if spoken else MUTE
    talk = Conversation(model, system="Be brief", context=2000)
    say(talk.send([picture, Text("What? \ud800")], options))
    second = say(talk.send("More", options))
    talk.save(tmp_path / "a" / "talk")
    picture.source.unlink()
    back = Conversation.load(tmp_path / "a" / "talk", model)
    whole(back)
    assert back.context_limit == 2000 and back.context_used == talk.context_used
    assert back.last_tokens == talk.last_tokens
    assert [m.role for m in back.messages] == [m.role for m in talk.messages]
    assert back.messages[1].parts[0] == Image(picture.source)
    assert say(back.send("And?", SPOKEN)) == say(talk.send("And?", SPOKEN))
    back.undo()
    assert say(back.regenerate(options)) == second
    back.save(tmp_path / "a" / "talk")  # over the older one
    for _ in range(2):
        back.undo()
    assert back.context_used == 0
    assert say(back.send("Hello", SPOKEN)) == say(Conversation(model, system="Be brief").send(
        "Hello", SPOKEN))  # fmt: skip
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["talk"]


def test_media_without_a_path_are_saved(model: Model, tmp_path: Path) -> None:
    from omni_runtime.inputs.prompt import Audio  # noqa: PLC0415

    talk = Conversation(model)
    say(talk.send([Audio((np.zeros(4000, np.float32), 16000))], MUTE))
    talk.save(tmp_path / "talk")
    back = Conversation.load(tmp_path / "talk", model)
    assert back.messages[1] == Message("user", [Audio(b"")])
    assert say(back.send("More", MUTE)) == say(talk.send("More", MUTE))


def test_errors_of_load(
    model: Model, tmp_path: Path, export_default: Callable[[str], Path]
) -> None:
    def refused(folder: Path, words: str) -> None:
        with pytest.raises(OmniError, match=words) as caught:
            Conversation.load(folder, model)
        assert "\n" not in str(caught.value) and caught.value.fix

    (tmp_path / "empty").mkdir()
    refused(tmp_path / "nowhere", "nowhere holds no saved conversation")
    refused(tmp_path / "empty", "empty holds no saved conversation")
    talk = Conversation(model)
    say(talk.send("Hello", SPOKEN))
    good = tmp_path / "good"
    talk.save(good)
    for name in ("conversation.json", "thinker.npz", "talker.npz", "context.npz"):
        for number, spoil in enumerate((Path.unlink, cut, change)):
            bad = shutil.copytree(good, tmp_path / f"bad-{name}-{number}")
            spoil(bad / name)
            refused(bad, "holds no saved" if spoil is Path.unlink and "json" in name else name)
    for number, spoil in enumerate((Path.unlink, cut, change)):
        bad = shutil.copytree(good, tmp_path / f"bad-digest-{number}")
        spoil(bad / "conversation.sha256")
        refused(bad, "conversation.json is missing or was changed after the save")
    newer = shutil.copytree(good, tmp_path / "newer")
    record = json.loads((newer / "conversation.json").read_text())
    (newer / "conversation.json").write_text(json.dumps(record | {"format": 99, "more": 1}))
    refused(newer, "has format 99, but this runtime reads 3")
    other = Model(export_default("int4"), SessionOptions(1))
    with pytest.raises(OmniError, match="was saved with another bundle: default-fp32"):
        Conversation.load(good, other)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def change(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_failed_save_keeps_the_older_one(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = Conversation(model)
    say(talk.send("Hello", SPOKEN))
    talk.save(tmp_path / "talk")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "conversation.json").write_text('{"messages": []}')
    (tmp_path / "file").write_text("mine")
    for name in ("mine", "file"):
        with pytest.raises(UsageError, match="exists and is not a saved conversation"):
            talk.save(tmp_path / name)
    say(talk.send("More", SPOKEN))

    def full(*args: object, **arrays: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OmniError, match="cannot be written: No space left on device"):
        talk.save(tmp_path / "talk")
    assert len(Conversation.load(tmp_path / "talk", model).messages) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "mine", "talk"]


BUSY = ("reply.py", "thinker.py", "talker.py", "decoder.py", "kv_cache.py", "code2wav.py")


class Interruption:
    """Raise KeyboardInterrupt before the nth line of the engine's code."""

    def __init__(self, countdown: int) -> None:
        self.left = countdown

    def __enter__(self) -> None:
        sys.settrace(self.enter)

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def enter(self, frame: FrameType, *_: object) -> Callable | None:
        name = Path(frame.f_code.co_filename).name
        return self.line if name in BUSY and "/omni_runtime/" in frame.f_code.co_filename else None

    def line(self, _frame: FrameType, event: str, _: object) -> Callable | None:
        self.left -= event == "line"
        if self.left == 0:
            raise KeyboardInterrupt
        return self.line


def test_an_interruption_at_any_line_leaves_a_valid_conversation(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("omni_runtime.engine.decoder.PREFILL_ROWS", 8)  # so that it has an inside

    def attempt(countdown: int, again: bool) -> Conversation:
        talk = Conversation(model)
        say(talk.send("Hello", MUTE))
        if again:
            say(talk.send("And?", MUTE))
        with pytest.raises(KeyboardInterrupt), Interruption(countdown):
            say(talk.regenerate(SPOKEN) if again else talk.send("And?", SPOKEN))
        return talk

    taken_back = 0
    for countdown in [*range(1, 400, 9), *range(400, 1400, 67)]:
        again = countdown % 8 == 1
        talk = attempt(countdown, again)
        whole(talk)
        twin = Conversation(model)  # says as much, undisturbed
        say(twin.send("Hello", MUTE))
        if len(talk.messages) == 3:
            taken_back += 1
        elif talk.last_tokens:
            say(twin.send("And?", ReplyOptions(None, WARM, len(talk.last_tokens))))
        else:
            continue
        assert say(talk.send("So?", SPOKEN)) == say(twin.send("So?", SPOKEN))
        whole(talk)
    assert taken_back > 5
