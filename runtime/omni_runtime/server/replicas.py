"""Several copies of a server behind Ray Serve: `serve run omni_runtime.server.replicas:build`.

Each replica loads the bundle and owns an engine. A realtime connection stays with its replica and
is one ongoing request; when all replicas are busy, a handshake waits.
"""

import importlib
from pathlib import Path
from typing import Any

from starlette.applications import Starlette

from omni_runtime.engine.session import SessionOptions
from omni_runtime.errors import UsageError
from omni_runtime.server.app import application
from omni_runtime.server.settings import LOOPBACK, Settings
from omni_runtime.serving.engine import Engine

GRACE_SECONDS = 600
"""How long a replica that is replaced may finish its conversations."""


def build(arguments: dict[str, str]) -> Any:
    """Return a Ray Serve application.

    Arguments: `bundle`; `replicas` (2), `sessions` of each (8), `threads` of each (1), `hosts`
    (comma-separated names under which it is addressed), `api_key_file`.
    """
    serve: Any = importlib.import_module("ray.serve")
    given = _Arguments(arguments)
    deployment = serve.deployment(
        name="omni",
        num_replicas=given.replicas,
        max_ongoing_requests=given.sessions,
        max_queued_requests=-1,
        graceful_shutdown_wait_loop_s=1,
        graceful_shutdown_timeout_s=GRACE_SECONDS,
        health_check_period_s=5,
        ray_actor_options={"num_cpus": given.threads},
    )

    def make_app() -> Starlette:  # Ray calls it in each replica
        return given.app()

    return deployment(serve.ingress(make_app)(_Replica)).bind()


class _Replica:
    """One process; Ray Serve runs the application of its ingress."""


class _Arguments:
    """What every replica is told."""

    def __init__(self, arguments: dict[str, str]) -> None:
        if "bundle" not in arguments:
            raise UsageError("the bundle is missing", fix="serve run ...:build bundle=FOLDER")
        self.bundle = Path(arguments["bundle"]).resolve()
        self.replicas = int(arguments.get("replicas", 2))
        self.sessions = int(arguments.get("sessions", 8))
        self.threads = int(arguments.get("threads", 1))
        hosts = filter(None, arguments.get("hosts", "").split(","))
        keys = arguments.get("api_key_file")
        lines = Path(keys).read_text("utf-8").split() if keys else []
        self.settings = Settings(
            model=self.bundle.name,
            hosts=(*LOOPBACK, *hosts),
            api_keys=tuple(lines),
            sessions=self.sessions,
            parallel=self.sessions,
        )

    def app(self) -> Starlette:
        """Load the bundle in a replica."""
        engine = Engine(self.bundle, SessionOptions(threads=self.threads))
        return application(engine, self.settings)
