"""Runs on a real SLURM, disturbed in every way that clusters know: each ends as the serial run, with an empty queue."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

from tests.jobs import Job
from tests.slurm.daemons import Slurm, queue
from tests.slurm.runs import Run, empties, submit

pytestmark = [pytest.mark.usefixtures("slurm"), pytest.mark.timeout(120)]


def test_a_worker_that_is_cancelled_is_replaced(job: Job) -> None:
    run = Run(job, "scancel.zarr")
    run.works()
    first = run.jobs()
    subprocess.run(["scancel", first[0]], check=True)
    run.until(lambda: len(set(run.jobs()) - set(first)) == 1, "another job runs")
    run.ends_like_the_serial_run()
    assert any("replaced" in e["text"] for e in run.events("warning"))
    assert not run.events("failure"), "a slab that was given back has not failed"


def test_a_worker_that_is_requeued_comes_back(job: Job) -> None:
    run = Run(job, "requeue.zarr", partition="low")
    run.works()
    first = run.jobs()
    subprocess.run(["scontrol", "requeue", first[0]], check=True)
    run.until(lambda: restarts(first[0]) == 1, "it was requeued")
    run.until(lambda: set(run.jobs()) == set(first), "it is back, in the same job")
    run.ends_like_the_serial_run()
    assert not run.events("warning"), "what SLURM brings back is not replaced"


def test_workers_that_are_preempted_come_back(job: Job) -> None:
    run = Run(job, "preempt.zarr", partition="low")
    run.works()
    mine, node = set(run.jobs()), nodes()
    submit("-p", "high", "--exclusive", f"--nodelist={node[0]}", wrap="sleep 1")
    run.until(lambda: not mine <= set(run.jobs()), "a worker made place", 30)
    run.ends_like_the_serial_run()
    assert not run.events("failure"), "preemption is not failure"


def nodes() -> list[str]:
    return subprocess.run(["squeue", "-h", "-o", "%N"], capture_output=True, text=True, check=True).stdout.split()


def restarts(job: str) -> int:
    told = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True, check=True).stdout
    return int(told.partition("Restarts=")[2].split()[0])


def test_a_node_whose_daemon_is_killed(job: Job, slurm: Slurm) -> None:
    run = Run(job, "slurmd.zarr")
    run.works()
    node = nodes()[0]
    slurm.kill_node(node)
    try:
        run.works(run.finished() + 2)
    finally:
        slurm.start_node(node)
    run.ends_like_the_serial_run()


def test_a_driver_that_is_killed_leaves_no_jobs_behind(job: Job) -> None:
    run = Run(job, "driver.zarr", workers=4, cores=4, death_timeout_s=15)  # three nodes: one job has to wait
    run.works()
    os.killpg(run.process.pid, signal.SIGKILL)
    run.process.communicate(timeout=30)
    before = run.finished()
    assert 0 < before < 20
    empties(45)  # those that ran have lost their scheduler; the one that waited found none
    name = f"zmend-{run.logs().partition('zmend-')[2][:8]}"
    orphan = submit("-J", name, wrap="sleep 600")
    run.start()
    run.until(lambda: orphan not in queue(), "the orphan is reaped")
    run.ends_like_the_serial_run()
    assert not list((job.folder / "driver.zarr.jobs").glob("tls-*")), "keys of either run are gone"


def test_a_stop_does_not_wait_for_jobs_that_wait_in_the_queue(job: Job) -> None:
    run = Run(job, "queued.zarr", directives=["--begin=now+1hour"])
    run.until(lambda: len(queue()) == 2 and bool(run.events("begin")), "jobs are in the queue")
    run.process.terminate()
    _, err = run.process.communicate(timeout=40)
    assert run.process.returncode == 75, err
    assert "stopped with 0 of 36 slabs done" in err
    empties()
