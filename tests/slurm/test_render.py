"""The rendered batch scripts, as a user submits them: two sbatch commands, on a real SLURM."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.jobs import ROOT, Job, command, store_digest
from tests.slurm.daemons import queue
from tests.slurm.runs import SITE, SLOW, empties

pytestmark = [pytest.mark.usefixtures("slurm"), pytest.mark.timeout(180)]


class Batch:
    """A run whose driver is a job, too."""

    def __init__(self, job: Job, out: str) -> None:
        self.job, self.out, self.folder = job, job.folder / out, job.folder / f"{out}.jobs"
        site = job.folder / f"{out}.site.yaml"
        site.write_text(yaml.safe_dump({**SITE, "death_timeout_s": 20, "memory": "1GB"}))
        self.config = job.config(out, recipe=SLOW, site={"slab_px": 128}, name=f"{out}.yaml")
        made = command("run", str(self.config), "--site", str(site), "--render", str(self.folder), "--json", cwd=job.folder)
        told = made.communicate(timeout=60)
        assert made.returncode == 0, told

    def submit(self, name: str) -> str:
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(["sbatch", "--parsable", str(self.folder / name)], env=env, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def works(self) -> None:
        self.until(lambda: len(list(self.out.glob("zmend/records/??/*.json"))) > 1, "slabs are done")

    def until(self, ready: Callable[[], bool], what: str, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not ready():
            assert time.monotonic() < end, f"{what}\n{self.logs()}"
            time.sleep(0.1)

    def logs(self) -> str:
        return "\n".join(f"--- {p.name}\n{p.read_text()[-2000:]}" for p in sorted(self.folder.glob("*.log")))

    def ends_like_the_serial_run(self) -> None:
        self.until(lambda: (self.out / "zmend/merge.json").exists() and not (self.folder / "scheduler.json").exists(), "it ends", 90)
        empties(40)
        assert store_digest(self.out) == store_digest(self.job.folder / "serial.zarr"), self.logs()


def state(job: str) -> str:
    told = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True, check=True).stdout
    return told.partition("JobState=")[2].split()[0] + " " + told.partition("Restarts=")[2].split()[0]


def test_the_scripts_run_through_whatever_they_are_told(job: Job) -> None:
    """The driver meets its walltime and is requeued; so is a worker; the other stays, and finds the next driver."""
    batch = Batch(job, "batch.zarr")
    assert {oct(p.stat().st_mode)[-3:] for p in (batch.folder / "tls").iterdir()} == {"600"}
    workers, driver = batch.submit("workers.sbatch"), batch.submit("driver.sbatch")
    batch.works()
    subprocess.run(["scancel", "--batch", "--signal=USR1", driver], check=True)
    batch.until(lambda: state(driver).endswith("1"), "the driver is requeued")
    assert '"done"' not in batch.logs(), "it was interrupted"
    subprocess.run(["scancel", "--batch", "--signal=USR1", f"{workers}_1"], check=True)
    batch.until(lambda: state(f"{workers}_1").endswith("1"), "the worker is requeued")
    batch.ends_like_the_serial_run()
    assert state(driver).startswith("COMPLETED")


def test_of_two_drivers_the_second_waits_for_the_first(job: Job) -> None:
    """Submitted twice, by mistake: side by side the later would take the scheduler's file away from the earlier."""
    batch = Batch(job, "twice.zarr")
    first, second = batch.submit("driver.sbatch"), batch.submit("driver.sbatch")
    batch.until(lambda: state(first).startswith("RUNNING"), "the first runs")
    batch.until(lambda: "Dependency" in reason(second), "SLURM has looked at the second", 20)
    assert state(second).startswith("PENDING")
    subprocess.run(["scancel", second, first], check=True)
    empties(40)


def reason(job: str) -> str:
    told = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True, check=True).stdout
    return told.partition("Reason=")[2].split()[0]


def test_workers_without_a_driver_end_by_themselves(job: Job) -> None:
    batch = Batch(job, "orphans.zarr")
    batch.submit("workers.sbatch")
    batch.until(lambda: bool(queue()), "they are there", 5)
    empties(45)
    assert not Path(batch.out).exists()
