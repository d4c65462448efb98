"""`omni`: the commands and their flags. Imports nothing heavy until a command runs."""

import argparse
import errno
import importlib
import io
import math
import os
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from omni_runtime.cli.common import INTERRUPTED, OneLineParser, complain, terminable
from omni_runtime.errors import OmniError

COMMANDS = {
    "run": "ask a bundle something, or talk with it when no prompt is given",
    "talk": "hold a spoken conversation with microphone and loudspeaker",
    "show": "print what a bundle is: parts, sizes, errors, licence",
    "verify": "read every file of a bundle and compare its checksum",
    "doctor": "check this machine, and a bundle on it",
    "bench": "measure how fast a bundle is on this machine",
    "golden": "write vectors to test another runtime with, or check a bundle against them",
    "export": "turn a checkpoint into a bundle (the same as python export/run.py)",
}

BROKEN_PIPE = 141

NO_SPACE = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 1 for a failure, 2 for a wrong request."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["export"]:
        return _export(words[1:])
    try:
        options = _parser().parse_args(words)
    except SystemExit as stop:
        return int(stop.code or 0)
    try:
        return _run(options)
    except OmniError as error:
        return complain(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:
        return _output_lost(error)


def _output_lost(error: OSError) -> int:
    """The exit code when nobody takes our output any more; any other error is raised again."""
    if not isinstance(error, BrokenPipeError) and error.errno not in NO_SPACE:
        raise error
    with suppress(OSError, ValueError):  # or the interpreter writes what is left at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if isinstance(error, BrokenPipeError):  # the reader has left: say nothing more
        return BROKEN_PIPE
    where = error.filename or "the output"
    return complain(OmniError(f"{where} can't be written: {error.strerror}", fix="free some space"))


def _run(options: argparse.Namespace) -> int:
    _prepare_streams()
    with terminable():
        module = importlib.import_module(f"omni_runtime.cli.{options.command}")
        code = int(module.main(options))
        sys.stdout.flush()  # here, where a full disk is still one line
    return code


def _prepare_streams() -> None:
    """No character that a terminal or a file can't take, or that was cut, ends in a trace."""
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _export(words: list[str]) -> int:
    try:
        command = importlib.import_module("omni_export.cli")
    except ImportError as error:
        return complain(
            OmniError(f"the export needs {error.name}", fix='pip install "pocket-omni[export]"')
        )
    return int(command.main(words))


class CommandParser(OneLineParser):
    """Takes what to ask before, between and behind flags alike, which argparse does only when asked
    to, and not of the parser of a command."""

    _within = False

    def parse_known_args(self, *given: Any, **named: Any) -> Any:
        if self._within:  # parse_known_intermixed_args calls us
            return super().parse_known_args(*given, **named)
        self._within = True
        try:
            return self.parse_known_intermixed_args(*given, **named)
        finally:
            self._within = False


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(prog="omni", description="Talk with Qwen2.5-Omni on this computer.")
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", parser_class=CommandParser
    )
    made = {
        name: commands.add_parser(name, help=text, description=text)
        for name, text in COMMANDS.items()
    }
    _run_flags(made["run"])
    _talk_flags(made["talk"])
    for name in ("show", "verify"):
        made[name].add_argument("bundle", help="folder of the bundle")
    made["show"].add_argument("--json", action="store_true", help="print the whole manifest")
    made["doctor"].add_argument("bundle", nargs="?", help="folder of a bundle to try here")
    _memory_flag(made["doctor"])
    _bench_flags(made["bench"])
    _golden_flags(made["golden"])
    return parser


def _run_flags(run: argparse.ArgumentParser) -> None:
    run.add_argument("bundle", help="folder of the bundle")
    run.add_argument("prompt", nargs="?", help="what to ask; - reads it from standard input")
    media = run.add_argument_group(
        "what to look at and listen to (each may be given several times)"
    )
    for kind in ("image", "audio", "video"):
        media.add_argument(f"--{kind}", action=Attach, dest="media", metavar="FILE", default=[])
    media.add_argument("--no-video-sound", action="store_true", help="look at videos only")
    speech = _speech_flags(run)
    speech.add_argument(
        "-o", "--output", metavar="FILE", help="write the speech to a wav file; - for stdout"
    )
    speech.add_argument("--no-play", action="store_true", help="do not play the speech")
    speech.add_argument(
        "--whole", action="store_true", help="speak only when all of the speech is made: no pauses"
    )
    _text_flags(run)
    _machine_flags(run)
    _memory_flag(run)
    run.add_argument("--json", action="store_true", help="print every event as a line of JSON")
    run.add_argument("-q", "--quiet", action="store_true", help="print the reply and nothing else")


