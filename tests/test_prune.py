"""Prune: room is made by what no revert needs; all that is still promised comes back byte for byte."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import PlanChangedError, RevertError
from pipeline.prune import prune
from pipeline.revert import revert
from tests.jobs import Job, build, command, put_back, tree
from tests.test_revert import OTHER, PARTS, SHAPE, check, outcome, runs


@pytest.fixture(scope="module")
def thrice(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """Three runs, each with other voxels in every flagged section, and what the store was after the second."""
    job = build(tmp_path_factory.mktemp("thrice"), SHAPE, chunks=(2, 64, 64))
    job.flags("3\n6\n")
    job.run(**PARTS)
    job.run(**PARTS, **OTHER)
    (job.folder / "second.json").write_text(json.dumps(outcome(job.folder / "out.zarr")))
    job.run(**PARTS, recipe={"seed": 4})
    return job


@pytest.fixture
def job(thrice: Job, tmp_path: Path) -> Iterator[Job]:
    yield from put_back(thrice, tmp_path)


def kept(out: Path) -> dict[str, int]:
    """Bytes of chunks that are kept, by run."""
    found: dict[str, int] = {}
    for path in (p for p in (out / "zmend/kept").rglob("*") if p.is_file() and p.name != "zarr.json"):
        run = path.relative_to(out / "zmend/kept").parts[0]
        found[run] = found.get(run, 0) + path.stat().st_size
    return found


def test_what_the_last_run_replaced_stays_and_what_is_older_goes(job: Job) -> None:
    out = job.folder / "out.zarr"
    first, second, third = runs(out)
    before, held = tree(out), kept(out)
    assert set(held) == {first, second}
    planned = prune(str(out), 1, dry=True)
    assert tree(out) == before, "a dry run removes nothing"
    assert planned["bytes"] == held[first] and planned["chunks"] > 0
    assert prune(str(out), 1) == {**planned, "dry_run": False}
    assert kept(out) == {second: held[second]}
    assert not (out / f"zmend/kept/{first}").exists()
    check(out)
    with pytest.raises(RevertError, match="parts of that state are lost"):
        revert(str(out), second)
    revert(str(out), third)
    assert outcome(out) == json.loads((job.folder / "second.json").read_text())


def test_a_clock_that_is_set_back_takes_nothing_from_the_last_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the night in which an hour comes twice."""
    job, out, real = build(tmp_path, SHAPE, chunks=(2, 64, 64)), tmp_path / "out.zarr", time.time_ns
    job.flags("3\n")
    for hours, seed in enumerate((0, 1, 2)):
        monkeypatch.setattr("pipeline.runlog.time.time_ns", lambda hours=hours: real() - hours * 3600 * 10**9)
        before, last = outcome(out) if seed else {}, job.run(**PARTS, recipe={"seed": seed})["run"]
    prune(str(out), 1)
    assert revert(str(out), last)["brought_back"] > 0 and outcome(out) == before


def test_nothing_goes_that_the_runs_asked_for_need(job: Job) -> None:
    out = job.folder / "out.zarr"
    before = tree(out)
    assert prune(str(out), 3)["chunks"] == prune(str(out), 99)["chunks"] == 0
    assert {k: v for k, v in tree(out).items() if "lock" not in k} == {k: v for k, v in before.items() if "lock" not in k}
    assert prune(str(out), 0)["chunks"] > 0
    assert kept(out) == {}
    check(out)


def test_where_a_run_was_killed_nothing_is_thrown_away(job: Job) -> None:
    out = job.folder / "out.zarr"
    (out / "zmend/seal.json").unlink()
    with pytest.raises(PlanChangedError, match="was killed here") as e:
        prune(str(out), 0)
    assert "run the same command again" in e.value.do
    said = command("prune", str(out), cwd=job.folder)
    words = said.communicate(timeout=240)
    assert said.returncode == 3 and "was killed here" in words[1]
