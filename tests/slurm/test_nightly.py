"""The job that submits itself again, on a real SLURM: a volume that grows is kept mended, through kills and requeues."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.schedule import render
from pipeline.site import Site
from tests.jobs import ROOT
from tests.nights import DEPTHS, Nights
from tests.slurm.daemons import queue
from tests.slurm.runs import empties

pytestmark = [pytest.mark.usefixtures("slurm"), pytest.mark.timeout(280)]


def listed(name: str, state: str) -> list[str]:
    told = subprocess.run(["squeue", "-h", "-n", name, "-t", state, "-o", "%A"], capture_output=True, text=True, check=True)
    return told.stdout.split()


def test_a_job_that_submits_itself_keeps_a_volume_mended(tmp_path: Path) -> None:
    nights = Nights(tmp_path)
    text = nights.render("sbatch", "--at", "now+3")
    name = text.partition("--job-name=")[2].split()[0]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    first = subprocess.run(["sbatch", "--parsable"], input=text, env=env, capture_output=True, text=True, check=True).stdout.strip()
    try:
        nights.mended()
        nights.grow(DEPTHS[1])
        nights.kill()
        nights.mended()
        nights.grow(DEPTHS[2])
        nights.until(lambda: listed(name, "R"), "a night is at work")
        subprocess.run(["scontrol", "requeue", listed(name, "R")[0]], check=False, capture_output=True)
        nights.mended()
        nights.until(lambda: len(listed(name, "PD")) == 1, "one successor waits, not two")
        assert first not in queue()
    finally:
        while queue():
            subprocess.run(["scancel", f"--name={name}"], check=True)
            empties_soon()
    nights.ends_as_one_go()


def test_a_night_logs_into_its_own_folder_whatever_that_is_called(tmp_path: Path) -> None:
    """And each project has its own chain of jobs."""
    names = []
    try:
        for folder in (tmp_path / "my 100%j", tmp_path / "other"):
            folder.mkdir()
            text = render("sbatch", Site(), folder / "zmend.yaml", folder / "zmend.nightly", [], at="now+1hour")
            (folder / "zmend.nightly").mkdir()
            names.append(text.partition("--job-name=")[2].split()[0])
            subprocess.run(["sbatch"], input=text, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True, check=True)
            log = folder / "zmend.nightly" / f"{names[-1]}.log"
            until(lambda log=log: log.exists() and "cannot be read" in log.read_text(), f"{log} tells")  # type: ignore[misc]
        assert [len(listed(name, "PD")) for name in names] == [1, 1], "each has its own successor"
    finally:
        for name in names:
            subprocess.run(["scancel", f"--name={name}"], check=True)
        empties_soon()


def until(ready: Callable[[], bool], what: str, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.1)


def empties_soon() -> None:
    try:
        empties(15)
    except AssertionError:
        return
