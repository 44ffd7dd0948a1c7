"""Watch: how a live run comes along, from its log, read on from where it was read to. Asks nothing of the run."""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pipeline.files import Files
from pipeline.lock import holder

Json = dict[str, Any]
RECENT = 64  # slabs by which the pace of now is measured


@dataclass
class Progress:
    """What the events of one run add up to. Times are the log's, in seconds since the epoch."""

    run: str = ""
    phase: str = "starting"  # starting | restoring | certificate | merge | ended
    slabs: int = 0
    done: int = 0  # those of earlier runs included
    quarantined: int = 0
    failures: int = 0  # of attempts
    steps: tuple[int, int] = (0, 0)  # of the phase: done, of
    workers: set[str] = field(default_factory=set)
    busy_s: float = 0.0  # that restorers were at work, all workers together
    began: float = 0.0
    last: float = 0.0
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))

    def add(self, event: Json) -> None:
        """One more event. What another version wrote, or a person, says less: it raises nothing."""
        try:
            at = datetime.fromisoformat(event["time"]).timestamp()
            self._add(event, at)
        except (KeyError, TypeError, ValueError):
            return
        self.last = at

    def _add(self, event: Json, at: float) -> None:
        match event["kind"]:
            case "begin":
                self.phase, self.slabs, self.began = "restoring", event["slabs"], at
                self.done = event["slabs"] - event["todo"]
                self.recent.append(at)
            case "slab":
                self.done += 1
                self.quarantined += event["status"] == "quarantined"
                self.busy_s += event.get("stages", {}).get("restore", 0.0)
                self.workers.add(event.get("worker", ""))
                self.recent.append(at)
            case "failure":
                self.failures += 1
            case "certificate" | "merge":
                self.phase, self.steps = event["kind"], (event["done"], event["of"])
            case "end":
                self.phase = "ended"

    @property
    def pace(self) -> float:
        """Slabs a second, of late; 0 where that cannot be told yet."""
        took = self.recent[-1] - self.recent[0] if len(self.recent) > 1 else 0.0
        return (len(self.recent) - 1) / took if took > 0 else 0.0

    def document(self, *, live: bool, out: str) -> Json:
        """What is told of it, JSON-ready; null where it is not known."""
        left, spent = self.slabs - self.done, self.last - self.began
        share = self.busy_s / spent / len(self.workers) if spent > 0 and self.workers else None
        return {
            "output": out,
            "run": self.run,
            "live": live,
            "phase": self.phase,
            "slabs": self.slabs,
            "done": self.done,
            "pending": left,
            "quarantined": self.quarantined,
            "failures": self.failures,
            "steps_done": self.steps[0],
            "steps": self.steps[1],
            "workers": len(self.workers),
            "slabs_per_second": round(self.pace, 3) if self.pace else None,
            "seconds_left": round(left / self.pace) if self.pace and left else (0 if self.slabs and not left else None),
            "restorer_share": None if share is None else round(min(share, 1.0), 3),
        }


class Watch:
    """The newest run of a store. Each `look` reads what its log has got since the last."""

    def __init__(self, out: str) -> None:
        self.out, self._runs = out, Files(out) / "zmend/runs"
        self._progress, self._at = Progress(), Counter[str]()
        self._rest = b""  # of a line that was being written

    def look(self) -> Json:
        """How far it has come, as `Progress.document`. `live` is whether somebody holds the store."""
        live = bool(holder(self.out))  # asked first: what is written after that is seen when nobody is there any more
        newest = max(self._runs.names() or [""])
        if newest != self._progress.run:
            self._progress, self._at, self._rest = Progress(newest), Counter(), b""
        for event in self._news(self._runs / newest) if newest else ():
            self._progress.add(event)
        return self._progress.document(live=live, out=self.out)

    def _news(self, files: Files) -> Iterator[Json]:
        """Events that are new; on object stores the log lies in parts, each whole."""
        for name in sorted(n for n in files.names() or () if n.startswith("log.") and n.endswith(".jsonl")):
            stored = files.stat(name)
            if stored is None or stored.size <= self._at[name]:
                continue
            raw = files.read(name, self._at[name], stored.size) or b""
            self._at[name] += len(raw)
            *lines, self._rest = (self._rest + raw).split(b"\n")
            for line in lines:
                try:
                    event = json.loads(line)
                except ValueError:
                    continue
                if isinstance(event, dict):
                    yield event
