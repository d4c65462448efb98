"""Which benchmarks there are, what a bundle must be able to do for each, and their run."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from omni_runtime.bench import cold_start, components, replies
from omni_runtime.bench.rows import BenchCase, ProgressCallback, Row, measure
from omni_runtime.errors import UsageError
from omni_runtime.model import Model


@dataclass(frozen=True)
class Benchmark:
    """`needs` names what the bundle must have: audio, vision or speech; "" for nothing more."""

    needs: str
    cases: Callable[[Model], Iterator[BenchCase]]


REPLY = "reply"

BENCHMARKS = {
    "pp": Benchmark("", components.prefill),
    "tg": Benchmark("", components.decode),
    "audio": Benchmark("audio", components.audio),
    "image": Benchmark("vision", components.image),
    "talker": Benchmark("speech", components.talker),
    "dit": Benchmark("speech", components.dit),
    "vocoder": Benchmark("speech", components.vocoder),
    "code2wav": Benchmark("speech", components.code2wav),
    REPLY: Benchmark("", replies.reply),
    "load": Benchmark("", cold_start.load),
    "memory": Benchmark("", cold_start.memory),
}

LACKS = {"audio": "it can't hear", "vision": "it can't see", "speech": "it has no voice"}


def chosen(only: str | None, known: Sequence[str]) -> list[str]:
    """The names in a list with commas, in the order of `known`; all of them for None.

    Raises UsageError for a name that is not known.
    """
    if only is None:
        return list(known)
    wanted = [name.strip() for name in only.split(",")]
    for name in wanted:
        if name not in known:
            raise UsageError(
                f"there is no benchmark {name!r}",
                fix=f"choose from {', '.join(known)}",
                code="unknown_benchmark",
                details={"known": ",".join(known)},
            )
    return [name for name in known if name in wanted]


def missing(model: Model, needs: str) -> str:
    """Why a bundle can't do what needs this; "" if it can."""
    return LACKS[needs] if needs and getattr(model.config, needs) is None else ""


def run(
    model: Model,
    names: Sequence[str],
    repetitions: int,
    rows: list[Row],
    left_out: dict[str, str],
    progress: ProgressCallback,
    *,
    warm_up: bool = True,
    preset: str | None = None,
) -> None:
    """Measure the named benchmarks; what is left out is noted with its reason.

    `preset` is how whole replies are spoken; None is the bundle's default.

    `rows` and `left_out` are the caller's and are filled as it goes, so that an interruption
    leaves what there is.
    """
    for name in names:
        if reason := missing(model, BENCHMARKS[name].needs):
            left_out[name] = reason
            continue
        told_of = _with_step(progress, f"{names.index(name) + 1}/{len(names)}")
        cases = replies.reply(model, preset) if name == REPLY else BENCHMARKS[name].cases(model)
        empty = measure(cases, repetitions, rows, told_of, warm_up=warm_up)
        left_out.update(dict.fromkeys(empty, "the reply had none"))


def _with_step(progress: ProgressCallback, number: str) -> ProgressCallback:
    return lambda what: progress(f"[{number}] {what}")
