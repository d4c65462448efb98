"""Timeline of one spoken reply: the runs of each graph, the outputs, and the playback buffer.

A `TracedModel` wraps each graph to record its runs. The engine is unchanged, and an ordinary Model
has no overhead.
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
    """A run of one graph, in seconds since the prompt was sent."""

    graph: str
    start: float
    end: float


class TracedModel(Model):
    """A model that records the runs of all graphs, in seconds of `perf_counter`."""

    def __init__(self, folder: Path, options: SessionOptions) -> None:
        super().__init__(folder, options)
        self.spans: list[Span] = []

    def graph(self, graph: str) -> Graph:
        """Open one graph in a wrapper that records its runs."""
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
class Chunk:
    """A chunk of speech: when it was emitted, and its duration."""

    at: float
    seconds: float


@dataclass(frozen=True)
class Timeline:
    """Times in seconds since the prompt. `texts` are the times at which text was emitted."""

    spans: list[Span]
    texts: list[float]
    chunks: list[Chunk]
    end: float

    def playback(self) -> list[tuple[float, float]]:
        """Return (start, end) of each stretch of playback; between two there is an underrun."""
        stretches: list[tuple[float, float]] = []
        for chunk in self.chunks:
            if stretches and chunk.at <= stretches[-1][1]:
                begin, until = stretches.pop()
                stretches.append((begin, until + chunk.seconds))
            else:
                stretches.append((chunk.at, chunk.at + chunk.seconds))
        return stretches

    def underruns(self) -> list[tuple[float, float]]:
        """Return (start, end) of each underrun."""
        stretches = self.playback()
        return [(a[1], b[0]) for a, b in pairwise(stretches)]

    def buffered(self) -> list[tuple[float, float]]:
        """Return the corners (time, seconds) of the playback buffer over time."""
        corners: list[tuple[float, float]] = []
        until = 0.0
        for chunk in self.chunks:
            if corners and until < chunk.at:  # underrun before this chunk
                corners.append((until, 0.0))
            left = max(0.0, until - chunk.at)
            corners += [(chunk.at, left), (chunk.at, left + chunk.seconds)]
            until = chunk.at + left + chunk.seconds
        return [*corners, (until, 0.0)] if corners else []


def record(model: TracedModel, parts: Sequence[ContentPart]) -> Timeline:
    """Send a prompt and record its timeline, after a warm-up reply to the same prompt."""
    open_everything(model)
    ask(model, parts)
    model.spans.clear()
    conversation = Conversation(model)
    texts: list[float] = []
    chunks: list[Chunk] = []
    started = perf_counter()
    for event in conversation.send(parts, options(model)):
        match event:
            case TextDelta():
                texts.append(perf_counter() - started)
            case AudioDelta(samples, rate):
                chunks.append(Chunk(perf_counter() - started, len(samples) / rate))
            case _:
                pass
    end = perf_counter() - started
    spans = [Span(span.graph, span.start - started, span.end - started) for span in model.spans]
    return Timeline(spans, texts, chunks, end)
