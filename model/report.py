"""What an evaluation writes down: numbers with their intervals, and everything needed to make them again."""

from __future__ import annotations

import datetime
import os
import platform
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

Table = Mapping[str, Mapping[str, float]]  # method -> column -> value
Interval = tuple[float, float]
Intervals = Mapping[str, Mapping[str, Interval | None]]

COLUMNS = ("gain_db", "psnr", "ncc", "ncc4", "ncc8", "power", "membrane_f1", "ssim", "frc_cutoff", "voi", "arand",
           "voi_best", "arand_best", "links_wrong", "step", "seam", "seconds")  # fmt: skip
WITH_INTERVAL = ("gain_db", "ncc", "power", "membrane_f1", "voi", "links_wrong")  # in the printed table
_DIGITS = {"psnr": 2, "gain_db": 2, "links_wrong": 1, "step": 1, "seconds": 1}

LEGEND = """Columns: gain_db PSNR over a constant grey (the neighbours' mean) · ncc, ncc4, ncc8 correlation at 1, 4, 8
times binning · power at 0.125-0.5 cycles/px over the real section's · membrane_f1 of a classifier fitted to real
training sections · voi (bits), arand of segments against human profiles at the watershed depth that suits real
sections, voi_best, arand_best at the one of three that suits the method · links_wrong % of profiles joined wrongly
across the gap · step in grey levels to the neighbours' mean (the real section's own is the aim) · seam at the damage's
rim over the truth's · seconds a case. [low, high]: 95 % bootstrap over blocks within sections, for voi and
differences in FRC over sections, for links_wrong over profiles. `human profiles, nearest section` has no image: labels
copied, links by overlap."""


@dataclass(frozen=True, slots=True)
class Result:
    """One task's outcome."""

    task: str
    title: str
    mean: Table  # over the restored sections
    intervals: Intervals  # of the means
    to_flow: Intervals  # of the difference to optical flow, same blocks drawn for both
    sections: Sequence[Mapping[str, Any]]  # one a restored section: its name, and every method's row
    calibration: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {
            "title": self.title, "mean": plain(self.mean), "interval_95": plain(self.intervals),
            "difference_to_flow_95": plain(self.to_flow), "sections": plain(self.sections),
            "calibration": plain(self.calibration),
        }  # fmt: skip


def plain(value: Any) -> Any:
    """Ready for JSON: rounded to 5 places, null for what is not finite, lists for tuples and arrays."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(v) for v in value]
    if isinstance(value, (float, np.floating)):
        return round(float(value), 5) if np.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


def markdown(result: Result) -> str:
    """A table of the columns that are known for some method, and what was found of calibration."""
    used = [c for c in COLUMNS if any(np.isfinite(row.get(c, np.nan)) for row in result.mean.values())]
    lines = [
        f"## {result.task}: {result.title}",
        "",
        f"| method | {' | '.join(used)} |",
        "|---" * (len(used) + 1) + "|",
    ]
    for name, row in result.mean.items():
        cells = [_cell(c, row.get(c, float("nan")), result.intervals.get(name, {}).get(c)) for c in used]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    gains = _against_flow(result)
    lines += ["", *gains] if gains else []
    for name, found in result.calibration.items():
        if name != "sections":
            lines += ["", f"{name}: " + ", ".join(f"{k} {_number(v)}" for k, v in found.items())]
    return "\n".join(lines) + "\n"


def _against_flow(result: Result) -> list[str]:
    """Sentences: membrane F1 minus that of flow, for every method that looks at more than the neighbours' average;
    NCC and FRC where nobody has drawn membranes.
    """
    marked = any(row.get("membrane_f1") is not None for row in result.to_flow.values())
    columns = {"membrane_f1": "membrane F1"} if marked else {"ncc": "NCC", "frc_cutoff": "FRC cutoff"}
    lines = []
    for name, row in result.to_flow.items():
        found = [(words, c, row[c]) for c, words in columns.items() if row.get(c) is not None]
        if found:
            lines.append(f"- {name}: " + "; ".join(_minus_flow(result, name, *each) for each in found))
    return lines


def _minus_flow(result: Result, name: str, words: str, column: str, interval: Interval | None) -> str:
    assert interval is not None
    difference = result.mean[name][column] - result.mean["flow"][column]
    return f"{words} minus flow's {difference:+.3f} [{interval[0]:+.3f}, {interval[1]:+.3f}]"


def _cell(column: str, value: float, interval: Interval | None) -> str:
    if not np.isfinite(value):
        return ""
    digits = _DIGITS.get(column, 3)
    text = f"{value:.{digits}f}"
    if interval is None or column not in WITH_INTERVAL:
        return text
    return f"{text} [{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]"


def _number(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "[" + " ".join(_number(v) for v in value) + "]"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def provenance(argv: Sequence[str], weights: Mapping[str, Any], seed: int, threads: int) -> dict[str, Any]:
    """Command, date, machine, versions, weights, seeds: enough to run it again and to know whether it was."""
    packages = ("numpy", "scipy", "scikit-image", "opencv-python-headless", "torch")
    return {
        "command": shlex.join(["zmend", "evaluate", *argv]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": {"cpu": _cpu(), "cores": os.cpu_count(), "threads": threads, "system": platform.platform()},
        "versions": {"python": platform.python_version(), **{p: _version(p) for p in packages}},
        "weights": dict(weights), "seed": seed, "bootstrap_seed": 0,
    }  # fmt: skip


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except ImportError:  # PackageNotFoundError; a conda environment names OpenCV otherwise
        return None
