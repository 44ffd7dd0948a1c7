"""Charts: what a run's log tells, drawn as SVG that takes its colours from the page, light or dark."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.report.history import STAGES, Run

BARS = 400  # slabs that are drawn one by one; more are counted in bins
BINS = 120
# What matplotlib is told to draw with, and the page's variables that take its place.
INKS = {"#010203": "var(--ink)", "#040506": "var(--soft)", "#070809": "var(--accent)", "#0a0b0c": "var(--bad)"}
INK, SOFT, ACCENT, BAD = INKS
SHADES = (0.35, 0.15, 1.0, 0.6, 0.25)  # of the stages


def timeline(run: Run) -> str:
    """Each slab as a bar in time (or, of many, slabs a bin), and each failure as a mark; empty where none came back."""
    if not run.landed:
        return ""
    figure, ax = _figure(7.6, 2.2)
    ends, took = np.array(run.landed).T
    origin = min(run.began, float((ends - took).min()))  # logs tell whole seconds
    ends -= origin
    if len(ends) <= BARS:
        starts, lanes = ends - took, _lanes(ends - took, ends)
        ax.barh(lanes, took, left=starts, height=0.7, color=ACCENT, linewidth=0)
        ax.set_ylabel("slabs at work")
        ax.set_yticks([])
        foot = -0.9
    else:
        ax.hist(ends, bins=BINS, color=ACCENT, linewidth=0)
        ax.set_ylabel("slabs done")
        foot = 0.0
    if run.failures:
        ax.plot([at - origin for at, _ in run.failures], [foot] * len(run.failures), "x", color=BAD, clip_on=False)
    ax.set_xlabel("seconds since the run began" + (" (× a failure)" if run.failures else ""))
    return _svg(figure)


def _lanes(starts: Any, ends: Any) -> list[int]:
    """The lowest free lane of each slab: logs do not tell which worker had it."""
    free: list[float] = []
    lanes = [0] * len(starts)
    for i in np.argsort(starts, kind="stable"):
        lane = next((n for n, busy in enumerate(free) if busy <= starts[i] + 1e-3), len(free))
        free[lane:lane + 1] = [ends[i]]
        lanes[int(i)] = lane
    return lanes


def stages(run: Run) -> str:
    """Where the slabs' time went; empty where the log does not tell."""
    total = sum(run.stages.values())
    if not total:
        return ""
    figure, ax = _figure(7.6, 0.9)
    left = 0.0
    for stage, shade in zip(STAGES, SHADES, strict=True):
        share = run.stages[stage] / total
        ax.barh(0, share, left=left, color=ACCENT, alpha=shade, height=0.8)
        if share > 0.06:
            ax.text(left + share / 2, -0.75, f"{stage} {share:.0%}", ha="center", va="center", color=INK)
        left += share
    ax.set_xlim(0, 1)
    ax.set_ylim(-1.1, 0.5)
    ax.set_axis_off()
    return _svg(figure)


def pairs(ours: Sequence[float], theirs: Sequence[float], names: Sequence[str]) -> str:
    """Two values a row as dots on a line from 0 to 1: ours full, linear's open."""
    figure, ax = _figure(4.2, 0.42 * len(names) + 0.5)
    rows = np.arange(len(names))[::-1]
    ax.hlines(rows, 0, 1, color=SOFT, linewidth=0.8)
    ax.plot(theirs, rows, "o", markersize=8, markerfacecolor="none", color=INK)
    ax.plot(ours, rows, "o", markersize=8, color=ACCENT)
    ax.set_yticks(rows, names)
    ax.set_xlim(min(0.0, *ours, *theirs), max(1.0, *ours, *theirs) * 1.02)
    ax.set_ylim(-0.6, len(names) - 0.4)
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)
    return _svg(figure)


def _figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # a second to import

    figure = Figure(figsize=(width, height), layout="constrained")
    ax = figure.subplots()
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(SOFT)
    ax.tick_params(colors=INK, color=SOFT, labelsize=9)
    ax.xaxis.label.set(color=INK, fontsize=9)
    ax.yaxis.label.set(color=INK, fontsize=9)
    return figure, ax


def _svg(figure: Any) -> str:
    """The figure as one SVG element, with text as text."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    out = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "zmend", "font.family": "sans-serif"}):
        figure.patch.set_alpha(0)
        figure.axes[0].patch.set_alpha(0)
        FigureCanvasSVG(figure).print_svg(out, metadata={"Date": None, "Creator": None})
    text = re.sub(r"<metadata>.*?</metadata>", "", out.getvalue()[out.getvalue().index("<svg") :], flags=re.DOTALL)
    for sentinel, variable in INKS.items():
        text = text.replace(sentinel, variable)
    return re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text))