def _talk_flags(talk: argparse.ArgumentParser) -> None:
    talk.add_argument("bundle", nargs="?", help="folder of the bundle")
    devices = talk.add_argument_group("devices")
    devices.add_argument("--list-devices", action="store_true", help="list the sound devices")
    devices.add_argument("--input-device", metavar="NAME", help="microphone, by a part of its name")
    devices.add_argument(
        "--output-device", metavar="NAME", help="loudspeaker, by a part of its name"
    )
    devices.add_argument(
        "--headphones",
        action="store_true",
        help="the microphone does not hear the reply: interrupt it by speaking",
    )
    devices.add_argument(
        "--half-duplex",
        action="store_true",
        help="ignore the microphone while the reply is played, even with echo cancellation",
    )
    devices.add_argument(
        "--camera", nargs="?", const="default", metavar="DEVICE", help="show what a camera sees"
    )
    turns = talk.add_argument_group("turns")
    turns.add_argument(
        "--push-to-talk", action="store_true", help="the space key begins and ends a turn"
    )
    turns.add_argument(
        "--end-silence",
        type=_seconds,
        default=0.5,
        metavar="SECONDS",
        help="silence that ends a turn (0.5)",
    )
    turns.add_argument(
        "--threshold",
        type=_share,
        default=0.5,
        metavar="P",
        help="speech probability that counts as a voice (0.5)",
    )
    files = talk.add_argument_group("files")
    files.add_argument("--input", metavar="FILE", help="use a recording as the microphone")
    files.add_argument("--output", metavar="FILE", help="write the reply to a wav file, in step")
    files.add_argument(
        "--fast", action="store_true", help="with --input: not in real time, but as fast as it goes"
    )
    files.add_argument(
        "--record", metavar="FOLDER", help="keep both sides as wav files, and a log of events"
    )
    _speech_flags(talk)
    _text_flags(talk)
    _machine_flags(talk)
    _memory_flag(talk)
    talk.add_argument("--json", action="store_true", help="print every event as a line of JSON")
    talk.add_argument("-q", "--quiet", action="store_true", help="print captions and nothing else")
    talk.set_defaults(whole=False, no_play=True)


def _speech_flags(command: argparse.ArgumentParser) -> Any:
    speech = command.add_argument_group("speech")
    speech.add_argument("--voice", help="who speaks (omni show lists the voices)")
    speech.add_argument("--preset", help="faithful, balanced, fast, or auto: what keeps up here")
    speech.add_argument("--no-speech", action="store_true", help="answer in text only")
    speech.add_argument(
        "--max-speech", type=_seconds, metavar="SECONDS", help="speak no longer than this"
    )
    return speech


def _text_flags(command: argparse.ArgumentParser) -> None:
    text = command.add_argument_group("text")
    text.add_argument("--system", help="replace the system prompt (speech may suffer)")
    text.add_argument("--max-tokens", type=_positive, default=1024, metavar="N")
    text.add_argument(
        "--temp", type=float, default=0.0, metavar="T", help="0 takes the likeliest word"
    )
    text.add_argument("--top-p", type=float, default=1.0, metavar="P")
    text.add_argument("--top-k", type=int, default=0, metavar="K")
    text.add_argument("--repeat-penalty", type=float, default=1.0, metavar="R")
    text.add_argument("--seed", type=int, default=0, metavar="N", help="same seed, same reply")
    text.add_argument("--context", type=_positive, metavar="N", help="tokens to keep at most")


def _machine_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument("-t", "--threads", type=_positive, default=0, metavar="N")
    command.add_argument(
        "--no-native",
        action="store_false",
        dest="native",
        help="ONNX Runtime's own kernels only, as where there is no C++ compiler",
    )
    command.add_argument(
        "--no-prepack-cache",
        action="store_false",
        dest="prepack_cache",
        help="keep no copy of weights as ONNX Runtime packs them for a quicker next start",
    )
    command.add_argument(
        "--kv-cache",
        choices=("float32", "int8"),  # contracts.CacheType, too heavy to import for a parser
        default="float32",
        help="what keys and values are kept as: int8 takes a quarter of the memory",
    )


def _memory_flag(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--memory", type=_bytes, metavar="SIZE", help="keep within it, as 4G or 800M"
    )


def _bench_flags(bench: argparse.ArgumentParser) -> None:
    bench.add_argument("bundle", help="folder of the bundle")
    bench.add_argument(
        "--only",
        metavar="LIST",
        help="of pp,tg,audio,image,talker,dit,vocoder,code2wav,reply,load,memory; all by default",
    )
    bench.add_argument("--preset", help="how whole replies are spoken: faithful, balanced, fast")
    bench.add_argument(
        "-r", "--repetitions", type=_positive, default=5, metavar="N", help="runs of each test (5)"
    )
    _machine_flags(bench)
    bench.add_argument(
        "-o", "--output", choices=("md", "json", "csv"), default="md", help="form of the table (md)"
    )
    bench.add_argument(
        "--no-warmup", action="store_false", dest="warm_up", help="count the first run of each, too"
    )
    baseline = bench.add_argument_group(
        "compare, both sides in turns; how many times faster are we?"
    )
    baseline.add_argument("--compare", choices=("llama.cpp", "torch"))
    baseline.add_argument(
        "--gguf", metavar="FILE", help="model for llama.cpp; one of the same shape by default"
    )
    baseline.add_argument(
        "--checkpoint", metavar="FOLDER", help="shape for torch; its weights are not read"
    )
    pictures = bench.add_argument_group("pictures instead of the table")
    pictures.add_argument("--timeline", metavar="FILE", help="one spoken reply on a clock")
    pictures.add_argument("--roofline", metavar="FILE", help="each part against the machine")


def _golden_flags(golden: argparse.ArgumentParser) -> None:
    golden.add_argument("bundle", help="folder of the bundle")
    either = golden.add_mutually_exclusive_group()
    either.add_argument("--output", metavar="FOLDER", help="a new folder; NAME-golden by default")
    either.add_argument("--check", metavar="FOLDER", help="vectors to compare the bundle with")


class Attach(argparse.Action):
    """Collects media of all kinds in the order in which they were given."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,  # noqa: ARG002 - argparse passes it
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        found: list[tuple[str, object]] = [*getattr(namespace, self.dest)]
        found.append(((option_string or "").removeprefix("--"), values))
        setattr(namespace, self.dest, found)


def _seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return number


def _share(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number between 0 and 1")
    return number


def _bytes(text: str) -> int:
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([MG])(?:i?B)?", text, re.IGNORECASE)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size, as 4G or 800M")
    return int(float(found[1]) * 2 ** {"M": 20, "G": 30}[found[2].upper()])


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
