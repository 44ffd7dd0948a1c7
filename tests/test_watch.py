"""zmend status -w: a run as it comes along, on a terminal, in a pipe and as JSON; it ends when the run does."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.watch import Progress, Watch
from tests.jobs import ROOT, Job, build, command


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    return build(tmp_path_factory.mktemp("job"))


def stopped_run(job: Job, out: str, monkeypatch: pytest.MonkeyPatch) -> subprocess.Popen[str]:
    """A real run that has stopped itself before its third record."""
    path = job.config(out, name=f"{out}.yaml", certificate=1)
    monkeypatch.setenv("ZMEND_FAILPOINTS", "read=eio@1,record=stop@3")
    run = command("run", path.name, "--json", cwd=job.folder)
    monkeypatch.delenv("ZMEND_FAILPOINTS")
    _, status = os.waitpid(run.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    return run


def test_a_pipe_gets_a_line_for_each_change_and_the_end(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    run = stopped_run(job, "piped.zarr", monkeypatch)
    watch = command("status", "piped.zarr", "-w", "--every", "0.05", cwd=job.folder)
    assert watch.stdout is not None
    first = watch.stdout.readline()
    assert "restoring, 2 of " in first and "1 failed attempts" in first and "\x1b" not in first
    run.send_signal(signal.SIGCONT)
    slabs = json.loads(run.communicate(timeout=200)[0])["slabs"]
    text, err = watch.communicate(timeout=200)
    assert watch.returncode == 0, err
    last = text.splitlines()[-1]
    assert f"ended, {slabs} of {slabs} slabs" in last
    assert len(set(text.splitlines())) == len(text.splitlines()), "a line is a change"


def test_ctrl_c_ends_the_watching_alone(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    run = stopped_run(job, "alone.zarr", monkeypatch)
    watch = command("status", "alone.zarr", "-w", "--json", "--every", "0.05", cwd=job.folder)
    assert watch.stdout is not None
    told = json.loads(watch.stdout.readline())
    assert (told["live"], told["phase"], told["done"], told["failures"], told["workers"]) == (True, "restoring", 2, 1, 1)
    assert told["pending"] == told["slabs"] - 2 > 0
    watch.send_signal(signal.SIGINT)
    _, err = watch.communicate(timeout=100)
    assert (watch.returncode, err) == (0, "")
    run.send_signal(signal.SIGCONT)
    assert run.communicate(timeout=200) and run.returncode == 0
    found = Watch(str(job.folder / "alone.zarr")).look()
    assert (found["live"], found["phase"], found["pending"], found["seconds_left"]) == (False, "ended", 0, 0)


def test_on_a_terminal_there_is_one_pane(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    run = stopped_run(job, "shown.zarr", monkeypatch)
    ours, theirs = pty.openpty()
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "120"}
    script = [sys.executable, "zmend_main.py", "status", "shown.zarr", "-w", "--every", "0.05"]
    watch = subprocess.Popen(script, cwd=job.folder, env=env, stdout=theirs, stderr=theirs, stdin=theirs, start_new_session=True)
    os.close(theirs)
    seen = _until(ours, "slabs")
    assert "2/" in seen and "restoring" in seen and "\x1b[" in seen
    run.send_signal(signal.SIGCONT)
    assert run.communicate(timeout=200) and run.returncode == 0
    seen = _until(ours, "")
    assert watch.wait(timeout=100) == 0 and "ended" in seen and "Traceback" not in seen


def _until(terminal: int, words: str) -> str:
    """What the terminal shows until these words are there, or until it is closed, for none."""
    seen = b""
    while not words or words.encode() not in seen:
        assert select.select([terminal], [], [], 200)[0]
        try:
            part = os.read(terminal, 65536)
        except OSError:  # closed
            break
        if not part:
            break
        seen += part
    return seen.decode(errors="replace")


def test_where_nobody_is_at_work_it_says_so_once(job: Job, tmp_path: Path) -> None:
    job.run("idle.zarr", certificate=0)
    watch = command("status", "idle.zarr", "-w", cwd=job.folder)
    text, err = watch.communicate(timeout=100)
    assert watch.returncode == 0, err
    assert len(text.splitlines()) == 1 and "ended" in text
    watch = command("status", "raw.zarr/nowhere", "-w", cwd=job.folder)
    assert "no zmend store here" in watch.communicate(timeout=100)[1] and watch.returncode == 3


def test_a_log_that_is_being_written_and_one_of_strangers(tmp_path: Path) -> None:
    folder = tmp_path / "zmend/runs/20260101T000000-000001"
    folder.mkdir(parents=True)
    begin = {"kind": "begin", "slabs": 9, "todo": 8, "time": "2026-01-01T00:00:00+0000"}
    slab = {"kind": "slab", "status": "done", "worker": "a", "stages": {"restore": 3.0}, "time": "2026-01-01T00:00:04+0000"}
    whole = json.dumps(begin) + "\n" + json.dumps(slab) + "\n" + 'nonsense\n{"kind": "slab"}\n[1]\n'
    cut = len(json.dumps(begin)) + 20
    watch, log = Watch(str(tmp_path)), folder / "log.jsonl"
    log.write_text(whole[:cut])
    assert watch.look()["done"] == 1
    log.write_text(whole)
    found = watch.look()
    assert (found["done"], found["slabs_per_second"], found["seconds_left"], found["restorer_share"]) == (2, 0.25, 28, 0.75)
    later = tmp_path / "zmend/runs/20260102T000000-000001"
    later.mkdir()
    assert watch.look()["run"] == later.name and watch.look()["done"] == 0


def test_a_run_that_has_just_begun_knows_no_pace() -> None:
    found = Progress("r").document(live=True, out="o")
    assert found["slabs_per_second"] is found["seconds_left"] is found["restorer_share"] is None
