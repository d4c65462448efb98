"""A server with the trained default, on a free port of the loopback."""

import socket
import threading
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import uvicorn

from omni_runtime.engine.session import SessionOptions
from omni_runtime.inputs.media import load_audio
from omni_runtime.model import Model
from omni_runtime.server.app import application
from omni_runtime.server.connections import uvicorn_config
from omni_runtime.server.settings import Settings
from omni_runtime.serving.engine import Engine
from server.realtime_client import Client
from server.running import NAME, Running

ROOT = Path(__file__).parent.parent.parent


@cache
def _recording(name: str, rate: int) -> np.ndarray:
    return load_audio(ROOT / "tests" / "data" / f"{name}.flac", rate)


@pytest.fixture
def recording() -> Callable[[str, int], np.ndarray]:
    """A spoken question, float32 mono, by name and rate."""
    return _recording


@pytest.fixture(scope="session")
def model(trained_bundle: Path) -> Model:
    return Model(trained_bundle, SessionOptions(threads=1))


@pytest.fixture(scope="session")
def run_server(model: Model) -> Iterator[Callable[..., Running]]:
    """Start servers with other settings; all are stopped at the end of the session."""
    stack: list[tuple[uvicorn.Server, threading.Thread, Engine]] = []

    def start(**settings) -> Running:
        engine, given = Engine(model), Settings(model=NAME, **settings)
        app = application(engine, given)
        listener = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn_config(app, given))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        stack.append((server, thread, engine))
        return Running(listener.getsockname()[1], engine, app)

    yield start
    for server, thread, engine in stack:
        server.should_exit = True
        thread.join(10)
        engine.close()


@pytest.fixture(scope="session")
def server(run_server: Callable[..., Running]) -> Running:
    return run_server()


@pytest.fixture
def client(server: Running) -> Iterator[Client]:
    with server.openai().realtime.connect(model=NAME) as connection:
        made = Client(connection)
        made.until("session.created")
        yield made
