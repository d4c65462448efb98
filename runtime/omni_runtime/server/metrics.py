"""Figures of a server in Prometheus' format."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from omni_runtime.events import TurnDone

SECONDS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)


class Metrics:
    """Counters of one server."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "omni_requests", "Requests", ["route", "status"], registry=registry
        )
        self._tokens = Counter("omni_tokens", "Tokens", ["kind"], registry=registry)
        self._speech = Counter("omni_speech_seconds", "Speech made, in seconds", registry=registry)
        self.first_text = Histogram(
            "omni_first_text_seconds",
            "Request to first text",
            buckets=SECONDS,
            registry=registry,
        )
        self.first_audio = Histogram(
            "omni_first_audio_seconds",
            "Request, or end of speech, to first audio",
            buckets=SECONDS,
            registry=registry,
        )
        self.active = Gauge("omni_active_requests", "Requests that are running", registry=registry)
        self.waiting = Gauge("omni_waiting_requests", "Requests that wait", registry=registry)
        self.sessions = Gauge("omni_realtime_sessions", "Open sessions", registry=registry)

    def request(self, route: str, status: int) -> None:
        """Count a request."""
        self._requests.labels(route, str(status)).inc()

    def reply(self, done: TurnDone) -> None:
        """Count the tokens and the speech of a reply."""
        timings = done.timings
        self._tokens.labels("prompt").inc(timings.prompt_tokens - timings.cached_tokens)
        self._tokens.labels("reply").inc(timings.reply_tokens)
        self._speech.inc(timings.speech)
        if timings.first_text is not None:
            self.first_text.observe(timings.first_text)
        if timings.first_audio is not None:
            self.first_audio.observe(timings.first_audio)

    def text(self) -> bytes:
        """All figures, in Prometheus' text format."""
        return generate_latest(self._registry)
