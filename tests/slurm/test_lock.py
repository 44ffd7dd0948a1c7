"""The lock of a driver that is a job: its next life on another node takes it over; nobody else does."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from pipeline.errors import StoreLockedError
from pipeline.lock import StoreLock
from tests.slurm.runs import empties, submit


@pytest.mark.parametrize(
    ("job", "restarts", "mine"),
    [("7", "1", True), ("7", "0", False), ("8", "1", False), (None, None, False)],
    ids=["requeued", "the same life", "another job", "no job"],
)
def test_a_requeued_driver_takes_its_own_lock(job, restarts, mine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "zmend").mkdir()
    (tmp_path / "zmend/lock").write_text(json.dumps({"host": "a-lost-node", "pid": 1, "started": "x", "slurm": ["c", "7", 0]}))
    monkeypatch.setenv("SLURM_CLUSTER_NAME", "c")
    monkeypatch.setenv("PATH", "/nowhere")  # a cluster that runs for other tests knows no job 7, and would say so
    for key, value in (("SLURM_JOB_ID", job), ("SLURM_RESTART_COUNT", restarts)):
        monkeypatch.setenv(key, value) if value is not None else monkeypatch.delenv(key, raising=False)
    if mine:
        with StoreLock(str(tmp_path)) as lock:
            assert lock.taken_over
            assert json.loads((tmp_path / "zmend/lock").read_text())["slurm"] == ["c", "7", 1]
        return
    with pytest.raises(StoreLockedError, match="process 1 on a-lost-node"), StoreLock(str(tmp_path)):
        pass


@pytest.mark.usefixtures("slurm")
def test_a_job_that_is_over_holds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of another job, on a node that does not answer: SLURM is asked. Nobody outside of SLURM may know."""
    job = submit(wrap="sleep 60")
    (tmp_path / "zmend").mkdir()
    lock = tmp_path / "zmend/lock"
    lock.write_text(json.dumps({"host": "a-lost-node", "pid": 1, "started": "x", "slurm": ["c", job, 0]}))
    monkeypatch.setenv("SLURM_CLUSTER_NAME", "c")
    monkeypatch.setenv("SLURM_JOB_ID", "999")
    with pytest.raises(StoreLockedError, match="process 1 on a-lost-node"), StoreLock(str(tmp_path)):
        pass
    subprocess.run(["scancel", job], check=True)
    empties()
    empty = tmp_path / "slurm.conf"  # not one that is missing: SLURM would look for it on the network, for a minute
    empty.write_text("")
    for variable, other in (("SLURM_CLUSTER_NAME", "d"), ("SLURM_CONF", str(empty)), ("PATH", "/nowhere")):
        with monkeypatch.context() as patch:
            patch.setenv(variable, other)
            with pytest.raises(StoreLockedError), StoreLock(str(tmp_path)):
                pass
    with StoreLock(str(tmp_path)) as taken:
        assert taken.taken_over
    lock.write_text(json.dumps({"host": "a-lost-node", "pid": 1, "started": "x", "slurm": ["c", "987654", 0]}))
    with StoreLock(str(tmp_path)) as taken:
        assert taken.taken_over, "SLURM knows no such job any more"
