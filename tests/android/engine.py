"""The Kotlin engine on a JVM, driven by requests: one JSON line in, one JSON line out."""

import base64
import json
import subprocess
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from toolchain import jvm

Values = dict[str, Any]


class EngineError(Exception):
    """An error of the engine; `code` is that of its OmniError, or the name of another exception."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code, self.message = code, message


class Jvm:
    """A JVM with engines. A context manager."""

    def __init__(self, *options: str, engine: Path | None = None) -> None:
        command, environment = jvm.server(*options, engine=engine)
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        )
        self._names = count()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def load(self, bundle: Path, **options: Any) -> "Engine":
        """Open a bundle. Raises EngineError."""
        name = str(next(self._names))
        self.ask("load", engine=name, bundle=str(bundle), **{"threads": 1, **options})
        return Engine(self, name)

    def ask(self, name: str, **given: Any) -> Any:
        """Send a request and return its result. Raises EngineError."""
        assert self._process.stdin and self._process.stdout
        line = json.dumps({"do": name, **_written(given)}) + "\n"
        self._process.stdin.write(line.encode())
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        if "error" in answer:
            raise EngineError(answer["error"], answer["message"])
        return _read(answer["result"])


class Engine:
    """One bundle in the JVM."""

    def __init__(self, jvm: Jvm, name: str) -> None:
        self.jvm, self.name = jvm, name
        self.numbers = count()

    def ask(self, name: str, **given: Any) -> Any:
        """Ask for a part of the engine: the cases of Cases.kt."""
        return self.jvm.ask(name, engine=self.name, **given)

    def talk(self, **given: Any) -> "Talk":
        """Open a conversation."""
        talk = Talk(self, next(self.numbers))
        talk.ask("open", **{"system": None, "context": None, **given})
        return talk

    def close(self) -> None:
        """Close the bundle."""
        self.ask("unload")


class Talk:
    """A conversation in the JVM; the operations are those of Talks.kt."""

    def __init__(self, engine: Engine, number: int) -> None:
        self.engine, self.number = engine, number

    def ask(self, name: str, **given: Any) -> Any:
        """Carry out an operation."""
        return self.engine.ask(name, talk=self.number, **given)

    def fork(self) -> "Talk":
        """Return a copy."""
        copy = Talk(self.engine, next(self.engine.numbers))
        self.ask("fork", copy=copy.number)
        return copy


def _written(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        data = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()
        return {"dtype": value.dtype.name, "shape": list(value.shape), "data": data}
    if isinstance(value, dict):
        return {key: _written(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_written(one) for one in value]
    return value


def _read(value: Any) -> Any:
    if isinstance(value, dict) and value.keys() == {"dtype", "shape", "data"}:
        data = np.frombuffer(base64.b64decode(value["data"]), value["dtype"])
        return data.reshape(value["shape"]).copy()
    if isinstance(value, dict):
        return {key: _read(one) for key, one in value.items()}
    return [_read(one) for one in value] if isinstance(value, list) else value
