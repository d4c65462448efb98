"""`omni serve`: OpenAI's API and a page to talk with, on this machine."""

import argparse
import ipaddress
import logging
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from omni_runtime.cli import ui
from omni_runtime.cli.run import session_options
from omni_runtime.errors import OmniError, UsageError
from omni_runtime.model import Model
from omni_runtime.options import SpeechOptions
from omni_runtime.serving.engine import Engine

if TYPE_CHECKING:
    from omni_runtime.server.settings import Settings

INSTALL = 'pip install "pocket-omni[serve]"'


def main(options: argparse.Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM."""
    try:
        import uvicorn  # noqa: PLC0415 - an extra

        from omni_runtime.server.app import application  # noqa: PLC0415
        from omni_runtime.server.connections import uvicorn_config  # noqa: PLC0415
    except ImportError as error:
        raise OmniError(f"the server needs {error.name}", fix=INSTALL) from None
    settings = _settings(options)
    listener = _listen(options)  # before the model is loaded: a port that is taken fails at once
    model = Model(options.bundle, session_options(options))
    speech = SpeechOptions(options.voice, options.preset)
    if model.config.speech is not None:
        speech.resolved(model.config.speech)
    model.warm_up(None if options.quiet else ui.note)
    _log_to_stderr(quiet=options.quiet)
    with Engine(model) as engine:
        host, port = listener.getsockname()[:2]
        scheme = "https" if options.ssl_certfile else "http"
        name = f"[{host}]" if ":" in host else host
        ui.note(f"{settings.model}: {scheme}://{name}:{port} (page), {scheme}://{name}:{port}/v1")
        config = uvicorn_config(
            application(engine, settings, speech),
            settings,
            ssl_certfile=options.ssl_certfile,
            ssl_keyfile=options.ssl_keyfile,
        )
        uvicorn.Server(config).run(sockets=[listener])
    return 0


def _settings(options: argparse.Namespace) -> "Settings":
    from omni_runtime.server.settings import LOOPBACK, Settings  # noqa: PLC0415

    keys = _keys(options)
    if not _is_loopback(options.host) and not keys:
        raise UsageError(
            f"{options.host} can be reached from other machines, so a key is needed",
            fix="--api-key-file FILE, or --host 127.0.0.1",
        )
    folder = Path(options.media_path) if options.media_path else None
    if folder is not None and not folder.is_dir():
        raise UsageError(f"{folder} is not a folder", fix="give another --media-path")
    return Settings(
        model=options.name or Path(options.bundle).resolve().name,
        hosts=(*LOOPBACK, options.host, *options.host_name),
        api_keys=keys,
        media_folder=folder,
        context=options.context,
        parallel=options.parallel,
        queue=options.queue,
        sessions=options.sessions,
    )


def _keys(options: argparse.Namespace) -> tuple[str, ...]:
    keys = [options.api_key] if options.api_key is not None else []
    if options.api_key_file:
        try:
            lines = Path(options.api_key_file).read_text("utf-8").splitlines()
        except (OSError, UnicodeError) as error:
            raise UsageError(
                f"{options.api_key_file} cannot be read: {error}", fix="give another --api-key-file"
            ) from None
        keys += [line.strip() for line in lines if line.strip()]
    if (options.api_key is not None or options.api_key_file) and not all(keys or [""]):
        raise UsageError("the API key is empty", fix="give another one")
    return tuple(keys)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _listen(options: argparse.Namespace) -> socket.socket:
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    if sys.platform != "win32":  # there it would allow a second server on the same port
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((options.host, options.port))
    except OSError as error:
        listener.close()
        raise UsageError(
            f"{options.host}:{options.port} cannot be used: {error.strerror}",
            fix="choose another --port",
        ) from None
    return listener


class LogFormatter(logging.Formatter):
    """Keeps control characters out of the log: a traceback may quote what a client sent."""

    def format(self, record: logging.LogRecord) -> str:
        """Format the record, and its traceback."""
        return ui.without_control(super().format(record))


def _log_to_stderr(*, quiet: bool) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(LogFormatter("%(asctime)s %(message)s", "%H:%M:%S"))
    for name, level in (("omni.server", logging.INFO), ("uvicorn.error", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        logger.setLevel(logging.ERROR if quiet else level)
        logger.propagate = False
    # uvicorn takes the refusal of a session (503) for a mistake.
    mistaken = "ASGI callable returned without completing handshake."
    logging.getLogger("uvicorn.error").addFilter(lambda record: record.msg != mistaken)
    # asyncio warns of what is written to a client that left, before the server could notice.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
