"""Nightly: one cycle of scan, plan, run and verify over a volume that grows, and a page that tells what it did.

    CONFIG.nightly/         beside the configuration
      lock                  a second cycle ends at once
      20261122T020001.md    a page a cycle
      last.json             what was verified last, and when: what is recorded the same is not read again, for a while
"""

from __future__ import annotations

import json
import socket
import time
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pipeline.attempts import OnEvent
from pipeline.config import Config
from pipeline.errors import Interrupted, UsageError, ZmendError
from pipeline.explain import explain
from pipeline.files import Files, on_disk
from pipeline.job import Proposal, propose
from pipeline.journal import read_merge
from pipeline.lock import StoreLock
from pipeline.page import headline, page
from pipeline.run import Stop, run
from pipeline.scan import scan
from pipeline.seal import KEY as SEAL
from pipeline.signature import signed
from pipeline.store import is_store, open_overlay
from pipeline.verify import Level, verify

VERIFY_EVERY = 30  # cycles: no night sees bits that rot, unless it reads them

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
    every: int = VERIFY_EVERY  # cycles after which all is verified though nothing has changed; 0: never

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
        on_disk(flags, "flags:", "name a path in `flags:` for scans to write, or say --no-scan to work by this list")
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
        """Unless all that is recorded is as it was when all of it was in order, a few cycles ago at most."""
        out, file = proposal.config.output.path, self.folder / "last.json"
        now = {**_recorded(out), "plan": proposal.plan.hash, "level": level}
        last = _read(file)
        if now["seal"] and last.get("of") == now and (self.every == 0 or last["nights"] + 1 < self.every):
            last["nights"] += 1
            file.write_text(json.dumps(last))
            return {"skipped": _not_read(out, last, self.every), "verified_at": last["at"], "nights": last["nights"]}
        file.unlink(missing_ok=True)
        found = verify(out, level=level)
        if found["ok"]:
            file.write_text(json.dumps({"of": now, "at": _now(), "nights": 0}))
        return found

    def _end(self, told: Json) -> None:
        """Write the page. Cycles may be seconds apart, and clocks go back."""
        told["ended"] = _now()
        name = time.strftime("%Y%m%dT%H%M%S")
        names = (f"{name}{more}.md" for more in ("", *(f"_{n:03}" for n in range(1, 1000))))  # "_" sorts after "."
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


def _recorded(out: str) -> Json:
    """All that a store says of itself: its documents by their seal, its records, the chunks of the source."""
    manifest = (read_merge(out) or {}).get("source_manifest", "")
    sealed = Files(out).read(SEAL) or b""  # absent: somebody is writing, or was killed
    seal = sha256(sealed).hexdigest() if sealed else ""
    return {"manifest": manifest, "seal": seal, "records": signed(out)["records"]}


def _not_read(out: str, last: Json, every: int) -> str:
    then = f"every {every} nights (--verify-every)" if every else "never again by itself (--verify-every 0)"
    return (
        f"Not verified tonight. Nothing that is recorded has changed since {last['at']}, when all was in order, level "
        f"{last['of']['level']}. Bits that rot are not looked for: `zmend verify {out}` does, and this command {then}."
    )


def _read(file: Path) -> Json:
    try:
        last = json.loads(file.read_text())
        return last if isinstance(last, dict) and {"of", "at", "nights"} <= last.keys() else {}
    except (OSError, ValueError):
        return {}
