"""Nightly: one cycle of scan, plan, run and verify over a volume that grows, and a page that tells what it did.

    CONFIG.nightly/         beside the configuration
      lock                  a second cycle ends at once
      20261122T020001.md    a page a cycle
      last.json             what was verified last: what is the same need not be read again
"""

from __future__ import annotations

import json
import socket
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pipeline.attempts import OnEvent
from pipeline.config import Config
from pipeline.errors import Interrupted, UsageError, ZmendError
from pipeline.explain import explain
from pipeline.job import Proposal, propose
from pipeline.lock import StoreLock
from pipeline.merge import read_merge
from pipeline.page import headline, page
from pipeline.run import Stop, run
from pipeline.scan import scan
from pipeline.store import is_store, open_overlay
from pipeline.verify import Level, verify

Json = dict[str, Any]


@dataclass(frozen=True)
class Nightly:
    """What a cycle is asked for."""

    config: Config
    folder: Path  # of pages and the lock
    seek: bool = True  # find damage; else the flags are a list that people keep
    sensitivity: str = "medium"
    level: Level | None = "lineage"  # of verify; none: not verified
    on_event: OnEvent = lambda _: None

    def cycle(self, stop: Stop | None = None) -> Json:
        """Scan, plan, run and verify; what was done, as a document, also where verify found something.

        Killed anywhere, the next cycle goes on. Raises StoreLockedError where another is at work, Interrupted, and
        whatever scan and run raise; the page is written in any case.
        """
        self.folder.mkdir(exist_ok=True)
        with StoreLock(str(self.folder), "lock", "another cycle is at work, held") as lock:
            told = self._begin()
            try:
                self._steps(told, stop or Stop(), lock.taken_over)
            except ZmendError as error:
                told["error"] = {"code": error.exit_code, "what": error.what, "text": str(error)}
                raise
            except BaseException as error:
                told["error"] = {"code": 1, "what": type(error).__name__, "text": f"{type(error).__name__}: {error}"}
                raise
            finally:
                self._end(told)
        return told

    def _begin(self) -> Json:
        about = {"version": _version(), "host": socket.gethostname(), "began": _now()}
        return {**about, "volume": self.config.volume.path, "output": self.config.output.path}

    def _steps(self, told: Json, stop: Stop, taken_over: bool) -> None:
        told["taken_over"] = taken_over
        if self.seek:
            told["scan"] = self._scan(stop)
        proposal = propose(self.config, none_is_fine=True)
        told["sections"], told["new"] = proposal.source.shape[0], _new_sections(proposal)
        told["explain"] = {k: v for k, v in explain(proposal).items() if k != "rows"}
        told["run"] = run(proposal, on_event=self.on_event, stop=stop)
        if self.level is not None:
            told["verify"] = self._verify(self.level, proposal, told)

    def _scan(self, stop: Stop) -> Json:
        volume, flags = self.config.volume, self.config.flags
        if Path(flags).exists() and not Path(f"{Path(flags).with_suffix('')}.scan.jsonl").exists():
            raise UsageError(
                f"{flags} is a list that people keep",
                why="no scan has written it, and none may change it",
                do="say --no-scan to work by this list, or name another file in `flags:` for scans to write",
            )
        found = scan(
            volume.path, flags, mended=volume.level, voxel_nm=volume.voxel_size_nm, sensitivity=self.sensitivity,
            site=self.config.site, tell=self.on_event, stopped=lambda: stop.requested,
        )  # fmt: skip
        if stop.requested:
            raise Interrupted("stopped after the scan", why="asked to", do="the next cycle goes on")
        return {k: v for k, v in found.items() if k != "rows"}

    def _verify(self, level: Level, proposal: Proposal, told: Json) -> Json:
        """Unless plan, merge and source are those of the last cycle, in which all of it was in order."""
        out, file = proposal.config.output.path, self.folder / "last.json"
        manifest = (read_merge(out) or {}).get("source_manifest", "")
        now = {"plan": proposal.plan.hash, "manifest": manifest, "level": level}
        if _read(file) == now:
            return {"ok": True, "skipped": "As it was verified before: nothing has changed since."}
        file.unlink(missing_ok=True)
        found = verify(out, level=level)
        if found["ok"]:
            file.write_text(json.dumps(now))
        return found

    def _end(self, told: Json) -> None:
        """Write the page. Cycles may be seconds apart, and clocks go back."""
        told["ended"] = _now()
        name = time.strftime("%Y%m%dT%H%M%S")
        names = (f"{name}{more}.md" for more in ("", *(f"-{n}" for n in range(1, 1000))))
        file = next(self.folder / n for n in names if not (self.folder / n).exists())
        told["page"], told["headline"] = str(file), headline(told)
        file.write_text(page(told))


def _new_sections(proposal: Proposal) -> int:
    out = proposal.config.output.path
    return proposal.source.shape[0] - (open_overlay(out).shape[0] if is_store(out) else 0)


def _version() -> str:
    try:
        return version("zmend")
    except PackageNotFoundError:
        return "absent"


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError):
        return None


