"""Conversations in the terminal: commands, files in a line, Ctrl-C, and piped input."""

import io
import shlex
import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from inputs.reference import AUDIO
from omni_runtime.cli import attach, audio_output, commands, line_input, microphone
from omni_runtime.cli.flags import parser
from omni_runtime.cli.repl import Repl
from omni_runtime.cli.run import reply_options
from omni_runtime.conversation import Conversation
from omni_runtime.errors import MediaError
from omni_runtime.inputs.audio_stream import AudioStream
from omni_runtime.inputs.messages import Audio, Image, Text
from omni_runtime.model import Model

Said = str | type[BaseException] | Callable[[], str]


class Person:
    """Types prepared lines; an exception among them is what happens at that prompt.

    A function is called there and gives the line.
    """

    interactive = True

    def __init__(self, *said: Said) -> None:
        self.said = list(said)
        self.prompts: list[str] = []

    def read(self, prompt: str) -> str:
        self.prompts.append(prompt)
        line = self.said.pop(0) if self.said else EOFError
        if isinstance(line, str):
            return line
        if isinstance(line, type):
            raise line
        return line()


@pytest.fixture(scope="module")
def model(bundle: Path) -> Model:
    return Model(bundle)


Talk = Callable[..., Repl]


@pytest.fixture
def talk(model: Model, here: Path, monkeypatch: pytest.MonkeyPatch) -> Talk:
    monkeypatch.setattr(audio_output, "loudspeaker", lambda: "no audio device: none")

    def make(*said: Said, flags: str = "--max-tokens 3") -> Repl:
        options = parser().parse_args(["run", "bundle", *shlex.split(flags)])
        conversation = Conversation(model, system=options.system, context=options.context)
        repl = Repl(conversation, reply_options(options, model), options, lines=Person(*said))
        repl.code = repl.loop()  # type: ignore[attr-defined]
        return repl

    return make


def users(repl: Repl) -> list[list[object]]:
    return [list(m.parts) for m in repl.conversation.messages if m.role == "user"]


def errors(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]


def test_turns_follow_each_other(talk: Talk, here: Path, capsys) -> None:
    repl = talk("Hello", "", "And?", "/bye", "never")
    assert users(repl) == [[Text("Hello")], [Text("And?")]]
    out, err = capsys.readouterr()
    assert len(out.splitlines()) >= 2
    assert sorted(path.name for path in here.iterdir()) == ["answer-2.wav", "answer.wav"]
    assert err.count("no audio device") == 1
    assert "speech: answer.wav" in err and "speech: answer-2.wav" in err


def test_files_with_o_are_numbered(talk: Talk, here: Path) -> None:
    talk("Hello", "Hello", flags="-o a.wav --max-tokens 2")
    assert sorted(path.name for path in here.iterdir()) == ["a-2.wav", "a.wav"]


def test_unknown_and_misused_commands(talk: Talk, capsys) -> None:
    talk("/foo", "/Help me", "/image", "/load", "/undo", "/regen", "/voice Nobody", "/preset x")
    found = errors(capsys)
    names = " ".join(f"/{name}" for name in commands.COMMANDS)
    assert found[0] == f"error: there is no command /foo ({names})"
    assert found[1] == "error: /help takes no argument (/help)"
    assert found[2] == "error: /image needs an argument (/image FILE)"
    assert found[3] == "error: /load needs an argument (/load FOLDER)"
    assert "no turn to take back" in found[4] and "no reply" in found[5]
    assert "choose one of Chelsie, Ethan" in found[6] and "choose one of faithful" in found[7]
    assert len(found) == 8


def test_help_lists_every_command(talk: Talk, capsys) -> None:
    wanted = "image audio video mic voice preset mute system stats regen undo clear save load help"
    assert set(commands.COMMANDS) == {*wanted.split(), "bye"}
    talk("/help")
    out = capsys.readouterr().out
    assert all(f"/{name}" in out for name in commands.COMMANDS)


