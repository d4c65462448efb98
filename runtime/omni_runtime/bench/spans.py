"""One spoken reply on a clock: who computed when, what came out, what a listener had in hand.

The engine is not touched: a `TracedModel` opens each graph behind a wrapper that notes when it
runs. An ordinary Model has no such wrapper and pays nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any

import onnxruntime as ort

from omni_runtime.bench.cold_start import open_everything
from omni_runtime.bench.replies import ask, options
from omni_runtime.conversation import Conversation
from omni_runtime.engine.cancellation import RunControl
from omni_runtime.engine.session import Graph, SessionOptions
from omni_runtime.events import AudioDelta, TextDelta
from omni_runtime.inputs.messages import ContentPart
from omni_runtime.model import Model


@dataclass(frozen=True)
class Span:
    """A run of one graph, in seconds since the turn began."""

    graph: str
    start: float
    end: float


class TracedModel(Model):
    """A model that keeps the spans of all its graphs, in seconds of `perf_counter`."""

    def __init__(self, folder: Path, options: SessionOptions) -> None:
        super().__init__(folder, options)
        self.spans: list[Span] = []

    def graph(self, graph: str) -> Graph:
        """Open one graph behind a wrapper that notes its runs."""
        return _TracedGraph(super().graph(graph).session, self.control, graph, self.spans)


class _TracedGraph(Graph):
    def __init__(
        self, session: ort.InferenceSession, control: RunControl, name: str, spans: list[Span]
    ) -> None:
        super().__init__(session, control)
        self._name = name
        self._spans = spans

    def run(self, feeds: dict[str, Any]) -> Any:
        started = perf_counter()
        outputs = super().run(feeds)
        self._spans.append(Span(self._name, started, perf_counter()))
        return outputs

    def run_with_iobinding(self, binding: Any) -> None:
        started = perf_counter()
        super().run_with_iobinding(binding)
        self._spans.append(Span(self._name, started, perf_counter()))


@dataclass(frozen=True)
class Sound:
    """A piece of speech: when it came, and how long it plays."""

    at: float
    seconds: float


@dataclass(frozen=True)
class Timeline:
    """All in seconds since the question. `texts` are the times at which text came."""

    spans: list[Span]
    texts: list[float]
    sounds: list[Sound]
    end: float

    def playback(self) -> list[tuple[float, float]]:
        """(from, to) of each stretch that plays without a break, begun at the first sound.

        Between two stretches the listener had nothing: playback ran dry.
        """
        stretches: list[tuple[float, float]] = []
        for sound in self.sounds:
            if stretches and sound.at <= stretches[-1][1]:
                begin, until = stretches.pop()
                stretches.append((begin, until + sound.seconds))
            else:
                stretches.append((sound.at, sound.at + sound.seconds))
        return stretches

    def dry(self) -> list[tuple[float, float]]:
        """(from, to) of each silence in the middle of the speech."""
        stretches = self.playback()
        return [(a[1], b[0]) for a, b in pairwise(stretches)]

    def buffered(self) -> list[tuple[float, float]]:
        """Corners (time, seconds of speech in hand) of what came but was not yet played."""
        corners: list[tuple[float, float]] = []
        until = 0.0
        for sound in self.sounds:
            if corners and until < sound.at:  # it ran dry before this piece
                corners.append((until, 0.0))
            left = max(0.0, until - sound.at)
            corners += [(sound.at, left), (sound.at, left + sound.seconds)]
            until = sound.at + left + sound.seconds
        return [*corners, (until, 0.0)] if corners else []


def record(model: TracedModel, parts: Sequence[ContentPart]) -> Timeline:
    """Ask, and note everything. The same question was asked before, so that all is warm."""
    open_everything(model)
    ask(model, parts)
    model.spans.clear()
    conversation = Conversation(model)
    texts: list[float] = []
    sounds: list[Sound] = []
    started = perf_counter()
    for event in conversation.send(parts, options(model)):
        match event:
            case TextDelta():
                texts.append(perf_counter() - started)
            case AudioDelta(samples, rate):
                sounds.append(Sound(perf_counter() - started, len(samples) / rate))
            case _:
                pass
    end = perf_counter() - started
    spans = [Span(span.graph, span.start - started, span.end - started) for span in model.spans]
    return Timeline(spans, texts, sounds, end)
