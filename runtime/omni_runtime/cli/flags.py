"""The commands and their flags."""

import argparse
import math
import re
from typing import Any

from omni_runtime.cli.common import OneLineParser

COMMANDS = {
    "run": "answer a prompt, or start a conversation if no prompt is given",
    "talk": "hold a spoken conversation with microphone and loudspeaker",
    "serve": "serve OpenAI's API (chat, speech, realtime) and a page to talk with",
    "show": "print the graphs, sizes, quantization errors, voices and licence of a bundle",
    "push": "copy a bundle to a phone with adb, and check it on arrival",
    "verify": "verify the SHA-256 checksum of every file of a bundle",
    "doctor": "check this machine, and whether a bundle loads and fits in memory",
    "bench": "benchmark a bundle on this machine",
    "quality": "measure what quantization costs: a bundle against its checkpoint in float32",
    "golden": "write golden vectors to test another runtime, or check a bundle against them",
    "download": "download an optional model: smart-turn, which knows when a sentence is over",
    "export": "export a checkpoint to a bundle (the same as python export/run.py)",
}


class CommandParser(OneLineParser):
    """Accepts the prompt anywhere among the flags.

    `parse_intermixed_args` does the same, but argparse does not call it for subparsers.
    """

    _parsing = False

    def parse_known_args(self, *given: Any, **named: Any) -> Any:
        if self._parsing:  # called by parse_known_intermixed_args
            return super().parse_known_args(*given, **named)
        self._parsing = True
        try:
            return self.parse_known_intermixed_args(*given, **named)
        finally:
            self._parsing = False


def parser() -> argparse.ArgumentParser:
    """Return the parser of `omni`."""
    whole = OneLineParser(prog="omni", description="Run Qwen2.5-Omni on this computer.")
    commands = whole.add_subparsers(
        dest="command", required=True, metavar="COMMAND", parser_class=CommandParser
    )
    parsers = {
        name: commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        for name, text in COMMANDS.items()
    }
    _run_flags(parsers["run"])
    _talk_flags(parsers["talk"])
    _serve_flags(parsers["serve"])
    for name in ("show", "verify"):
        parsers[name].add_argument("bundle", help="bundle folder")
    parsers["show"].add_argument(
        "--json", action="store_true", help="print the complete manifest as JSON"
    )
    parsers["show"].add_argument(
        "--phone", action="store_true", help="what phones of 6, 8 and 12 GB can hold"
    )
    parsers["push"].add_argument("bundle", help="bundle folder")
    parsers["push"].add_argument("--serial", metavar="ID", help="phone, if there are several")
    parsers["doctor"].add_argument("bundle", nargs="?", help="bundle folder to check as well")
    parsers["doctor"].add_argument(
        "--licences", action="store_true", help="list the licences of all dependencies"
    )
    _memory_flag(parsers["doctor"])
    _bench_flags(parsers["bench"])
    _quality_flags(parsers["quality"])
    _golden_flags(parsers["golden"])
    parsers["download"].add_argument("what", choices=("smart-turn",), help="what to download")
    return whole


