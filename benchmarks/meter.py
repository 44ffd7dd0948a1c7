"""What a piece of work costs, as the operating system counts it. Knows the standard library only: peers run it too."""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

COUNTED = ("wall_s", "durable_s", "cpu_s", "read_mb", "written_mb", "peak_mb", "start_s")
GLANCE_S = 0.1


def io() -> tuple[int, int]:
    """Bytes that this process, and those of its children that have ended, asked to read and to write (rchar, wchar)."""
    counts = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(counts["rchar"]), int(counts["wchar"])


def cpu_s() -> float:
    """CPU seconds of this process and of its children that have ended."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


@contextmanager
def metered(found: dict[str, float]) -> Iterator[None]:
    """Fill in COUNTED for the block. It begins with a disk that has nothing left to write."""
    os.sync()
    (r0, w0), cpu, began = io(), cpu_s(), time.perf_counter()
    yield
    wall, (r1, w1), spent = time.perf_counter() - began, io(), cpu_s() - cpu
    os.sync()  # what is not on the disk is not done; zmend's own syncing is in its wall time already
    durable = time.perf_counter() - began
    found.update(wall_s=wall, durable_s=durable, cpu_s=spent, read_mb=(r1 - r0) / 1e6, written_mb=(w1 - w0) / 1e6)


def high_water_mb() -> float:
    """Most memory that this process has ever had. Not ru_maxrss: that remembers the parent it was forked from."""
    (line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


class Peak(threading.Thread):
    """Looks again and again how much memory a process and all below it take; what they share is counted once (PSS)."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid, self.mb, self.ended = pid, 0.0, threading.Event()

    def run(self) -> None:
        while not self.ended.wait(GLANCE_S):
            self.mb = max(self.mb, sum(_pss_mb(p) for p in _family(self.pid)))


def _pss_mb(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # it has ended
        return 0.0
    return next((int(x.split()[1]) * 1024 / 1e6 for x in lines if x.startswith("Pss:")), 0.0)


def _family(pid: int) -> Iterator[int]:
    yield pid
    try:
        children = [c for t in Path(f"/proc/{pid}/task").iterdir() for c in (t / "children").read_text().split()]
    except OSError:
        return
    for child in children:
        yield from _family(int(child))


def child(ways: Mapping[str, Callable[..., Any]]) -> None:
    """The main program of a measured process: a small job first, which loads all code, then the one that counts.

    argv: a JSON document with `way`, and with `tiny` and `job`, the way's arguments. Prints what it measured.
    """
    asked, found = json.loads(sys.argv[1]), {}
    work = ways[asked["way"]]
    with redirect_stdout(sys.stderr):
        work(*asked["tiny"])
        found["start_s"] = _age_s()
        with metered(found):
            work(*asked["job"])
    print(json.dumps({**found, "peak_mb": high_water_mb()}))


def _age_s() -> float:
    """Seconds since this process was started."""
    began = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    return float(Path("/proc/uptime").read_text().split()[0]) - began


def measured(command: Sequence[str], **asked: Any) -> dict[str, float]:
    """What `child` prints, run in a process of its own; memory is of that process and all below it."""
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with (
        TemporaryDirectory() as aside,  # daisy leaves logs where it runs
        subprocess.Popen([*command, json.dumps(asked)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=aside, env=env) as job,
    ):
        peak = Peak(job.pid)
        peak.start()
        out, err = job.communicate()
        peak.ended.set()
    if job.returncode:
        raise RuntimeError(f"{asked['way']}: {err[-2000:]}")
    found: dict[str, float] = json.loads(out.splitlines()[-1])
    return {**found, "peak_mb": max(found["peak_mb"], peak.mb)}


def medians(rounds: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Of every quantity that the rounds have."""
    rounds = list(rounds)
    return {k: round(statistics.median(r[k] for r in rounds), 3) for k in rounds[0]}


def spread(rounds: Iterable[float]) -> str:
    """Median, and in brackets the least and the most."""
    some = sorted(rounds)
    return f"{statistics.median(some):.3g} ({some[0]:.3g}–{some[-1]:.3g})"


def ratios(peer: Iterable[Mapping[str, float]], ours: Iterable[Mapping[str, float]], what: str) -> list[float]:
    """How many times ours the peer's is, round by round: what disturbed the machine disturbed both."""
    return [float(p[what] / max(o[what], 1e-9)) for p, o in zip(peer, ours, strict=True)]


def markdown(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """A table."""
    head = list(head)
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    return "\n".join(lines + ["| " + " | ".join(str(c) for c in row) + " |" for row in rows]) + "\n"