def test_voice_preset_and_mute(talk: Talk, capsys) -> None:
    repl = talk("/voice Ethan", "/preset fast", "/voice", "/mute", "Hello", "/voice Chelsie")
    out, err = capsys.readouterr()
    assert "* Ethan\n" in out and "  Chelsie\n" in out and "speech is off" in out
    assert "audio" not in err and repl.reply.speech is None
    talk("/preset fast", "/mute", "/voice Ethan", "/mute", "/voice")
    assert "* Ethan" in capsys.readouterr().out


def test_stats(talk: Talk, capsys) -> None:
    repl = talk("/stats", "Hello", "/stats")
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("context 0 of 32768 tokens")
    assert out[-2].startswith("3 tok · ")
    assert out[-1].startswith(f"context {repl.conversation.context_used} of 32768 tokens")


def test_regen_undo_clear_system(talk: Talk, capsys) -> None:
    repl = talk("Hello", "And?", "/regen", "/undo", flags="--max-tokens 3 --no-speech")
    assert users(repl) == [[Text("Hello")]] and repl.reply.seed == 1
    replies = capsys.readouterr().out.splitlines()
    assert replies[1] != replies[2]
    repl = talk("Hello", "/clear", "/system", flags="--system Brief --context 99 --no-speech")
    assert "Brief" in capsys.readouterr().out
    assert not users(repl) and repl.conversation.context_limit == 99
    repl = talk("Hello", "/system Rhyme, please", "/stats")
    assert repl.conversation.messages[0].parts == [Text("Rhyme, please")]
    assert "context 0 of" in capsys.readouterr().out


def test_save_and_load(talk: Talk, here: Path, capsys) -> None:
    first = talk("Hello", '/save "my talk"', "More")
    second = talk("/load my\\ talk", "More")
    assert second.conversation.last_tokens == first.conversation.last_tokens
    assert (here / "my talk" / "conversation.json").exists()
    assert not errors(capsys)
    repl = talk("Hello", "/load nowhere")
    assert errors(capsys) == ["error: nowhere holds no saved conversation (check the name)"]
    assert users(repl) == [[Text("Hello")]]


def test_commands_attach_to_the_next_message(talk: Talk, picture: Path, sound: Path) -> None:
    repl = talk(f"/image {shlex.quote(str(picture))}", "/audio sound.wav", "What?")
    assert users(repl) == [[Image(picture), Audio(Path("sound.wav")), Text("What?")]]
    assert users(talk("/audio sound.wav", "")) == [[Audio(Path("sound.wav"))]]
    assert users(talk("/audio sound.wav", "/undo", "Hi")) == [[Text("Hi")]]


