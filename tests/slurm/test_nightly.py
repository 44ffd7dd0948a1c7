"""The job that submits itself again, on a real SLURM: a volume that grows is kept mended, through kills and requeues."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.jobs import ROOT
from tests.nights import DEPTHS, Nights
from tests.slurm.daemons import queue
from tests.slurm.runs import empties

pytestmark = [pytest.mark.usefixtures("slurm"), pytest.mark.timeout(280)]
NAME = "zmend-zmend-nightly"


def listed(state: str) -> list[str]:
    told = subprocess.run(["squeue", "-h", "-n", NAME, "-t", state, "-o", "%A"], capture_output=True, text=True, check=True)
    return told.stdout.split()


def test_a_job_that_submits_itself_keeps_a_volume_mended(tmp_path: Path) -> None:
    nights = Nights(tmp_path)
    text = nights.render("sbatch", "--at", "now+3")
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    first = subprocess.run(["sbatch", "--parsable"], input=text, env=env, capture_output=True, text=True, check=True).stdout.strip()
    try:
        nights.mended()
        nights.grow(DEPTHS[1])
        nights.kill()
        nights.mended()
        nights.grow(DEPTHS[2])
        nights.until(lambda: listed("R"), "a night is at work")
        subprocess.run(["scontrol", "requeue", listed("R")[0]], check=False, capture_output=True)
        nights.mended()
        nights.until(lambda: len(listed("PD")) == 1, "one successor waits, not two")
        assert first not in queue()
    finally:
        while queue():
            subprocess.run(["scancel", f"--name={NAME}"], check=True)
            empties_soon()
    nights.ends_as_one_go()


def empties_soon() -> None:
    try:
        empties(15)
    except AssertionError:
        return
