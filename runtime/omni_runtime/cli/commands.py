"""The commands of a conversation: one function each, registered by name.

A command receives the ReplState and the text after its name. The loop prints an OmniError that a
command raises, and continues.
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

REGENERATE = Sampling(temperature=0.7, top_p=0.9)
"""Sampling of /regen when the flags select greedy decoding, which would repeat the reply."""


@dataclass(frozen=True)
class Command:
    """`argument` describes the argument, in square brackets if it is optional."""

    argument: str
    summary: str
    action: Action


COMMANDS: dict[str, Command] = {}


def run(repl: ReplState, name: str, argument: str) -> None:
    """Run the command `name`. Raises UsageError for an unknown command or a wrong argument."""
    command = COMMANDS.get(name)
    if command is None:
        valid = " ".join(f"/{known}" for known in COMMANDS)
        raise UsageError(f"there is no command /{name}", fix=valid)
    if not argument and command.argument and not command.argument.startswith("["):
        raise UsageError(f"/{name} needs an argument", fix=f"/{name} {command.argument}")
    if argument and not command.argument:
        raise UsageError(f"/{name} takes no argument", fix=f"/{name}")
    command.action(repl, argument)


def _command(name: str, argument: str, summary: str) -> Callable[[Action], Action]:
    def register(action: Action) -> Action:
        COMMANDS[name] = Command(argument, summary, action)
        return action

    return register


def _register_media(kind: MediaKind, summary: str) -> None:
    def attach(repl: ReplState, argument: str) -> None:
        repl.attach(kind, unquoted(argument))

    _command(kind, "FILE", summary)(attach)


_register_media("image", "attach an image to the next message")
_register_media("audio", "attach an audio file to the next message")
_register_media("video", "attach a video to the next message")


@_command("mic", "", "record until Enter, then send the recording")
def _mic(repl: ReplState, _argument: str) -> None:
    config = repl.conversation.model.config.audio
    if config is None:
        raise UsageError("this bundle cannot hear", fix="omni show lists what a bundle can do")
    speech = repl.reply.speech is not None

    def listen(stream: AudioStream) -> None:
        parts = [*repl.attached, Audio(stream)]
        repl.conversation.read_ahead(parts, more=True, speech=speech)

    stream = AudioStream(config)
    record(stream, lambda: repl.lines.read("recording, press Enter to stop "), listen)
    repl.attached.append(Audio(stream))
    repl.ask("")


@_command("voice", "[NAME]", "select a voice, or list the voices")
def _voice(repl: ReplState, name: str) -> None:
    _choose(repl, "voice", name)


@_command("preset", "[NAME]", "select a speech preset, or list the presets")
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


@_command("mute", "", "turn speech off or on")
def _mute(repl: ReplState, _argument: str) -> None:
    if repl.reply.speech is None:
        _ = repl.conversation.model.speech  # raises for a bundle without speech
    speech = (repl.speech or SpeechOptions()) if repl.reply.speech is None else None
    repl.reply = replace(repl.reply, speech=speech)
    ui.say("speech is on" if speech else "speech is off")


@_command("system", "[TEXT]", "start a new conversation with this system prompt, or print it")
def _system(repl: ReplState, text: str) -> None:
    if not text:
        ui.say(_system_prompt(repl))
        return
    _restart(repl, text)
    ui.say("started a new conversation with this system prompt")


@_command("stats", "", "print timings of the last reply and the context usage")
def _stats(repl: ReplState, _argument: str) -> None:
    if repl.last is not None:
        ui.say(ui.turn_line(repl.last))
    conversation = repl.conversation
    ui.say(
        ui.context_line(
            conversation.context_used, conversation.context_limit, conversation.cache_bytes
        )
    )


@_command("regen", "", "regenerate the last reply")
def _regen(repl: ReplState, _argument: str) -> None:
    options = replace(repl.reply, seed=repl.reply.seed + 1)
    if options.sampling.temperature == 0:
        penalty = options.sampling.repetition_penalty
        options = replace(options, sampling=replace(REGENERATE, repetition_penalty=penalty))
    repl.deliver(repl.conversation.regenerate(options))
    repl.reply = replace(repl.reply, seed=options.seed)


@_command("undo", "", "remove the attached files, or else the last turn")
def _undo(repl: ReplState, _argument: str) -> None:
    if repl.attached:
        repl.attached.clear()
        ui.say("removed the attached files")
        return
    repl.conversation.undo()
    ui.say("removed the last turn")


@_command("clear", "", "start a new conversation")
def _clear(repl: ReplState, _argument: str) -> None:
    _restart(repl, _system_prompt(repl))
    ui.say("started a new conversation")


@_command("save", "FOLDER", "save the conversation")
def _save(repl: ReplState, argument: str) -> None:
    folder = unquoted(argument)
    repl.conversation.save(folder)
    ui.say(f"saved in {folder}")


@_command("load", "FOLDER", "load a saved conversation")
def _load(repl: ReplState, argument: str) -> None:
    loaded = Conversation.load(unquoted(argument), repl.conversation.model)
    repl.conversation.close()
    repl.conversation = loaded
    repl.last = None
    conversation = repl.conversation
    ui.say(
        ui.context_line(
            conversation.context_used, conversation.context_limit, conversation.cache_bytes
        )
    )


@_command("help", "", "print this help")
def _help(_repl: ReplState, _argument: str) -> None:
    rows = [
        (f"/{name} {command.argument}".strip(), command.summary)
        for name, command in COMMANDS.items()
    ]
    ui.say(ui.table(("command", ""), rows))
    ui.say(
        "Any other line is a message to the model; the files that it names are attached. An empty\n"
        "line sends the attached files. Ctrl-C stops a reply; Ctrl-D leaves."
    )


@_command("bye", "", "leave")
def _bye(repl: ReplState, _argument: str) -> None:
    repl.over = True


def _system_prompt(repl: ReplState) -> str:
    return "".join(
        part.text for part in repl.conversation.messages[0].parts if isinstance(part, Text)
    )


def _restart(repl: ReplState, system: str) -> None:
    conversation = repl.conversation
    conversation.close()
    context = conversation.requested_context
    repl.conversation = Conversation(conversation.model, system=system, context=context)
    repl.attached.clear()
    repl.last = None
