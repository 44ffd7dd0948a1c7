"""Ctrl-C and SIGTERM, more of them than are needed: a command ends as one that was interrupted, and leaves nothing."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

from pipeline.summary import status
from tests.jobs import ROOT, build, command

UNWINDING = """
import atexit, pathlib, sys, time
from pipeline.cli import main
from pipeline.cli.root import cli

@cli.command()
def wait():
    print("ready", flush=True)
    time.sleep(600)

end = pathlib.Path(sys.argv.pop())

def held():  # an end that takes its time, as that of a process with many threads does
    while not end.exists():
        time.sleep(0.01)

atexit.register(held)
main()
"""


def heard(stream: IO[str] | None, words: str) -> None:
    """Read on until these words were said."""
    assert stream is not None
    said = []
    for line in stream:
        said.append(line)
        if words in line:
            return
    raise AssertionError("".join(said))


@contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """Whatever the test says of it."""
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_third_signal_finds_a_run_deaf_that_stops_at_once(number: signal.Signals, tmp_path: Path) -> None:
    job = build(tmp_path)
    options = {"restorer": "tests.toys:Held", "options": {"marks": str(tmp_path)}}
    config = job.config(recipe=options, site={"workers": 0, "slab_px": 128})
    with ended(command("run", str(config), cwd=tmp_path)) as process:
        third(process, number, tmp_path, str(job.folder / "out.zarr"))
    assert not status(str(job.folder / "out.zarr"))["locked"]


def third(process: subprocess.Popen[str], number: signal.Signals, tmp_path: Path, out: str) -> None:
    while not (tmp_path / "begun").exists():
        time.sleep(0.02)
        assert process.poll() is None
    process.send_signal(number)
    heard(process.stderr, "stopping after the slabs in hand")
    process.send_signal(number)
    heard(process.stderr, f"stopping at once; should it hang, kill -9 {process.pid} does no harm")
    for _ in range(5):  # lanes are still at work, and waited for
        process.send_signal(number)
        time.sleep(0.05)
    assert process.poll() is None and status(out)["locked"]
    (tmp_path / "on").touch()
    _, err = process.communicate(timeout=120)
    assert process.returncode == 75, err
    assert "run the same command again" in err and "Traceback" not in err and "stopping at once" not in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_has_been_interrupted_is_not_killed_while_it_ends(number: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(UNWINDING)
    words = [sys.executable, str(tmp_path / "main.py"), "wait", str(tmp_path / "end")]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with ended(subprocess.Popen(words, env={"PYTHONPATH": str(ROOT)}, text=True, **pipes)) as process:
        heard(process.stdout, "ready")
        process.send_signal(number)
        heard(process.stderr, "run the same command again to go on")
        for _ in range(2):
            process.send_signal(number)
            time.sleep(0.05)
        assert process.poll() is None
        (tmp_path / "end").touch()
        _, err = process.communicate(timeout=60)
        assert process.returncode == 75, err