@pytest.mark.parametrize(
    ("line", "text", "name"),
    [
        ("What is in '{p}'?", "What is in?", "a picture.png"),
        ('"{p}" what?', "what?", "a picture.png"),
        ("what's in {e} here", "what's in here", "a picture.png"),
        ("{e}", "", "a picture.png"),
        ("hear sound.wav, please", "hear, please", "sound.wav"),
        ("hear SOUND.WAV", "hear SOUND.WAV", ""),
        ("hear nothing.wav", "hear nothing.wav", ""),
        ("file://{u} what?", "what?", "a picture.png"),
        ("~/sound.wav", "", "sound.wav"),
        ("'{h}/it'\\''s.wav' ok", "ok", "it's.wav"),
        ("read notes.txt", "read notes.txt", ""),
        ("\0.wav x" + "y" * 5000 + ".png", "\0.wav x" + "y" * 5000 + ".png", ""),
        ("~nobody-at-all/x.wav", "~nobody-at-all/x.wav", ""),
        ("and 'a quote' \"b\"", "and 'a quote' \"b\"", ""),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="a backslash quotes nothing there")
def test_files_in_a_line(
    here: Path, picture: Path, sound: Path, line: str, text: str, name: str, monkeypatch
) -> None:
    monkeypatch.setenv("HOME", str(here))
    (here / "notes.txt").write_text("x")
    (here / "it's.wav").write_bytes(sound.read_bytes())
    line = line.replace("{p}", str(picture)).replace("{e}", str(picture).replace(" ", "\\ "))
    line = line.replace("{u}", str(picture).replace(" ", "%20")).replace("{h}", str(here))
    found_text, files = attach.find_files(line)
    assert found_text == text
    assert [path.name for _, path in files] == ([name] if name else [])
    assert all(path.exists() for _, path in files)


def test_a_path_at_the_start_is_not_a_command(talk: Talk, sound: Path, capsys) -> None:
    assert users(talk(f"{sound} what?")) == [[Audio(sound), Text("what?")]]
    assert users(talk("/home/of/nobody is a path")) == [[Text("/home/of/nobody is a path")]]
    assert not errors(capsys)


def test_bad_media_are_dropped_and_good_ones_kept(
    talk: Talk, here: Path, picture: Path, sound: Path, capsys
) -> None:
    (here / "bad.wav").write_bytes(b"RIFFnothing")
    repl = talk("/image a\\ picture.png", "What? bad.wav", "Again?")
    assert len(errors(capsys)) == 1
    assert users(repl) == [[Image(Path("a picture.png")), Text("Again?")]]
    repl = talk("/audio nowhere.wav", "Hello")
    assert "there is no file nowhere.wav" in errors(capsys)[0] and users(repl) == [[Text("Hello")]]


def test_media_are_kept_after_other_errors(talk: Talk, sound: Path, capsys) -> None:
    long = "/audio sound.wav"
    repl = talk("Hello", long, "word " * 99, "/undo", flags="--context 130 --max-tokens 3")
    (found,) = errors(capsys)
    assert "the context is full" in found
    assert not repl.attached and users(repl) == [[Text("Hello")]]
    repl = talk(long, "word " * 99, "Hi", flags="--context 130 --max-tokens 3")
    assert users(repl) == [[Audio(Path("sound.wav")), Text("Hi")]]


def test_ctrl_c_at_the_prompt(talk: Talk) -> None:
    repl = talk(KeyboardInterrupt, "Hello", KeyboardInterrupt, KeyboardInterrupt, "never")
    assert users(repl) == [[Text("Hello")]] and repl.code == 0


def test_ctrl_c_in_a_reply(talk: Talk, here: Path, monkeypatch, capsys) -> None:
    from omni_runtime.cli import answer  # noqa: PLC0415

    show, seen = answer._show, []

    def interrupted(event, style) -> None:
        show(event, style)
        seen.append(event)
        if len(seen) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(answer, "_show", interrupted)
    repl = talk("Hello", "And?", flags="--max-tokens 30")
    assert users(repl) == [[Text("Hello")], [Text("And?")]]
    assert "(stopped)" in capsys.readouterr().err
    assert [path.name for path in here.iterdir()] == ["answer.wav"]  # of the second answer only


def test_ctrl_c_before_a_reply_keeps_attached_files(
    talk: Talk, sound: Path, model: Model, monkeypatch
) -> None:
    prefill, calls = model.thinker.prefill_steps, []

    def interrupted(*args):
        calls.append(1)
        if len(calls) <= 2:
            raise KeyboardInterrupt
        return prefill(*args)

    monkeypatch.setattr(model.thinker, "prefill_steps", interrupted)
    repl = talk("what? sound.wav", "Hello")  # the first time while the system prompt is read
    assert users(repl) == [[Audio(Path("sound.wav")), Text("Hello")]]


class Recorder:
    PortAudioError = type("PortAudioError", (Exception,), {})

    def query_devices(self, kind: str):
        if kind == "output":
            raise ValueError("no output")
        return {"name": "mic", "default_samplerate": 44100.0}

    def InputStream(self, *, samplerate, channels, dtype, callback):  # noqa: N802
        assert (samplerate, channels, dtype) == (44100, 1, "float32")
        callback(np.full((22050, 1), 0.1, np.float32), 22050, None, None)
        return __import__("contextlib").nullcontext()


def test_mic(talk: Talk, monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    talk("/mic")
    assert errors(capsys) == [
        'error: recording needs sounddevice and PortAudio (pip install "pocket-omni[talk]")'
    ]
    monkeypatch.setitem(sys.modules, "sounddevice", Recorder())
    heard: list[tuple[AudioStream, float, bool]] = []

    def read_ahead(_self, parts=(), *, more: bool = False, speech: bool) -> None:
        assert speech
        if parts:
            heard.append((parts[-1].source, parts[-1].source.seconds, more))
            ready.set()

    monkeypatch.setattr(Conversation, "read_ahead", read_ahead)
    monkeypatch.setattr(microphone, "LISTEN_INTERVAL", 0.01)
    ready = threading.Event()
    repl = talk("/mic", lambda: "" if ready.wait(20) else "never heard", "Hello")
    (first, second) = users(repl)
    ((stream, seconds, more),) = heard  # read once, since nothing was recorded after that
    assert (seconds, more) == (0.5, True) and first[0] == Audio(b"")  # samples are not kept
    assert not stream.running and stream.features().frames == 50 and second == [Text("Hello")]
    assert repl.lines.prompts[1].startswith("recording")
    monkeypatch.setattr(Recorder, "query_devices", lambda *_, **__: {}["x"], raising=False)
    monkeypatch.setattr(
        Recorder, "query_devices", lambda *_, **__: (_ for _ in ()).throw(ValueError("none found"))
    )
    talk("/mic")
    assert "there is no microphone: none found" in errors(capsys)[0]


@pytest.mark.parametrize("error", [ZeroDivisionError("a defect"), ValueError("a defect")])
def test_failures_while_recording(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", Recorder())
    monkeypatch.setattr(microphone, "LISTEN_INTERVAL", 0.01)

    def recorded(raised: Exception) -> AudioStream:
        stream, called = AudioStream(AUDIO), threading.Event()

        def listen(_: AudioStream) -> None:
            called.set()
            raise raised

        microphone.record(stream, lambda: called.wait(20), listen)
        return stream

    assert not recorded(MediaError("met again later")).running
    with pytest.raises(type(error), match="a defect"):
        recorded(error)


def test_lines_from_a_pipe(omni, bundle: Path, sound: Path, monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hello\n/audio sound.wav\r\n\nBye"))
    ran = omni("run", bundle, "--no-speech", "--max-tokens", "2", "-q")
    assert (ran.code, ran.err) == (0, "") and ">>>" not in ran.out
    assert len(ran.out.splitlines()) >= 3
    monkeypatch.setattr(sys, "stdin", io.StringIO("/foo\nHello\n"))
    ran = omni("run", bundle, "--no-speech", "--max-tokens", "2", "-q")
    assert ran.code == 2 and ran.err.count("\n") == 1 and ran.out
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hello\nAnd?\n"))
    ran = omni("run", bundle, "--json", "--max-tokens", "2", "--no-play")
    assert ran.out.count('"type": "done"') == 2


def test_terminal_with_and_without_prompt_toolkit(monkeypatch, tmp_path: Path) -> None:
    terminal = types.SimpleNamespace(isatty=lambda: True)
    monkeypatch.setattr(sys, "stdin", terminal)
    monkeypatch.setattr(sys, "stdout", types.SimpleNamespace(isatty=lambda: True))
    monkeypatch.setitem(sys.modules, "prompt_toolkit", None)
    assert isinstance(line_input.open_line_input([]), line_input.TerminalInput)
    made: dict[str, object] = {}

    class Session:
        def __init__(self, **options: object) -> None:
            made.update(options)

        def prompt(self, prompt: str) -> str:
            return f"typed at {prompt}"

    history = types.SimpleNamespace(
        FileHistory=lambda path: ("file", path), InMemoryHistory=lambda: "memory"
    )
    completion = types.SimpleNamespace(WordCompleter=lambda words, sentence: words)
    toolkit = types.SimpleNamespace(PromptSession=Session, history=history, completion=completion)
    for name, module in (("", toolkit), (".history", history), (".completion", completion)):
        monkeypatch.setitem(sys.modules, f"prompt_toolkit{name}", module)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    source = line_input.open_line_input(["/bye"])
    assert source.read(">>> ") == "typed at >>> "
    assert made["history"] == ("file", str(tmp_path / ".omni_history"))
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "no" / "home")
    line_input.open_line_input(["/bye"])
    assert made["history"] == "memory"
