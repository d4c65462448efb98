"""The list of benchmarks, the parts of the bundle that each needs, and the loop over them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from omni_runtime.bench import cold_start, components, replies
from omni_runtime.bench.rows import BenchCase, ProgressCallback, Row, measure
from omni_runtime.errors import UsageError
from omni_runtime.model import Model


@dataclass(frozen=True)
class Benchmark:
    """`needs` is the part that the bundle must have: audio, vision or speech; "" for none."""

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

MISSING = {
    "audio": "no audio encoder",
    "vision": "no vision encoder",
    "speech": "no speech",
}


def select(only: str | None, known: Sequence[str]) -> list[str]:
    """Return the names of a comma-separated list in the order of `known`; all names for None.

    Raises UsageError for an unknown name.
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


def missing_part(model: Model, needs: str) -> str:
    """Return why the bundle lacks the part `needs`, or "" if it has it."""
    return MISSING[needs] if needs and getattr(model.config, needs) is None else ""


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
    """Run the named benchmarks. Append results to `rows` and skipped tests to `left_out`.

    Both belong to the caller and are filled as the benchmarks run, so an interruption keeps the
    results so far. `left_out` maps a name to the reason. `preset` is that of the whole replies;
    None is the bundle's default.
    """
    for name in names:
        if reason := missing_part(model, BENCHMARKS[name].needs):
            left_out[name] = reason
            continue
        numbered = _with_step(progress, f"{names.index(name) + 1}/{len(names)}")
        cases = replies.reply(model, preset) if name == REPLY else BENCHMARKS[name].cases(model)
        empty = measure(cases, repetitions, rows, numbered, warm_up=warm_up)
        left_out.update(dict.fromkeys(empty, "not part of the reply"))


def _with_step(progress: ProgressCallback, number: str) -> ProgressCallback:
    return lambda what: progress(f"[{number}] {what}")
