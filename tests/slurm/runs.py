"""Runs on the test SLURM: started as people start them, and compared with the serial run when they have ended."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from tests.jobs import TOY, Job, command, store_digest
from tests.slurm.daemons import queue

SLOW = {"restorer": TOY, "options": {"sleep": 0.2}}  # so that there is time to disturb
SITE = {"kind": "slurm", "workers": 2, "cores": 1, "memory": "1GB", "walltime": "00:10:00", "interface": "lo"}


class Run:
    """`zmend run CONFIG --site FILE`, in the background."""

    def __init__(self, job: Job, out: str, **site: Any) -> None:
        self.job, self.out = job, job.folder / out
        self.site = job.folder / f"{out}.site.yaml"
        self.site.write_text(yaml.safe_dump({**SITE, **site}))
        self.config = job.config(out, recipe=SLOW, site={"slab_px": 128}, name=f"{out}.yaml")
        self.start()

    def start(self) -> None:
        self.process = command("run", str(self.config), "--site", str(self.site), "--json", cwd=self.job.folder)

    def finished(self) -> int:
        """Slabs that have a record."""
        return len(list(self.out.glob("zmend/records/??/*.json")))

    def until(self, ready: Callable[[], bool], what: str, seconds: float = 45) -> None:
        end = time.monotonic() + seconds
        while not ready():
            assert self.process.poll() is None, f"ended before {what}: {self.process.communicate()}"
            assert time.monotonic() < end, f"not within {seconds} s: {what}\n{self.logs()}"
            time.sleep(0.05)

    def works(self, slabs: int = 2) -> None:
        """Wait until some slabs are done."""
        self.until(lambda: self.finished() >= slabs, f"{slabs} slabs done")

    def ends_like_the_serial_run(self, seconds: float = 60) -> dict[str, Any]:
        """Wait for the end: exit 0, every byte as the serial run's, and nothing left in the queue."""
        out, err = self.process.communicate(timeout=seconds)
        assert self.process.returncode == 0, f"{err}\n{self.logs()}"
        assert store_digest(self.out) == store_digest(self.job.folder / "serial.zarr")
        empties()
        return json.loads(out)

    def jobs(self) -> list[str]:
        """Ids of the jobs that run."""
        found = subprocess.run(["squeue", "-h", "-t", "R", "-o", "%A"], capture_output=True, text=True, check=True)
        return found.stdout.split()

    def events(self, kind: str) -> list[dict[str, Any]]:
        lines = [line for log in sorted(self.out.glob("zmend/runs/*/log.jsonl")) for line in log.read_text().splitlines()]
        return [e for e in map(json.loads, lines) if e["kind"] == kind]

    def logs(self) -> str:
        folder = Path(f"{self.out}.jobs")
        return "\n".join(f"--- {p.name}\n{p.read_text()[-1500:]}" for p in sorted(folder.glob("*.err")))


def empties(seconds: float = 25) -> None:
    """Wait until the queue is empty."""
    end = time.monotonic() + seconds
    while left := queue():
        assert time.monotonic() < end, subprocess.run(["squeue"], capture_output=True, text=True, check=False).stdout + str(left)
        time.sleep(0.1)


def submit(*args: str, wrap: str) -> str:
    """The id of a job of somebody else's."""
    done = subprocess.run(["sbatch", "--parsable", "-o", "/dev/null", *args, f"--wrap={wrap}"], capture_output=True, text=True, check=True)
    return done.stdout.strip()
