"""Jobs that a site submits: what listens, what SLURM refuses, what dies at once, and how a worker leaves."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from pipeline import slurm as jobs
from pipeline.cluster import connect, make_certificates, workers
from pipeline.errors import UnfitError
from pipeline.site import Site
from tests.ports import answers, listening
from tests.slurm.runs import SITE, empties

pytestmark = [pytest.mark.usefixtures("slurm"), pytest.mark.timeout(120)]
NAME = "zmend-jobs"


def site(folder: Path, **more) -> Site:
    return Site.model_validate({**SITE, "workers": 1, "name": NAME, "folder": str(folder), **more})


def until(ready: Callable[[], bool], what: str, seconds: float = 40) -> None:
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, what
        time.sleep(0.1)


def processes_of_jobs() -> list[int]:
    found = []
    for p in psutil.process_iter():
        try:
            if p.environ().get("SLURM_JOB_NAME") == NAME:
                found.append(p.pid)
        except psutil.Error:
            continue
    return found


def test_nothing_of_a_job_answers_without_the_runs_certificate(tmp_path: Path) -> None:
    """On every interface of the host, as on a cluster. And the worker that is told to leave is not suspected."""
    make_certificates(tmp_path / "foreign")
    with connect(site(tmp_path / "jobs", interface=None)) as client:
        until(lambda: workers(client) == 1, "a worker comes")
        (keys,) = (tmp_path / "jobs").glob("tls-*")
        assert {oct(p.stat().st_mode)[-3:] for p in keys.iterdir()} == {"600"}
        found = listening([os.getpid(), *processes_of_jobs()])
        assert len(found) >= 3, "scheduler, nanny and worker"
        for port, address in found.items():
            host = address if address not in ("0.0.0.0", "::") else "127.0.0.1"
            assert answers(host, port, keys)
            assert not answers(host, port, None), f"{port} answers in plain text"
            assert not answers(host, port, tmp_path / "foreign"), f"{port} answers a foreign certificate"
        future = client.submit(time.sleep, 600, pure=False)
        tasks = client.cluster.scheduler.tasks
        until(lambda: future.key in tasks and tasks[future.key].processing_on is not None, "it works")
        subprocess.run(["scancel", "--batch", "--signal=USR1", f"--name={NAME}"], check=True)
        until(lambda: workers(client) == 0, "the worker leaves")
        assert tasks[future.key].suspicious == 0
    empties()
    assert not list((tmp_path / "jobs").glob("tls-*"))


def test_what_slurm_refuses_is_said_in_its_words(tmp_path: Path) -> None:
    with pytest.raises(UnfitError, match="SLURM refuses the worker jobs") as e, connect(site(tmp_path, partition="nowhere")):
        pass
    assert "invalid partition specified: nowhere" in e.value.why, e.value.why
    assert "zmend doctor" in e.value.do


def test_an_interface_that_is_not_there_is_named_and_nothing_is_submitted(tmp_path: Path) -> None:
    with pytest.raises(UnfitError, match="the scheduler of the jobs cannot be started on this host") as e, connect(site(tmp_path, interface="nope0")):
        pass
    assert e.value.where == "site.interface nope0"
    assert "nope0" in e.value.why and "`ip address` lists them" in e.value.do
    empties()
    assert not list(tmp_path.glob("tls-*"))


def test_jobs_that_end_before_they_work_are_not_replaced_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "POLL_S", 0.3)
    with connect(site(tmp_path, setup=["echo no such module >&2", "exit 3"])) as client:

        def check() -> bool:
            workers(client)
            return False

        with pytest.raises(UnfitError, match="worker jobs end before they work, 5 times in a row") as e:
            until(check, "it gives up")
    assert e.value.why == "no such module"
    assert "site.setup" in e.value.do
    empties()


def test_without_slurms_commands_nothing_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnfitError, match="SLURM does not answer") as e, connect(site(tmp_path)):
        pass
    assert "zmend doctor --site" in e.value.do
