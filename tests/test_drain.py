"""How workers leave: all that one process has started, as dask-cuda starts one for each GPU."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from distributed import Client

from pipeline.cluster import DASK_YAML
from tests.test_scheduler import Outside


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_every_worker_of_a_job_says_goodbye(number: int, tmp_path: Path) -> None:
    there = Outside()
    there.scheduler()
    command = [sys.executable, "-m", "distributed.cli.dask_worker", there.address, "--nworkers", "2", "--nthreads", "1"]
    command += ["--dashboard-address", "127.0.0.1:0", "--preload-nanny", "pipeline.drain"]
    env = {**os.environ, "DASK_CONFIG": str(DASK_YAML), "DASK_DISTRIBUTED__WORKER__PRELOAD": '["pipeline.drain"]'}
    said = tmp_path / "said.txt"
    with said.open("wb") as file:
        job = subprocess.Popen(command, env=env, stderr=file)
    try:
        with Client(there.address, set_as_default=False) as client:
            until(lambda: len(client.nthreads()) == 2, "two workers come")
            held = client.map(time.sleep, [600, 601], pure=False)
            until(lambda: all(client.processing().values()), "each has one")
            job.send_signal(number)
            until(lambda: not client.nthreads(), "both leave")
            assert client.run_on_scheduler(suspicion) == [0, 0], f"neither slab is suspected:\n{said.read_text()}"
            assert len(held) == 2
            assert job.wait(60) == 0 or number == signal.SIGTERM
    finally:
        job.kill()
        job.wait()
        there.end()


def suspicion(dask_scheduler: Any) -> list[int]:
    return [ts.suspicious for ts in dask_scheduler.tasks.values() if "sleep" in str(ts.key)]


def until(ready: Callable[[], bool], what: str, seconds: float = 100) -> None:
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, what
        time.sleep(0.1)
