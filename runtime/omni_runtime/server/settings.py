"""What a server allows: names, limits, files and keys."""

import hmac
from dataclasses import dataclass, field
from pathlib import Path

LOOPBACK = ("localhost", "127.0.0.1", "[::1]", "::1")


@dataclass(frozen=True)
class Settings:
    """Limits and permissions of a server.

    `hosts` are the host names under which it may be addressed: others are DNS rebinding. `parallel`
    replies are made at once, `queue` more requests wait. `media_folder` holds the only files that a
    request may name. A request must have arrived `head_seconds`
    and then `body_seconds` after it began; a WebSocket must answer a ping within `ping_seconds`. A
    client that takes nothing of what is sent to it for `write_seconds` is disconnected.
    `max_text` is the length in characters of a text to read aloud.
    """

    model: str
    hosts: tuple[str, ...] = LOOPBACK
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    media_folder: Path | None = None
    context: int | None = None
    parallel: int = 4
    queue: int = 32
    sessions: int = 8
    cached: int = 8
    max_body: int = 64 * 2**20
    max_frame: int = 16 * 2**20
    head_seconds: float = 10.0
    body_seconds: float = 300.0
    ping_seconds: float = 20.0
    write_seconds: float = 60.0
    max_text: int = 4096
    max_speech_seconds: float = 120.0

    def allows_key(self, key: str) -> bool:
        """Whether a request with this key is served; takes the same time for every wrong key."""
        if not self.api_keys:
            return True
        given = key.encode("utf-8", "surrogateescape")
        return sum(hmac.compare_digest(given, known.encode()) for known in self.api_keys) > 0
