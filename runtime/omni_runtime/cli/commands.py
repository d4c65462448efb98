"""The commands of a conversation, one function each, in a registry by name.

A command gets the ReplState and the text behind its name. It raises OmniError for what cannot be
done; the loop prints it and goes on.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from omni_runtime.cli import ui
from omni_runtime.cli.attach import MediaKind, unquoted
from omni_runtime.cli.microphone import record
from omni_runtime.cli.repl_state import ReplState
from omni_runtime.conversation import Conversation
from omni_runtime.engine.sampling import Sampling
from omni_runtime.errors import UsageError
from omni_runtime.inputs.audio_stream import AudioStream
from omni_runtime.inputs.messages import Audio, Text
from omni_runtime.options import AUTO, SpeechOptions

Action = Callable[[ReplState, str], None]

AGAIN = Sampling(temperature=0.7, top_p=0.9)
"""How /regen draws words where the flags take the likeliest, which would be the same again."""


@dataclass(frozen=True)
class Command:
    """`argument` is what stands behind the name, in square brackets if it may be left out."""

    argument: str
    summary: str
    action: Action


COMMANDS: dict[str, Command] = {}


def run(repl: ReplState, name: str, argument: str) -> None:
    """Do what a line beginning with /name asks for. Raises UsageError for an unknown one."""
    found = COMMANDS.get(name)
    if found is None:
        valid = " ".join(f"/{known}" for known in COMMANDS)
        raise UsageError(f"there is no command /{name}", fix=valid)
    if not argument and found.argument and not found.argument.startswith("["):
        raise UsageError(f"/{name} lacks its argument", fix=f"/{name} {found.argument}")
    if argument and not found.argument:
        raise UsageError(f"/{name} takes no argument", fix=f"/{name}")
    found.action(repl, argument)


def _command(name: str, argument: str, summary: str) -> Callable[[Action], Action]:
    def register(action: Action) -> Action:
        COMMANDS[name] = Command(argument, summary, action)
        return action

    return register


def _register_media(kind: MediaKind, summary: str) -> None:
    def attach(repl: ReplState, argument: str) -> None:
        repl.attach(kind, unquoted(argument))

    _command(kind, "FILE", summary)(attach)


_register_media("image", "show a picture with the next line")
_register_media("audio", "let it hear a recording with the next line")
_register_media("video", "show a video with the next line")


@_command("mic", "", "speak: record until Enter, then send it")
def _mic(repl: ReplState, _argument: str) -> None:
    config = repl.conversation.model.config.audio
    if config is None:
        raise UsageError("this bundle can't hear", fix="omni show prints what a bundle can do")
    speech = repl.reply.speech is not None

    def listen(stream: AudioStream) -> None:
        parts = [*repl.attached, Audio(stream)]
        repl.conversation.read_ahead(parts, more=True, speech=speech)

    stream = AudioStream(config)
    record(stream, lambda: repl.lines.read("recording, Enter ends it "), listen)
    repl.attached.append(Audio(stream))
    repl.ask("")


@_command("voice", "[NAME]", "choose who speaks, or list the voices")
def _voice(repl: ReplState, name: str) -> None:
    _choose(repl, "voice", name)


@_command("preset", "[NAME]", "choose how speech is made, or list the presets")
def _preset(repl: ReplState, name: str) -> None:
    _choose(repl, "preset", name)


def _choose(repl: ReplState, what: str, name: str) -> None:
    speech = repl.conversation.model.speech
    options = repl.speech or SpeechOptions()
    if name:
        options = replace(options, **{what: name})
        options.resolved(speech)
        repl.speech = options
        return
    now = getattr(options.resolved(speech), what)
    known = speech.voices if what == "voice" else [*speech.presets, AUTO]
    ui.say("\n".join(f"{'*' if name == now else ' '} {name}" for name in known))


@_command("mute", "", "switch speech off, or on again")
def _mute(repl: ReplState, _argument: str) -> None:
    if repl.reply.speech is None:
        _ = repl.conversation.model.speech  # raises when there is no voice at all
    speech = (repl.speech or SpeechOptions()) if repl.reply.speech is None else None
    repl.reply = replace(repl.reply, speech=speech)
    ui.say("speech is on" if speech else "speech is off")


@_command("system", "[TEXT]", "start anew with this system prompt, or print it")
def _system(repl: ReplState, text: str) -> None:
    if not text:
        ui.say(_system_prompt(repl))
        return
    _start_anew(repl, text)
    ui.say("a new conversation, with this system prompt")


@_command("stats", "", "numbers of the last answer, and how full the context is")
def _stats(repl: ReplState, _argument: str) -> None:
    if repl.last is not None:
        ui.say(ui.turn_line(repl.last))
    talk = repl.conversation
    ui.say(ui.context_line(talk.context_used, talk.context_limit, talk.cache_bytes))


@_command("regen", "", "take back the last answer and make another")
def _regen(repl: ReplState, _argument: str) -> None:
    options = replace(repl.reply, seed=repl.reply.seed + 1)
    if options.sampling.temperature == 0:
        penalty = options.sampling.repetition_penalty
        options = replace(options, sampling=replace(AGAIN, repetition_penalty=penalty))
    repl.deliver(repl.conversation.regenerate(options))
    repl.reply = replace(repl.reply, seed=options.seed)


@_command("undo", "", "take back what is attached, else the last turn")
def _undo(repl: ReplState, _argument: str) -> None:
    if repl.attached:
        repl.attached.clear()
        ui.say("took back what was attached")
        return
    repl.conversation.undo()
    ui.say("took back the last turn")


@_command("clear", "", "start anew")
def _clear(repl: ReplState, _argument: str) -> None:
    _start_anew(repl, _system_prompt(repl))
    ui.say("a new conversation")


@_command("save", "FOLDER", "write the conversation, to go on later")
def _save(repl: ReplState, argument: str) -> None:
    folder = unquoted(argument)
    repl.conversation.save(folder)
    ui.say(f"saved in {folder}")


@_command("load", "FOLDER", "go on with a saved conversation")
def _load(repl: ReplState, argument: str) -> None:
    loaded = Conversation.load(unquoted(argument), repl.conversation.model)
    repl.conversation.close()
    repl.conversation = loaded
    repl.last = None
    talk = repl.conversation
    ui.say(ui.context_line(talk.context_used, talk.context_limit, talk.cache_bytes))


@_command("help", "", "print this")
def _help(_repl: ReplState, _argument: str) -> None:
    rows = [
        (f"/{name} {command.argument}".strip(), command.summary)
        for name, command in COMMANDS.items()
    ]
    ui.say(ui.table(("command", ""), rows))
    ui.say(
        "Anything else is said to the model, with the files that are named in it. An empty line\n"
        "sends what is attached. Ctrl-C stops an answer; Ctrl-D leaves."
    )


@_command("bye", "", "leave")
def _bye(repl: ReplState, _argument: str) -> None:
    repl.over = True


def _system_prompt(repl: ReplState) -> str:
    return "".join(
        part.text for part in repl.conversation.messages[0].parts if isinstance(part, Text)
    )


def _start_anew(repl: ReplState, system: str) -> None:
    talk = repl.conversation
    talk.close()
    context = talk.requested_context
    repl.conversation = Conversation(talk.model, system=system, context=context)
    repl.attached.clear()
    repl.last = None
