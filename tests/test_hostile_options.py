"""Options and prompts out of range, and failing graphs: one OmniError, before any work."""

import math
import subprocess
import sys
from time import perf_counter
from types import SimpleNamespace

import pytest

from conftest import Twin
from omni_runtime.conversation import Conversation
from omni_runtime.engine.cancellation import RunControl
from omni_runtime.engine.sampling import Sampling
from omni_runtime.engine.session import MAX_THREADS, Graph, SessionOptions
from omni_runtime.errors import ContextFullError, OmniError, UsageError
from omni_runtime.options import ReplyOptions, SpeechOptions


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (Sampling, {"temperature": -1.0}),
        (Sampling, {"temperature": math.nan}),
        (Sampling, {"temperature": math.inf}),
        (Sampling, {"top_k": -1}),
        (Sampling, {"top_p": 0.0}),
        (Sampling, {"top_p": 1.5}),
        (Sampling, {"repetition_penalty": 0.0}),
        (Sampling, {"repetition_penalty": math.nan}),
        (ReplyOptions, {"seed": -1}),
        (ReplyOptions, {"seed": 2**64}),
        (ReplyOptions, {"max_tokens": 0}),
        (SpeechOptions, {"max_codes": 0}),
        (SpeechOptions, {"max_codes": -5}),
        (SessionOptions, {"threads": 5000}),
        (SessionOptions, {"threads": -1}),
        (SessionOptions, {"memory": 0}),
    ],
)
def test_values_out_of_range(kind: type, values: dict[str, float]) -> None:
    with pytest.raises(UsageError) as caught:
        kind(**values)
    assert "\n" not in str(caught.value)


def test_values_at_the_limits() -> None:
    Sampling(temperature=0.0, top_k=0, top_p=1.0, repetition_penalty=0.1)
    ReplyOptions(SpeechOptions(max_codes=1), max_tokens=1, seed=2**64 - 1)
    SessionOptions(threads=MAX_THREADS, memory=1)


@pytest.mark.parametrize("context", [-5, 0])
def test_a_context_that_is_too_short(default_twin: Twin, context: int) -> None:
    with pytest.raises(UsageError, match=f"a context of {context} tokens"):
        Conversation(default_twin.model, context=context)


@pytest.mark.parametrize("text", ["The cat sat. ", "a", " ", "\n", "\N{CAT FACE}"])
def test_a_prompt_of_millions_of_characters(default_twin: Twin, text: str) -> None:
    conversation = Conversation(default_twin.model)
    list(conversation.send("Hi", ReplyOptions(None, max_tokens=1)))
    used, started = conversation.context_used, perf_counter()
    with pytest.raises(ContextFullError):
        list(conversation.send(text * (6_000_000 // len(text)), ReplyOptions(None)))
    assert perf_counter() - started < 5
    assert conversation.context_used == used


def test_the_limit_of_a_text_leaves_its_tokens(default_twin: Twin) -> None:
    tokenizer = default_twin.model.tokenizer
    text = "The cat sat on the mat. " * 400
    tokens = tokenizer.encode(text)
    assert tokenizer.encode(text, len(tokens)) == tokens
    with pytest.raises(ContextFullError, match="longer than the model's context of 20 tokens"):
        tokenizer.encode(text, 20)


@pytest.mark.parametrize("error", [RuntimeError("out of\nmemory"), "ort"])
def test_a_failing_graph(error: Exception | str) -> None:
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail  # noqa: PLC0415

    failure = Fail("out of\nmemory") if isinstance(error, str) else error

    def fail(*_: object) -> None:
        raise failure

    session = SimpleNamespace(run=fail, run_with_iobinding=fail)
    graph = Graph(session, RunControl())  # pyright: ignore[reportArgumentType]
    for run in (lambda: graph.run({}), lambda: graph.run_with_iobinding(None)):
        with pytest.raises(OmniError, match="ONNX Runtime failed: out of memory") as caught:
            run()
        assert caught.value.code == "inference_failed"


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")
@pytest.mark.parametrize(
    ("closed", "code", "words"),
    [
        ("<&-", 1, "there is no bundle"),
        (">&-", 1, "standard output is closed"),
        ("<&- >&-", 1, "standard output is closed"),
        ("2>&-", 1, ""),
        ("<&- >&- 2>&-", 1, ""),
    ],
)
def test_closed_standard_streams(closed: str, code: int, words: str) -> None:
    line = f'exec "$0" -m omni_runtime.cli.main run nowhere - {closed}'
    done = subprocess.run(
        ["sh", "-c", line, sys.executable], capture_output=True, text=True, check=False
    )
    assert done.returncode == code
    assert words in done.stderr and "Traceback" not in done.stderr
