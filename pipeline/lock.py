"""Lock: one live run per store. An object that only one can create: no flock, no clock, no heartbeat."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any

from pipeline.confine import refuse_links
from pipeline.errors import StoreLockedError
from pipeline.files import Files

KEY = "zmend/lock"


class StoreLock:
    """Held for the length of a `with`. A lock whose process is gone from this host is taken over."""

    def __init__(self, out: str, key: str = KEY, what: str = "the store is locked") -> None:
        self.files, self.key, self.what = Files(out), key, what
        self.taken_over = False  # from a run that was killed: it may have left half-made files
        me = _me()
        self.name, self._mine = str(me["lock"]), json.dumps(me).encode()

    def __enter__(self) -> StoreLock:
        if self.files.local is not None:
            refuse_links(self.files.local)  # whoever writes holds the lock
        for _ in range(3):
            with suppress(FileNotFoundError):  # swept away half-made, by one who took it for a dead run's: once more
                if self.files.create(self.key, self._mine):
                    return self
                if self._evict(self.key):
                    self.taken_over = True
                    return self
        raise StoreLockedError("the lock keeps changing hands", where=self.files.at(self.key), do="run again")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.files.read(self.key) == self._mine:
            self.files.delete(self.key)
        elif isinstance(error, OSError):
            self.held()  # what it had half made was swept away by the run that has the store now

    def held(self) -> None:
        """Raises StoreLockedError where it was taken for a dead run's: who has slept for long asks before it writes."""
        still_held(self.files.uri, self.name)

    def _evict(self, key: str) -> bool:
        """Put this lock in the place of one whose holder is dead; else say who holds it. Raises StoreLockedError.

        A dead one's lock is replaced under a lock of its own, named after what is replaced: so one at a time looks once
        more and replaces, what is there never is absent for a moment, and who comes late finds something else there.
        Whoever was killed in the middle of that is evicted in the same way.
        """
        raw = self.files.read(key)
        if raw is None:
            return False
        holder = _parse(raw)
        elsewhere = holder.get("host") != socket.gethostname()
        lost = _requeued_since(holder) or (elsewhere and _job_ended(holder))
        if (elsewhere or _alive(holder)) and not lost:
            raise StoreLockedError(
                f"{self.what} by process {holder.get('pid')} on {holder.get('host')}",
                where=self.files.at(key),
                why="another run is writing here; two runs would do the same slabs twice",
                do="wait for it, or, if you know that it is dead on its other host, delete the file named above",
            )
        guard = f"{self.key}.{sha256(raw).hexdigest()[:16]}"
        if not self.files.create(guard, self._mine) and not self._evict(guard):
            return False
        try:
            if self.files.read(key) != raw:
                return False
            self.files.keep(key, self._mine)
            return True
        finally:
            self.files.delete(guard)


def still_held(out: str, name: str) -> None:
    """Raises StoreLockedError unless the lock of that name is there: what an orphaned worker would write, after its
    driver has died and another run has begun or ended, belongs to nobody.
    """
    now = _parse(Files(out).read(KEY) or b"").get("lock")
    if now != name:
        raise StoreLockedError(
            "this run holds the store no more",
            where=Files(out).at(KEY),
            why="another run has taken it over" if now else "it has ended",
            do="nothing: what is left is done by the run that holds it, or by the next",
        )


def holder(out: str) -> str:
    """Who runs in a store now, in words; nothing where nobody does, as far as this host can tell."""
    said = _parse(Files(out).read(KEY) or b"")
    dead = not said or (said.get("host") == socket.gethostname() and not _alive(said))
    return "" if dead else f"process {said.get('pid')} on {said.get('host')}"


def _parse(raw: bytes) -> dict[str, Any]:
    try:
        said = json.loads(raw)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _requeued_since(holder: dict[str, Any]) -> bool:
    """Whether the holder was this very job of SLURM's before it was requeued: its node is lost, and it with it."""
    then, now = holder.get("slurm"), _slurm()
    return bool(then and now and then[:2] == now[:2] and then[2] < now[2])


def _job_ended(holder: dict[str, Any]) -> bool:
    """Whether the holder was a job of the cluster that this one runs in, and SLURM has it no more: of a night whose
    node was lost nobody else would ever tell. Where SLURM does not answer the holder is taken to live.
    """
    then, now = holder.get("slurm"), _slurm()
    if not (then and now and then[0] == now[0]):
        return False
    asked = ["squeue", "-h", "-j", str(then[1]), "-o", "%T"]
    try:
        told = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.SubprocessError):
        return False
    return not told.stdout.strip() if told.returncode == 0 else "Invalid job id" in told.stderr


def _slurm() -> list[Any]:
    """Cluster, job and how often it was restarted; nothing outside of jobs. An id alone comes back over restarts."""
    job, cluster = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_CLUSTER_NAME", "")
    return [cluster, job, int(os.environ.get("SLURM_RESTART_COUNT", 0))] if job else []


def _me() -> dict[str, Any]:
    """Who holds a lock; `lock` tells two of one process apart."""
    me, job = os.getpid(), _slurm()
    who = {"host": socket.gethostname(), "pid": me, "started": _started(me), "lock": os.urandom(8).hex()}
    return who | ({"slurm": job} if job else {})


def _alive(holder: dict[str, Any]) -> bool:
    """Whether this very process still runs: the pid alone may have been given to another."""
    pid = holder.get("pid")
    return isinstance(pid, int) and _started(pid) == holder.get("started")


def _started(pid: int) -> str:
    """The start time of a process in clock ticks after boot, with the boot's id; '' if there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] == "Z" else f"{boot}:{fields[19]}"
