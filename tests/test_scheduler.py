"""A scheduler of somebody else's, on this host: what a run says and does when it dies, and when it comes back."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline import cluster
from pipeline.attempts import Attempts
from pipeline.cluster import DASK_YAML
from pipeline.crew import Crew
from pipeline.errors import UnfitError
from pipeline.fitness import scheduler
from pipeline.site import Site
from tests import toys
from tests.test_crew import Slabs

N = "{:032x}".format


class Outside:
    """`dask scheduler` and one `dask worker`, as a user starts them; on loopback, so that they need no certificates."""

    def __init__(self) -> None:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.address = f"tcp://127.0.0.1:{s.getsockname()[1]}"
        self.processes: list[subprocess.Popen[bytes]] = []

    def scheduler(self) -> subprocess.Popen[bytes]:
        host, port = self.address.removeprefix("tcp://").split(":")
        started = self._start("scheduler", "--host", host, "--port", port)
        end = time.monotonic() + 150
        while not _answers(host, int(port)):
            assert time.monotonic() < end and started.poll() is None
            time.sleep(0.1)
        return started

    def worker(self) -> subprocess.Popen[bytes]:
        return self._start("worker", self.address, "--nthreads", "3", "--no-nanny")

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait(10)

    def _start(self, what: str, *args: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"distributed.cli.dask_{what}", *args, "--dashboard-address", "127.0.0.1:0"]
        env = {**os.environ, "DASK_CONFIG": str(DASK_YAML)}
        self.processes.append(subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL))
        return self.processes[-1]


def _answers(host: str, port: int) -> bool:
    with socket.socket() as s:
        return s.connect_ex((host, port)) == 0


@pytest.fixture
def outside() -> Iterator[Outside]:
    made = Outside()
    yield made
    made.end()


class Run:
    """A crew on that scheduler, and what it told."""

    def __init__(self, outside: Outside, n: int) -> None:
        self.site = Site(kind="scheduler", address=outside.address, workers=1)
        self.events: list[dict[str, Any]] = []
        self.done: list[str] = []
        self.n = n

    def __call__(self, after: int, then: Any) -> None:
        attempts = Attempts(self.site.attempts, self.events.append)
        with Crew(self.site, self.events.append, lambda: False) as crew:
            for found in crew.work(Slabs(self.n), toys.Echo(seconds=0.05), attempts):
                self.done.append(found["slab"])
                if len(self.done) == after:
                    then()

    @property
    def warnings(self) -> list[str]:
        return [e["text"] for e in self.events if e["kind"] == "warning"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "told to end"])
def test_a_scheduler_that_dies_is_named_and_no_slab_is_blamed(
    outside: Outside, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(cluster.SETTINGS, "distributed.comm.timeouts.connect", "4s")
    scheduler = outside.scheduler()
    outside.worker()
    run, began = Run(outside, 10_000), 0.0

    def kill() -> None:
        nonlocal began
        began = time.monotonic()
        scheduler.send_signal(number)

    with pytest.raises(UnfitError, match="the scheduler is gone") as e:
        run(5, kill)
    assert time.monotonic() - began < 30
    assert e.value.where == outside.address
    assert "nobody has answered there" in e.value.why
    assert "start it again" in e.value.do and "finished slabs are kept" in e.value.do
    assert [e for e in run.events if e["kind"] == "failure"] == []
    assert run.warnings == [f"the scheduler does not answer, and is waited for: {outside.address}"]


def test_a_scheduler_that_comes_back_gets_the_slabs_again(outside: Outside) -> None:
    """Its memory is lost with it, so that what was in flight is sent anew; and nothing of it counts as a failure."""
    first = outside.scheduler()
    old = outside.worker()
    run = Run(outside, 120)

    def replace() -> None:
        for process in (first, old):
            process.send_signal(signal.SIGKILL)
            process.wait(10)
        outside.scheduler()
        outside.worker()

    run(10, replace)
    assert sorted(set(run.done)) == [N(n) for n in range(120)]
    assert len(run.done) == 120
    assert [e for e in run.events if e["kind"] == "failure"] == []


def test_the_doctor_knows_whether_a_scheduler_is_there(outside: Outside, tmp_path: Path) -> None:
    site = Site(kind="scheduler", address=outside.address, workers=1)
    absent = scheduler(site)
    assert not absent["ok"] and outside.address in absent["detail"] and "refused" in absent["detail"]
    assert absent["do"] == "start it first; site.address, site.scheduler_file"
    outside.scheduler()
    assert scheduler(site)["detail"] == f"{outside.address} answers, 0 workers are there"
    with_keys = scheduler(Site(kind="scheduler", address=outside.address, workers=1, tls=str(tmp_path)))
    assert not with_keys["ok"] and "ca.pem is missing" in with_keys["detail"]
    no_file = scheduler(Site(kind="scheduler", scheduler_file=str(tmp_path / "s.json"), workers=1))
    assert not no_file["ok"] and "No such file" in no_file["detail"]
    elsewhere = scheduler(Site(kind="scheduler", address="tcp://127.0.0.1:port", workers=1))
    assert not elsewhere["ok"]
