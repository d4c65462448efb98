"""A reply in progress: an iterator of events that any thread may cancel.

The work is a generator of steps that belongs to the conversation. A step runs under the model's
lock, so several conversations, and several threads, can take turns on one model; between two steps
nothing runs. Whoever iterates drives the work (`send`), or an owner thread does (`serving`).
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from inspect import GEN_CLOSED, getgeneratorstate
from typing import Self

from omni_runtime.engine.cancellation import CancelledError, CancelToken
from omni_runtime.events import Event
from omni_runtime.model import Model
from omni_runtime.reply import Reply, WorkClock

Steps = Generator[Event | None]


@dataclass
class Progress:
    """What a response has come to. Its steps write it, so that they need not know the response."""

    clock: WorkClock = field(default_factory=WorkClock)
    reply: Reply | None = None
    prefill: float = 0.0
    prompt_tokens: int = 0
    cached_tokens: int = 0


class Response:
    """Iterate it for the events of a reply; the last one is TurnDone.

    To stop early call `close` or `cancel` (the same), or drop the object. What was said until then
    stays in the conversation; a reply that had not begun leaves no trace.
    """

    def __init__(
        self,
        model: Model,
        start: Callable[["Response", Progress], Steps],
        done: Callable[[Progress], Event],
    ) -> None:
        """`start` makes the steps when the first one is asked for.

        `done` makes the last event of a response that was cancelled.
        """
        self._model = model
        self._start = start
        self._done = done
        self._progress = Progress()
        self._steps: Steps | None = None
        self._token = CancelToken()
        self._over = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        """The next event. Raises what the reply raises."""
        self._progress.clock.resume()
        while True:
            event = self.step()
            if event is not None:
                self._progress.clock.pause()
                return event

    def step(self) -> Event | None:
        """Run one step; None when it had no event. Raises StopIteration at the end."""
        with self._model.lock:
            if self._over:
                raise StopIteration
            try:
                if self._steps is None:
                    self._progress.clock.restart()
                    self._steps = self._start(self, self._progress)
                with self._model.control.running(self._token):
                    self._token.check()
                    return next(self._steps)
            except CancelledError:
                self._finish()
                return self._done(self._progress)
            except BaseException:
                self._finish()
                raise

    @property
    def in_progress(self) -> bool:
        """Whether the conversation is in the middle of this reply."""
        return self._steps is not None and getgeneratorstate(self._steps) != GEN_CLOSED

    def interrupt(self) -> None:
        """Let the next step, and a graph that is running, end in a cancellation. Does not wait."""
        self._token.cancel()

    def cancel(self) -> None:
        """Stop all work, from any thread; a graph that is running ends between two of its nodes.

        The conversation is at rest when this returns. Iterating on gives one last TurnDone.
        """
        self.interrupt()
        with self._model.lock:  # whoever runs a step of ours leaves it at once
            if self._steps is not None and not self._over:
                self._steps.close()

    def close(self) -> None:
        """Stop all work; further iteration gives nothing."""
        self.cancel()
        self._over = True

    def __del__(self) -> None:
        if getattr(self, "_steps", None) is not None and not self._over:
            self.close()

    def _finish(self) -> None:
        """No more steps. Closing them lets the conversation keep what was said."""
        self._over = True
        if self._steps is not None:
            self._steps.close()
