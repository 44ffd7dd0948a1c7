"""Worker: what travels to a worker, and what it does there with one slab."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

from pipeline import certificate
from pipeline.job import open_job
from pipeline.plan import Slab
from pipeline.slab import Job, restore


@dataclass(frozen=True)
class _Opens:
    """What a worker must know; with a slab's row, a few hundred bytes on the wire."""

    out: str
    plan: str
    threads: int

    def job(self) -> Job:
        """Everything that a worker needs, opened once."""
        with _OPENING:
            return open_job(self.out, self.plan, self.threads)


_OPENING = threading.Lock()  # two threads of a worker share one job: one model in memory, one lock around it


@dataclass(frozen=True)
class Task(_Opens):
    """Restores a slab."""

    run: str

    def __call__(self, row: list[Any]) -> dict[str, Any]:
        record = restore(Slab.of(row), self.job(), run=self.run)
        return {k: record[k] for k in ("slab", "status", "voxels", "bytes_read", "bytes_written", "seconds", "write")}


class Probe(_Opens):
    """Measures how well a tile of an intact section is restored."""

    def __call__(self, row: list[Any]) -> dict[str, Any]:
        return certificate.measure(Slab.of(row), self.job())
