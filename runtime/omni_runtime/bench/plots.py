"""Plots: the timeline of a reply, and the roofline model of the graphs.

matplotlib comes with the dev extra and is imported only when a plot is requested.
"""

import importlib
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from omni_runtime.atomic_file import write_bytes
from omni_runtime.bench.probes import Limits
from omni_runtime.bench.roofline import Load
from omni_runtime.bench.spans import Timeline
from omni_runtime.errors import OmniError

LANES = ("audio_encoder", "vision_encoder", "thinker", "talker", "dit", "vocoder")
COLOURS = ("#8c6bb1", "#5e9c76", "#2b6ca3", "#d9822b", "#b5383d", "#5b5b5b")
INTEGER, FLOAT = "#d9822b", "#2b6ca3"
NAMES = {"dit": "DiT", "audio_encoder": "audio encoder", "vision_encoder": "vision encoder"}


def load_pyplot() -> Any:
    """Import pyplot with the file backend. Raises OmniError if matplotlib is not installed."""
    try:
        matplotlib = importlib.import_module("matplotlib")
        matplotlib.use("agg")
        return importlib.import_module("matplotlib.pyplot")
    except ImportError:
        raise OmniError("plots need matplotlib", fix="pip install matplotlib") from None


def timeline(path: Path, line: Timeline, title: str) -> None:
    """Plot the runs of each graph above the playback buffer. Raises OmniError for a bad path."""
    plot = load_pyplot()
    figure, (lanes, buffer) = plot.subplots(
        2, 1, sharex=True, figsize=(11, 6), height_ratios=(3, 2), layout="constrained"
    )
    _lanes(lanes, line)
    _buffer(buffer, line)
    figure.suptitle(title)
    _save(plot, figure, path)


def _lanes(axes: Any, line: Timeline) -> None:
    used = [graph for graph in LANES if any(span.graph == graph for span in line.spans)]
    labels: list[str] = []
    for row, graph in enumerate(reversed(used)):
        spans = [span for span in line.spans if span.graph == graph]
        bars = [(span.start, span.end - span.start) for span in spans]
        axes.broken_barh(bars, (row - 0.4, 0.8), color=COLOURS[LANES.index(graph)], linewidth=0)
        busy = sum(length for _, length in bars)
        labels.append(f"{NAMES.get(graph, graph)}\n{busy:.2f} s in {len(bars)} runs")
    axes.set_yticks(range(len(used)), labels)
    _mark(axes, line, named=True)
    axes.set_ylim(-0.6, len(used) - 0.4)


def _buffer(axes: Any, line: Timeline) -> None:
    corners = line.buffered()
    times, left = [at for at, _ in corners], [seconds for _, seconds in corners]
    axes.fill_between(times, left, color="#9ecae1", linewidth=0)
    axes.plot(times, left, color="#2b6ca3", linewidth=1)
    for number, (begin, until) in enumerate(line.underruns()):
        label = f"underrun, {_underrun_seconds(line):.2f} s in total" if not number else None
        axes.axvspan(begin, until, color="#b5383d", alpha=0.35, linewidth=0, label=label)
    _mark(axes, line, named=False)
    axes.set_ylabel("playback buffer, s")
    axes.set_xlabel("seconds since the prompt")
    axes.set_ylim(bottom=0)
    axes.set_xlim(0, max(line.end, times[-1]))
    if line.underruns():
        axes.legend(loc="upper right")


def _underrun_seconds(line: Timeline) -> float:
    return sum(until - begin for begin, until in line.underruns())


def _mark(axes: Any, line: Timeline, *, named: bool) -> None:
    """Draw vertical lines at the first and last outputs, with a legend if `named`."""
    marks = [
        ("first text", line.texts[:1], "#2b6ca3", ":"),
        ("first audio", [chunk.at for chunk in line.chunks[:1]], "#b5383d", "-"),
        ("last text", line.texts[-1:], "#2b6ca3", "--"),
        ("done", [line.end], "#5b5b5b", "--"),
    ]
    for name, times, colour, style in marks:
        for at in times:
            label = f"{name} {at:.2f} s" if named else None
            axes.axvline(at, color=colour, linestyle=style, linewidth=1, label=label)
    if named:
        axes.legend(loc="upper right", framealpha=0.9)


def roofline(path: Path, loads: Sequence[Load], limits: Limits, title: str) -> None:
    """Plot each graph as a point below the limits. Raises OmniError for a bad path."""
    plot = load_pyplot()
    figure, axes = plot.subplots(figsize=(11, 8), layout="constrained")
    intensities = [load.intensity for load in loads]
    left, right = min(*intensities, 1.0) / 2, max(*intensities, 1000.0) * 4
    for name, peak, colour in (("int8", limits.int8, INTEGER), ("fp32", limits.fp32, FLOAT)):
        knee = peak / limits.bandwidth
        roof = [left * limits.bandwidth / 1e9, peak / 1e9, peak / 1e9]
        axes.plot([left, knee, right], roof, color=colour, label=f"{name} {roof[-1]:.0f} GFLOP/s")
    axes.plot([], [], " ", label=f"memory {limits.bandwidth / 1e9:.1f} GB/s (the slope)")
    for number, load in enumerate(loads, 1):
        colour = INTEGER if load.integer > 0.5 else FLOAT
        what = f"{load.speed / 1e9:.3g} GFLOP/s, {load.utilization(limits):.0%} of its limit"
        at = (load.intensity, load.speed / 1e9)
        axes.plot(*at, "o", color=colour, label=f"{number}  {load.name}: {what}")
        axes.annotate(str(number), at, xytext=(6, 4), textcoords="offset points")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlim(left, right)
    axes.set_ylim(min(load.speed for load in loads) / 2e9, limits.int8 / 5e8)
    axes.set_xlabel("operations per byte of weights and KV cache")
    axes.set_ylabel("GFLOP/s")
    axes.grid(True, which="major", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, title="orange: mostly integer; blue: float")
    figure.suptitle(title)
    _save(plot, figure, path)


def _save(plot: Any, figure: Any, path: Path) -> None:
    image = BytesIO()
    try:
        figure.savefig(image, format=path.suffix[1:] or "png", dpi=120)
        write_bytes(path, image.getvalue())
    except (OSError, ValueError) as error:  # ValueError: not an image format
        raise OmniError(f"{path} cannot be written: {error}", fix="name a .png file") from None
    finally:
        plot.close(figure)
