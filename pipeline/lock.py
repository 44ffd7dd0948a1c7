"""Lock: one live run per store. A file that is linked into place, never flock (NFS and Lustre lie about it)."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from types import TracebackType
from typing import Any

from pipeline.errors import StoreLockedError


class StoreLock:
    """Held for the length of a `with`. A lock whose process is gone from this host is taken over."""

    def __init__(self, out: str) -> None:
        self.path = Path(out) / "zmend" / "lock"
        self.taken_over = False  # from a run that was killed: it may have left half-made files

    def __enter__(self) -> StoreLock:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        mine = self.path.with_name(f"lock.{os.getpid()}.partial")
        mine.write_text(json.dumps(_me()))
        try:
            for _ in range(3):
                if self._link(mine):
                    return self
                self._evict()
        finally:
            mine.unlink(missing_ok=True)
        raise StoreLockedError("the store's lock keeps changing hands", where=str(self.path), do="run again")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.path.unlink(missing_ok=True)

    def _link(self, mine: Path) -> bool:
        try:
            os.link(mine, self.path)
        except FileExistsError:
            return False
        return True

    def _evict(self) -> None:
        """Remove the lock if its holder is dead; else say who holds it. Raises StoreLockedError."""
        try:
            holder = json.loads(self.path.read_text())
        except FileNotFoundError:
            return
        except ValueError:
            holder = {}
        if holder.get("host") != socket.gethostname() or _alive(holder):
            raise StoreLockedError(
                f"the store is locked by process {holder.get('pid')} on {holder.get('host')}",
                where=str(self.path),
                why="another run is writing here; two runs would do the same slabs twice",
                do="wait for it, or, if you know that it is dead on its other host, delete the file named above",
            )
        stale = self.path.with_name(f"lock.stale.{os.getpid()}.partial")
        try:
            self.path.rename(stale)
        except FileNotFoundError:
            return
        if json.loads(stale.read_text() or "{}") != holder:  # another evictor was faster, and this is its fresh lock
            os.link(stale, self.path)
        self.taken_over = True
        stale.unlink()


def holder(out: str) -> str:
    """Who runs in a store now, in words; nothing where nobody does, as far as this host can tell."""
    try:
        said = json.loads((Path(out) / "zmend" / "lock").read_text())
    except (OSError, ValueError):
        return ""
    dead = said.get("host") == socket.gethostname() and not _alive(said)
    return "" if dead else f"process {said.get('pid')} on {said.get('host')}"


def _me() -> dict[str, Any]:
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid())}


def _alive(holder: dict[str, Any]) -> bool:
    """Whether this very process still runs: the pid alone may have been given to another."""
    return _started(int(holder.get("pid", -1))) == holder.get("started")


def _started(pid: int) -> str:
    """The start time of a process in clock ticks after boot, with the boot's id; '' if there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] == "Z" else f"{boot}:{fields[19]}"
