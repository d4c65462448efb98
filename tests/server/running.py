"""A server that is up, and its clients."""

import time
from dataclasses import dataclass

import httpx
import openai
from starlette.applications import Starlette

from omni_runtime.serving.engine import Engine

NAME = "tiny"


@dataclass
class Running:
    """A server that is up."""

    port: int
    engine: Engine
    app: Starlette

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def seconds_until_idle(self) -> float:
        begun = time.perf_counter()
        while self.engine.replying:
            assert time.perf_counter() - begun < 10
            time.sleep(0.001)
        return time.perf_counter() - begun

    def http(self, **options) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=30, **options)

    def openai(self, key: str = "none") -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=30)
