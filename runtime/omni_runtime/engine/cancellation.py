"""Cancellation of running graphs: a token that any thread may set, and who holds it now.

One request runs at a time (`Model.lock`). Its token is installed in the model's `RunControl`, which
every graph consults: a set token ends the graph that is running and refuses the next one.
"""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import onnxruntime as ort


class CancelledError(Exception):
    """Raised out of a graph whose request was cancelled. Never leaves the library."""


class CancelToken:
    """The cancellation flag of one request. `cancel` may be called from any thread."""

    def __init__(self) -> None:
        self.run_options: Any = ort.RunOptions()
        self.run_options.log_severity_level = 4  # a terminated run is no error
        self.cancelled = False

    def cancel(self) -> None:
        """Refuse every further graph of the request, and end the one that is running."""
        self.cancelled = True
        self.run_options.terminate = True  # ONNX Runtime checks it between nodes

    def check(self) -> None:
        """Raise CancelledError once `cancel` was called."""
        if self.cancelled:
            raise CancelledError


class RunControl:
    """The token of the request that runs now, if it has one."""

    def __init__(self) -> None:
        self.token: CancelToken | None = None

    @contextmanager
    def running(self, token: CancelToken) -> Generator[None]:
        """Install `token` for the graphs that run inside the block."""
        outer, self.token = self.token, token
        try:
            yield
        finally:
            self.token = outer

    def run_options(self) -> Any:
        """ONNX Runtime's options for the next graph, or None. Raises CancelledError."""
        if self.token is None:
            return None
        self.token.check()
        return self.token.run_options