def _run_flags(run: argparse.ArgumentParser) -> None:
    run.add_argument("bundle", help="bundle folder")
    run.add_argument("prompt", nargs="?", help="prompt; - reads it from standard input")
    media = run.add_argument_group("media (each flag can be repeated)")
    for kind in ("image", "audio", "video"):
        media.add_argument(
            f"--{kind}",
            action=Attach,
            dest="media",
            metavar="FILE",
            default=[],
            help=f"attach a file as {kind}",
        )
    media.add_argument(
        "--no-video-sound", action="store_true", help="ignore the sound track of videos"
    )
    speech = _speech_flags(run)
    speech.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="write the speech to a wav file; - is standard output",
    )
    speech.add_argument("--no-play", action="store_true", help="do not play the speech")
    speech.add_argument(
        "--whole",
        action="store_true",
        help="synthesize the whole reply before playing it; by default speech is streamed, and the "
        "chunk size adapts to the playback buffer",
    )
    _text_flags(run)
    _machine_flags(run)
    _memory_flag(run)
    run.add_argument("--json", action="store_true", help="print each event as a line of JSON")
    run.add_argument("-q", "--quiet", action="store_true", help="print only the reply")


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
        metavar="SECONDS",
        help="silence that ends a turn (0.5; with --smart-turn 2)",
    )
    turns.add_argument(
        "--smart-turn",
        nargs="?",
        const="",
        metavar="FILE",
        help="end a turn at once when the sentence is complete (omni download smart-turn)",
    )
    turns.add_argument(
        "--no-read-ahead",
        action="store_false",
        dest="read_ahead",
        help="prefill and answer a turn only when it has ended",
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


def _serve_flags(serve: argparse.ArgumentParser) -> None:
    serve.add_argument("bundle", help="bundle folder")
    network = serve.add_argument_group("network")
    network.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    network.add_argument("--port", type=_port, default=8000, help="port (8000)")
    network.add_argument(
        "--host-name",
        action="append",
        default=[],
        metavar="NAME",
        help="another name under which the server is addressed; can be repeated",
    )
    network.add_argument("--api-key", metavar="KEY", help="key that clients must send")
    network.add_argument(
        "--api-key-file",
        metavar="FILE",
        help="file with one key in each line",
    )
    network.add_argument("--ssl-certfile", metavar="FILE", help="certificate, for https")
    network.add_argument("--ssl-keyfile", metavar="FILE", help="private key of the certificate")
    limits = serve.add_argument_group("limits")
    limits.add_argument(
        "--parallel", type=_positive, default=4, metavar="N", help="replies at once (4)"
    )
    limits.add_argument(
        "--queue", type=_positive, default=32, metavar="N", help="requests that may wait (32)"
    )
    limits.add_argument(
        "--sessions", type=_positive, default=8, metavar="N", help="realtime sessions (8)"
    )
    limits.add_argument(
        "--context", type=_positive, metavar="N", help="context of each conversation, in tokens"
    )
    limits.add_argument(
        "--media-path",
        metavar="FOLDER",
        help="folder whose files requests may name as file:///NAME",
    )
    serve.add_argument("--name", help="name of the model; by default that of the bundle's folder")
    serve.add_argument("--voice", metavar="NAME", help="default voice")
    serve.add_argument("--preset", metavar="NAME", help="default preset of the speech")
    _machine_flags(serve)
    _memory_flag(serve)
    serve.add_argument("-q", "--quiet", action="store_true", help="no request log")


def _speech_flags(command: argparse.ArgumentParser) -> Any:
    speech = command.add_argument_group("speech")
    speech.add_argument("--voice", metavar="NAME", help="voice of the reply (omni show lists them)")
    speech.add_argument(
        "--preset",
        metavar="NAME",
        help="speech quality: faithful, balanced, fast, or auto for the best one that runs in real "
        "time on this machine",
    )
    speech.add_argument("--no-speech", action="store_true", help="reply in text only")
    speech.add_argument(
        "--max-speech", type=_seconds, metavar="SECONDS", help="maximum length of the speech"
    )
    return speech


def _text_flags(command: argparse.ArgumentParser) -> None:
    text = command.add_argument_group("text")
    text.add_argument(
        "--system", metavar="TEXT", help="system prompt (another one may degrade the speech)"
    )
    text.add_argument(
        "--max-tokens",
        type=_positive,
        default=1024,
        metavar="N",
        help="maximum length of the reply in tokens (1024)",
    )
    text.add_argument(
        "--temp",
        type=float,
        default=0.0,
        metavar="T",
        help="sampling temperature; 0 is greedy (0)",
    )
    text.add_argument(
        "--top-p", type=float, default=1.0, metavar="P", help="nucleus sampling; 1 is off (1)"
    )
    text.add_argument(
        "--top-k", type=int, default=0, metavar="K", help="sample from the K best; 0 is off (0)"
    )
    text.add_argument(
        "--repeat-penalty",
        type=float,
        default=1.0,
        metavar="R",
        help="repetition penalty; 1 is off (1)",
    )
    text.add_argument(
        "--seed", type=int, default=0, metavar="N", help="random seed of the text and speech (0)"
    )
    text.add_argument("--context", type=_positive, metavar="N", help="context length in tokens")


def _machine_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "-t",
        "--threads",
        type=_positive,
        default=0,
        metavar="N",
        help="number of threads; by default one per available core",
    )
    command.add_argument(
        "--no-native",
        action="store_false",
        dest="native",
        help="use only ONNX Runtime's kernels, as without a C++ compiler",
    )
    command.add_argument(
        "--no-prepack-cache",
        action="store_false",
        dest="prepack_cache",
        help="do not cache the weights that ONNX Runtime prepacks; the next start is slower",
    )
    command.add_argument(
        "--kv-cache",
        choices=("float32", "int8"),  # contracts.CacheType, which is slow to import
        default="float32",
        help="KV cache type; int8 takes a quarter of the memory (float32)",
    )


