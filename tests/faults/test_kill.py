"""SIGKILL, anywhere, any number of times: the next run ends with the same store, and no finished slab is done again."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from pipeline.verify import verify
from tests.jobs import ENSEMBLE, Job, build, command, store_digest

SLOW = {**ENSEMBLE, "options": {"sleep": 0.02}}


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    job = build(tmp_path_factory.mktemp("kill"))
    job.run("undisturbed.zarr", recipe=SLOW, site={"slab_px": 128})
    return job


def slabs_worked_on(out: Path) -> Counter[str]:
    logs = [line for log in sorted(out.glob("zmend/runs/*/log.jsonl")) for line in log.read_text().splitlines()]
    return Counter(e["slab"] for e in map(json.loads, logs) if e["kind"] == "slab")


def finished(out: Path) -> int:
    return len(list(out.glob("zmend/records/??/*.json")))


def kill_group(process) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)


def group(process) -> list[int]:
    """Living processes of the run's group."""
    stats = [p.read_text().rpartition(")")[2].split() for p in Path("/proc").glob("[0-9]*/stat") if p.exists()]
    return [int(s[2]) for s in stats if s[2] == str(process.pid) and s[0] != "Z"]


def kill_driver(process) -> None:
    """The driver alone: its workers are left behind, and must end by themselves."""
    process.kill()
    process.wait(timeout=60)
    deadline = time.monotonic() + 60
    while group(process):
        assert time.monotonic() < deadline, "orphans live on"
        time.sleep(0.05)
    process.communicate(timeout=60)


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_run_resumes_to_the_same_store(job: Job, workers: int) -> None:
    rng = random.Random(11 + workers)
    out = job.folder / f"killed{workers}.zarr"
    config = job.config(out.name, recipe=SLOW, site={"slab_px": 128, "workers": workers}, name=f"kill{workers}.yaml")
    wanted = len(list((job.folder / "undisturbed.zarr").glob("zmend/records/??/*.json")))
    for kill in range(3):
        process = command("run", str(config), cwd=job.folder)
        target = (kill + 1) * wanted // 5
        while finished(out) < target:
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.01)
        time.sleep(rng.random() * 0.2)
        before = finished(out)
        (kill_driver if kill == 1 else kill_group)(process)
        assert finished(out) >= before, "what was finished stays finished"
    last = command("run", str(config), "--json", cwd=job.folder)
    document = json.loads(last.communicate(timeout=200)[0])
    assert document["done"] == wanted
    assert store_digest(out) == store_digest(job.folder / "undisturbed.zarr")
    assert (out / "zmend/certificate.json").exists()
    assert (out / "zmend/uncertainty/c").is_dir()
    assert max(slabs_worked_on(out).values()) == 1, "no finished slab is redone"
    assert verify(str(out), replay=2)["ok"]


def test_killed_while_merging(job: Job) -> None:
    out = job.folder / "merge.zarr"
    config = job.config(out.name, recipe=SLOW, site={"slab_px": 128}, name="merge.yaml")
    wanted = len(list((job.folder / "undisturbed.zarr").glob("zmend/records/??/*.json")))
    for delay in (0.0, 0.01, 0.03):
        process = command("run", str(config), cwd=job.folder)
        while finished(out) < wanted or not (out / "zmend/merge.json").exists():
            if process.poll() is not None:
                break
            time.sleep(0.002)
        time.sleep(delay)
        kill_group(process)
    last = command("run", str(config), "--json", cwd=job.folder)
    last.communicate(timeout=120)
    assert last.returncode == 0
    assert store_digest(out) == store_digest(job.folder / "undisturbed.zarr")


def test_a_worker_that_dies_is_replaced_and_its_slab_done(job: Job) -> None:
    marks = job.folder / "marks"
    marks.mkdir()
    out = job.folder / "deadly.zarr"
    recipe = {"restorer": "tests.toys:Deadly", "options": {"marks": str(marks)}}
    config = job.config(out.name, recipe=recipe, site={"slab_px": 128, "workers": 2}, name="deadly.yaml")
    process = command("run", str(config), "--json", cwd=job.folder)
    stdout, stderr = process.communicate(timeout=200)
    assert process.returncode == 0, stderr
    assert len(list(marks.iterdir())) == 2, "two workers died"
    assert json.loads(stdout)["done"] == json.loads(stdout)["slabs"]
    assert verify(str(out))["ok"]
