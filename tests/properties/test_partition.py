"""The same bytes, however the work is cut, ordered, shared out or repeated."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.certificate import read
from pipeline.job import open_job, propose
from pipeline.plan import Plan
from pipeline.run import run
from pipeline.slab import compute
from pipeline.slabs import Slabs
from tests.jobs import ENSEMBLE, ROOT, TOY, Job, build, store_digest, voxel_digest, voxels

DATA = ROOT.parent / "shared" / "data" / "vnc_stack1.npz"
CUTS = [
    {"slab_px": 128}, {"slab_px": 256}, {"slab_px": "whole"}, {"slab_px": 128, "slab_sections": 1},
    {"slab_px": 256, "slab_sections": 2, "workers": 1}, {"slab_px": 128, "workers": 2},
]  # fmt: skip


@pytest.fixture(scope="module", params=["phantom", "real crop"])
def job(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Job:
    folder = tmp_path_factory.mktemp("partition")
    if request.param == "phantom":
        return build(folder)
    if not DATA.exists():
        pytest.skip("the real stacks are not here (../shared/data)")
    with np.load(DATA) as stacks:
        return build(folder, volume=stacks["raw"][:14, 300:600, 200:480])


@pytest.fixture(scope="module")
def reference(job: Job) -> str:
    job.run("reference.zarr", site={"slab_px": "whole", "workers": 0})
    return voxel_digest(job.folder / "reference.zarr")


@pytest.mark.parametrize("cut", CUTS, ids=str)
def test_any_partition_gives_the_same_voxels(job: Job, reference: str, cut: dict) -> None:
    out = "-".join(str(v) for v in cut.values()) + ".zarr"
    job.run(out, site={"slab_px": 256, **cut})
    assert voxel_digest(job.folder / out) == reference


@pytest.fixture(scope="module")
def spread(job: Job) -> np.ndarray:
    job.run("spread.zarr", recipe=ENSEMBLE, site={"slab_px": "whole", "workers": 0})
    counts = voxels(job.folder / "spread.zarr", "uncertainty")
    assert len(np.unique(counts)) > 50
    return counts


@pytest.mark.parametrize("cut", CUTS, ids=str)
def test_any_partition_gives_the_same_uncertainty(job: Job, spread: np.ndarray, cut: dict) -> None:
    out = "-".join(str(v) for v in cut.values()) + "-spread.zarr"
    job.run(out, recipe=ENSEMBLE, site={"slab_px": 256, **cut})
    np.testing.assert_array_equal(voxels(job.folder / out, "uncertainty"), spread)
    assert voxel_digest(job.folder / out) == voxel_digest(job.folder / "spread.zarr"), "label 5 too"
    assert read(str(job.folder / out))["tiles"] == read(str(job.folder / "spread.zarr"))["tiles"], "and the certificate"


@pytest.mark.parametrize("recipe", [{"restorer": TOY}, ENSEMBLE], ids=["plain", "ensemble"])
def test_serial_and_dask_agree(job: Job, recipe: dict) -> None:
    """Not only the voxels: the whole store, file by file."""
    for workers in (0, 2):
        job.run(f"workers{workers}-{len(recipe)}.zarr", recipe=recipe, site={"workers": workers})
    stores = [store_digest(job.folder / f"workers{w}-{len(recipe)}.zarr") for w in (0, 2)]
    assert stores[0] == stores[1]
    assert "zmend/certificate.json" in stores[0]
    assert any(name.startswith("zmend/uncertainty/c/") for name in stores[0]) == ("uncertainty" in recipe)


def test_order_does_not_matter(job: Job, reference: str) -> None:
    proposal = propose(job.load("shuffled.zarr", site={"slab_px": 128}))
    slabs = list(proposal.plan.slabs)
    random.Random(5).shuffle(slabs)
    run(replace(proposal, plan=Plan(proposal.plan.header, Slabs.of(slabs))))
    assert voxel_digest(job.folder / "shuffled.zarr") == reference


def test_a_slab_computed_twice_is_the_same(job: Job) -> None:
    proposal = propose(job.load("twice.zarr"))
    run(proposal)
    opened = open_job(str(job.folder / "twice.zarr"), proposal.plan.hash)
    for slab in proposal.plan.slabs[:4]:
        a, b = compute(slab, opened), compute(slab, opened)
        np.testing.assert_array_equal(a.sections, b.sections)
        np.testing.assert_array_equal(a.labels, b.labels)


def test_the_toy_would_notice(job: Job, reference: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A restorer that looks further than its halo breaks the promise, and these tests see it."""
    monkeypatch.setattr("tests.toys.Textured.halo", 0)
    job.run("blind.zarr", recipe={"restorer": TOY})
    assert voxel_digest(job.folder / "blind.zarr") != reference


def test_the_toy_ensemble_would_notice(job: Job, spread: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """The spread too looks as far as the halo: cut differently without one, it comes out differently."""
    monkeypatch.setattr("tests.toys.Ensemble.halo", 0)
    job.run("blind-spread.zarr", recipe=ENSEMBLE)
    assert (voxels(job.folder / "blind-spread.zarr", "uncertainty") != spread).any()


def test_the_weights_that_ship_keep_the_promise_too(tmp_path: Path) -> None:
    """Bit for bit, with one or two torch threads, whole or cut in the middle of tiles."""
    job = build(tmp_path, (10, 144, 272))  # two tiles: a real one takes seconds
    job.flags("z_start,z_stop,class,y_start,y_stop,x_start,x_stop\n4,5,missing,,,,\n7,8,crack,120,140,100,272\n")
    recipe = {"restorer": "diffusion", "steps": 2}
    digests = set()
    for number, site in enumerate(({"workers": 0, "slab_px": "whole", "threads": 2}, {"workers": 2, "slab_px": 128})):
        job.run(f"{number}.zarr", recipe=recipe, site=site, certificate=0)
        digests.add(voxel_digest(tmp_path / f"{number}.zarr"))
    assert len(digests) == 1