def _memory_flag(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--memory", type=_bytes, metavar="SIZE", help="memory limit, for example 4G or 800M"
    )


def _bench_flags(bench: argparse.ArgumentParser) -> None:
    bench.add_argument("bundle", help="bundle folder")
    bench.add_argument(
        "--only",
        metavar="LIST",
        help="of pp,tg,audio,image,talker,dit,vocoder,code2wav,reply,load,memory; all by default",
    )
    bench.add_argument(
        "--preset", metavar="NAME", help="preset of the whole replies: faithful, balanced or fast"
    )
    bench.add_argument(
        "-r",
        "--repetitions",
        type=_positive,
        default=5,
        metavar="N",
        help="repetitions of each test (5)",
    )
    _machine_flags(bench)
    bench.add_argument(
        "-o", "--output", choices=("md", "json", "csv"), default="md", help="output format (md)"
    )
    bench.add_argument(
        "--no-warmup",
        action="store_false",
        dest="warm_up",
        help="skip the warm-up run of each test",
    )
    baseline = bench.add_argument_group("comparison with a baseline (both sides run alternately)")
    baseline.add_argument("--compare", choices=("llama.cpp", "torch"), help="the baseline")
    baseline.add_argument(
        "--gguf",
        metavar="FILE",
        help="model for llama.cpp; by default a random one of the same shape",
    )
    baseline.add_argument(
        "--checkpoint",
        metavar="FOLDER",
        help="model configuration for torch; its weights are not read",
    )
    plots = bench.add_argument_group("plots instead of the table")
    plots.add_argument("--timeline", metavar="FILE", help="timeline of one spoken reply")
    plots.add_argument("--roofline", metavar="FILE", help="roofline model of each graph")


def _quality_flags(quality: argparse.ArgumentParser) -> None:
    quality.add_argument("bundle", help="bundle folder")
    quality.add_argument(
        "--checkpoint",
        metavar="FOLDER",
        required=True,
        help="the checkpoint that the bundle was exported from",
    )
    quality.add_argument("--text", metavar="FILE", help="text to compare on; one ships")
    quality.add_argument(
        "--tokens", type=_positive, default=512, metavar="N", help="tokens of the text (512)"
    )
    quality.add_argument("--audio", metavar="FILE", help="a recording, for the audio encoder")
    quality.add_argument("--image", metavar="FILE", help="a picture, for the vision encoder")
    quality.add_argument("--json", action="store_true", help="print one JSON object")
    _machine_flags(quality)
    _memory_flag(quality)


def _golden_flags(golden: argparse.ArgumentParser) -> None:
    golden.add_argument("bundle", help="bundle folder")
    either = golden.add_mutually_exclusive_group()
    either.add_argument(
        "--output", metavar="FOLDER", help="folder to create; NAME-golden by default"
    )
    either.add_argument(
        "--check", metavar="FOLDER", help="golden vectors to compare the bundle with"
    )


class Attach(argparse.Action):
    """Collects image, audio and video files in the order of the command line."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,  # noqa: ARG002 - argparse passes it
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        media: list[tuple[str, object]] = [*getattr(namespace, self.dest)]
        media.append(((option_string or "").removeprefix("--"), values))
        setattr(namespace, self.dest, media)


def _seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number of seconds")
    return number


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port")
    return int(text)


def _share(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number between 0 and 1")
    return number


def _bytes(text: str) -> int:
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([MG])(?:i?B)?", text, re.IGNORECASE)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 4G or 800M")
    return int(float(match[1]) * 2 ** {"M": 20, "G": 30}[match[2].upper()])


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)
