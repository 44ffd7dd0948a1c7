"""Quick jobs: done in the driver's own process, unless somebody asked for workers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline import rates
from pipeline.cost import Load, Rates
from pipeline.job import propose
from pipeline.quick import QUICK_S, at_home
from pipeline.rates import Calibration
from pipeline.recipe import Recipe
from pipeline.restorer import Linear, Needs, load
from pipeline.show import Progress
from pipeline.site import Site
from tests.jobs import Job, build

SMALL = Load(slabs=2, calls={1: 8}, read_bytes=10**7, seen_bytes=10**7)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    return build(tmp_path_factory.mktemp("quick"))


def workers(out: Path, asked: Load = SMALL, site: dict[str, Any] | None = None, **recipe: Any) -> int:
    made = Recipe.model_validate({"restorer": "linear", "batch": 1, **recipe})
    _, needs = load(made, (45.0, 4.6, 4.6))
    return at_home(Site.model_validate(site or {}), str(out / "out.zarr"), asked, needs, made).workers


def test_a_quick_job_needs_no_worker_unless_somebody_asked_for_one(tmp_path: Path) -> None:
    assert workers(tmp_path) == 0
    assert workers(tmp_path, site={"workers": 1}) == 1
    assert workers(tmp_path, site={"kind": "slurm"}) == 1
    assert workers(tmp_path, replace(SMALL, read_bytes=10**12)) == 1


def test_a_slow_restorer_and_one_that_nobody_knows_get_a_worker(tmp_path: Path) -> None:
    assert workers(tmp_path, restorer="tests.toys:Textured") == 1, "somebody's own: nobody knows how long it takes"
    needs = replace(Needs.parse(Linear(voxel_nm=None).needs, "linear"), mpx_s=0.1)
    for calls, left in ((1, 0), (100, 1)):
        found = at_home(Site(), str(tmp_path / "o.zarr"), Load(slabs=1, calls={1: calls}), needs, Recipe(batch=1))
        assert found.workers == left


@pytest.mark.parametrize(("call_s", "left"), [(QUICK_S / 9, 0), (QUICK_S / 7, 1)])
def test_what_was_measured_counts_more_than_a_guess(call_s: float, left: int, tmp_path: Path) -> None:
    made = Recipe.model_validate({"restorer": "linear", "batch": 1})
    _, needs = load(made, None)
    fits = {"restorer": needs.digest, "batch": 1, "draws": 0, "kind": "local", "threads": 64}
    rates.keep(str(tmp_path / "out.zarr"), Calibration(Rates({1: call_s}), fits, "today", "here", 1))
    assert workers(tmp_path) == left


def test_a_run_at_home_says_so(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    config = job.load("home.zarr", recipe={"restorer": "linear"})
    quick = propose(config.model_copy(update={"site": Site(slab_px=256)}))
    assert quick.at_home and quick.config.site.workers == 0
    assert not propose(config).at_home, "somebody asked for none"
    begun = {"kind": "begin", "run": "r", "slabs": 1, "todo": 1}
    with Progress() as show:
        show({**begun, "at_home": True})
    assert "in this process: it is a matter of seconds" in capsys.readouterr().err
