"""Run log: zmend/runs/<id>: what was asked for, on which machine, and everything that happened.

On a disk the log is one file, log.jsonl, that grows line by line. An object cannot grow: on an object store it is
log.00000.jsonl, log.00001.jsonl, ..., one every FLUSH_S while something happens, at once where it matters.
"""

from __future__ import annotations

import json
import re
import shlex
import time
from types import TracebackType
from typing import Any

from pipeline.attempts import OnEvent
from pipeline.config import Config
from pipeline.files import Files
from pipeline.seal import broken
from pipeline.summary import environment

FLUSH_S = 10.0  # what a killed run may lose of its log on an object store
RUN_NAME = re.compile(r"\d{8}T\d{6}-")  # what else somebody puts there is no run
AT_ONCE = ("begin", "warning", "failure", "end")


def new_name(out: str) -> str:
    """Of a run: when it begins, to 60 ns; but after all that a store has, for the order of names is that of runs, and
    clocks are set back, every autumn too. For the holder of the store's lock."""
    now = time.time_ns()
    name = f"{time.strftime('%Y%m%dT%H%M%S', time.localtime(now // 10**9))}-{now % 10**9 // 60:06x}"
    last = max((n for n in (Files(out) / "zmend/runs").names() or () if RUN_NAME.match(n)), default="")
    return name if name > last else _after(last)


def _after(name: str) -> str:
    """The next name: one more, as long as its number has no more digits for that."""
    stem, _, number = name.rpartition("-")
    is_number = re.fullmatch("[0-9a-f]+", number) and set(number) != {"f"}
    return f"{stem}-{int(number, 16) + 1:0{len(number)}x}" if is_number else f"{name}0"


def reverting(out: str) -> str:
    """The command of the revert that is at work in a store, or was killed in it; empty where there is none."""
    runs = Files(out) / "zmend/runs"
    if not broken(out) or not (names := runs.names()):
        return ""
    try:
        asked = json.loads(runs.read(f"{max(names)}/config.json") or b"{}")
        words = ["--revert", str(asked["revert"]), *(w for slab in asked["slabs"] for w in ("--slab", str(slab)))]
    except (ValueError, KeyError, TypeError):
        return ""
    return shlex.join(["zmend", "run", out, *words])


class RunLog:
    """Events go to the caller, and into the store beside the configuration and the environment."""

    def __init__(self, out: str, run_id: str, asked: Config | dict[str, Any], on_event: OnEvent) -> None:
        self.files = Files(f"{out}/zmend/runs/{run_id}")
        self._on_event = on_event
        self._asked = json.dumps(asked, indent=1) if isinstance(asked, dict) else asked.model_dump_json(indent=1)
        self._begun, self._parts, self._flushed = False, 0, time.monotonic()
        self._lines: list[str] = []

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._flush()

    def __call__(self, event: dict[str, Any]) -> None:
        """Note an event, and pass it on."""
        if not self._begun:
            self._begin()
        self._lines.append(json.dumps({"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **event}) + "\n")
        waited = time.monotonic() - self._flushed > FLUSH_S
        if self.files.local is not None or waited or event["kind"] in AT_ONCE:
            self._flush()
        self._on_event(event)

    def _begin(self) -> None:
        self._begun = True
        self.files.put("config.json", self._asked.encode())
        self.files.put("environment.json", json.dumps(environment(), indent=1).encode())

    def _flush(self) -> None:
        text, self._lines, self._flushed = "".join(self._lines), [], time.monotonic()
        if not text:
            return
        if self.files.local is not None:
            with (self.files.local / "log.jsonl").open("a") as file:
                file.write(text)
            return
        self.files.put(f"log.{self._parts:05d}.jsonl", text.encode())
        self._parts += 1
