"""`omni run`: answer one prompt, or hold a conversation."""

import argparse
import math
import sys
from time import perf_counter

from omni_runtime.bundle.config import ModelConfig
from omni_runtime.cli import memory_check, ui
from omni_runtime.cli.answer import Style, deliver
from omni_runtime.cli.attach import located, media_part
from omni_runtime.cli.audio_output import AudioOutput
from omni_runtime.conversation import Conversation
from omni_runtime.engine.sampling import Sampling
from omni_runtime.engine.session import SessionOptions
from omni_runtime.errors import UsageError
from omni_runtime.inputs.messages import ContentPart, Text
from omni_runtime.model import Model
from omni_runtime.options import ReplyOptions, SpeechOptions


def main(options: argparse.Namespace) -> int:
    """Answer a prompt or a file, or start a conversation if there is neither."""
    started = perf_counter()
    model = Model(options.bundle, session_options(options))
    parts = question(options, model.config)
    wanted = reply_options(options, model)
    model.warm_up(None if options.quiet else ui.note)
    memory_check.check_memory(model, parts, wanted, options)
    conversation = Conversation(model, system=options.system, context=options.context)
    memory_check.report_context(conversation, options)
    load = perf_counter() - started
    if not parts:
        from omni_runtime.cli.repl import Repl  # noqa: PLC0415 - only a conversation needs it

        return Repl(conversation, wanted, options, load=load).loop()
    style = Style.of(options, load, model)
    events = conversation.send(parts, wanted)
    output = AudioOutput.of(options)
    deliver(events, output.open() if wanted.speech else None, style)
    output.explain()
    return 0


def session_options(options: argparse.Namespace) -> SessionOptions:
    """Return the options of `Model` that the flags ask for."""
    return SessionOptions(
        options.threads,
        options.memory,
        options.native,
        prepack_cache=options.prepack_cache,
        kv_cache=options.kv_cache,
    )


def question(options: argparse.Namespace, config: ModelConfig) -> list[ContentPart]:
    """Return the parts of the message: media in the order of the flags, then the prompt."""
    sound = not options.no_video_sound
    parts: list[ContentPart] = [
        media_part(kind, located(name), config, sound=sound) for kind, name in options.media
    ]
    prompt = sys.stdin.read() if options.prompt == "-" else options.prompt
    if prompt and prompt.strip():
        parts.append(Text(prompt))
    elif prompt is not None and not parts:
        raise UsageError(
            "the prompt is empty", fix="give some text, or leave it out to start a conversation"
        )
    return parts


def reply_options(options: argparse.Namespace, model: Model) -> ReplyOptions:
    """Build the reply options. Raises UsageError for an unknown voice or preset or a bad value."""
    in_range = (
        0 <= options.temp < math.inf  # False for NaN
        and 0 < options.top_p <= 1
        and options.top_k >= 0
        and 0 < options.repeat_penalty < math.inf
        and options.seed >= 0
    )
    if not in_range:
        raise UsageError(
            "a sampling flag is out of range",
            fix="--temp >= 0, 0 < --top-p <= 1, --top-k >= 0, --repeat-penalty > 0, --seed >= 0",
        )
    speech = None
    named = options.voice or options.preset or options.output
    if not options.no_speech and (model.config.speech is not None or named):
        limit = options.max_speech and math.ceil(options.max_speech * model.codes_per_second)
        listened = AudioOutput.of(options).is_live
        chunks = "whole" if options.whole else "adaptive" if listened else "fixed"
        speech = SpeechOptions(options.voice, options.preset, max_codes=limit, chunks=chunks)
        speech.resolved(model.speech)
    return ReplyOptions(
        speech=speech,
        sampling=Sampling(options.temp, options.top_k, options.top_p, options.repeat_penalty),
        max_tokens=options.max_tokens,
        seed=options.seed,
    )
