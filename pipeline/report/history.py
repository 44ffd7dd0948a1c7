"""History: the runs of a store, and what the log of one tells of time, failures and throughput."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pipeline.account import events
from pipeline.blend import RESTORED
from pipeline.files import Files

Json = dict[str, Any]
LISTED = 12  # runs that are told of, the latest
STAGES = ("read", "wait", "restore", "write", "record")
TOLD = 12  # failures and warnings in words


@dataclass
class Run:
    """One run, as its log tells it. Times are seconds since the epoch, as the driver's clock had them."""

    id: str
    began: float = 0.0
    ended: float = 0.0
    finished: bool = False
    took: float = 0.0  # seconds from its start, before its first event, to its end
    todo: int = 0  # slabs that were to be done
    forecast: Json = field(default_factory=dict)  # of what it would take; empty where it was not said
    retired: int = 0
    landed: list[tuple[float, float]] = field(default_factory=list)  # each slab: when it came back, seconds it took
    voxels: int = 0  # restored
    bytes_read: int = 0
    bytes_written: int = 0
    stages: Counter[str] = field(default_factory=Counter)  # seconds of all slabs together
    failures: list[tuple[float, str]] = field(default_factory=list)  # when, cause
    words: list[str] = field(default_factory=list)  # what was said of failures, lost workers and warnings
    device: str = "CPU"

    @property
    def seconds(self) -> float:
        """On the wall."""
        return self.ended - self.began

    @property
    def hours(self) -> float:
        """Of all workers together, in slabs."""
        return sum(took for _, took in self.landed) / 3600

    @property
    def retries(self) -> Counter[str]:
        """Failures by cause."""
        return Counter(cause for _, cause in self.failures)

    def add(self, event: Json) -> None:
        """One more event of the log."""
        at = datetime.fromisoformat(event["time"]).timestamp()
        self.began, self.ended = self.began or at, at
        match event.get("kind"):
            case "begin":
                self.todo, self.retired = event["todo"], event["retired"]
                self.forecast = event.get("forecast", {})
            case "slab":
                self._slab(at, event)
            case "failure":
                self.failures.append((at, event["cause"]))
                self._say(f"slab {event['slab'][:12]}, attempt {event['attempt']} ({event['cause']}): {event['error']}")
            case "worker_left":
                self._say(f"a worker left: {event['why']}")
            case "warning":
                self._say(event["text"])
            case "end":
                self.finished, self.took = True, float(event.get("seconds", 0.0))

    def _slab(self, at: float, event: Json) -> None:
        self.landed.append((at, sum(event["seconds"])))
        self.voxels += sum(event["voxels"].get(str(label), 0) for label in RESTORED)
        self.bytes_read += event["bytes_read"]
        self.bytes_written += event["bytes_written"]
        for stage in STAGES:
            self.stages[stage] += event.get("stages", {}).get(stage, 0.0)

    def _say(self, text: str) -> None:
        if len(self.words) < TOLD:
            self.words.append(text.splitlines()[0] if text else "")


def runs(out: str) -> tuple[list[Run], int]:
    """The latest runs, the last one first, and how many there were in all."""
    files = Files(out) / "zmend/runs"
    names = sorted(files.names() or (), reverse=True)
    return [_read(files / name, name) for name in names[:LISTED]], len(names)


def _read(files: Files, name: str) -> Run:
    run = Run(name)
    for event in events(files):
        try:
            run.add(event)
        except (KeyError, TypeError, ValueError):  # of another version, or edited: it says less
            continue
    environment = files.read("environment.json") or b""
    run.device = "GPU" if b'"name"' in environment else "CPU"
    return run
