"""Source, flags, masks and output in a bucket: the same voxels, labels and records as on a disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from pipeline.box import Box
from pipeline.config import check
from pipeline.files import Files
from pipeline.job import make_store, propose
from pipeline.ledger import Ledger
from pipeline.remerge import remerge
from pipeline.revert import revert
from pipeline.run import run
from pipeline.store import is_store
from pipeline.summary import status
from pipeline.verify import verify
from pipeline.volume import Volume
from tests.jobs import command, voxels
from tests.s3.conftest import KEYS
from tests.s3.jobs import build, document, said, upload

UNSURE: dict[str, Any] = {"certificate": 1, "recipe": {"restorer": "tests.toys:Ensemble", "uncertainty": 4, "refuse_above": 12.0}}


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The job on a disk, run once with `linear` and once with an ensemble."""
    folder = tmp_path_factory.mktemp("local")
    build(folder)
    run(propose(check(document(str(folder)))))
    run(propose(check(document(str(folder), f"{folder}/unsure.zarr", **UNSURE))))
    return folder


@pytest.fixture
def place(local: Path, bucket: str) -> str:
    address = f"s3://{bucket}/project"
    for name in ("raw.zarr", "mask.zarr"):
        upload(local / name, f"{address}/{name}")
    Files(address).put("flags.csv", (local / "flags.csv").read_bytes())
    return address


@pytest.mark.parametrize(("recipe", "workers"), [({}, 2), (UNSURE, 0)], ids=["linear-two-workers", "ensemble"])
def test_a_run_in_a_bucket_equals_the_run_on_a_disk(place: str, local: Path, recipe: dict[str, Any], workers: int, tmp_path: Path) -> None:
    source = {s.key: s for s in Files(f"{place}/raw.zarr").walk()}
    out, twin = f"{place}/out.zarr", str(local / ("unsure.zarr" if recipe else "out.zarr"))
    (tmp_path / "zmend.yaml").write_text(yaml.safe_dump(document(place, **recipe, site={"workers": workers})))
    for verb in ("plan", "run"):
        process = command(verb, "zmend.yaml", "--json", cwd=tmp_path)
        text, err = process.communicate(timeout=100)
        assert process.returncode == 0, err
    summary = json.loads(text)
    assert summary["done"] == summary["slabs"] > 4
    assert said(out) == said(twin)
    for what in ("merged", "labels"):
        np.testing.assert_array_equal(voxels_of(out, what), voxels(twin, what))
    found = verify(out, replay=2)
    assert found["ok"], found
    assert found["voxels_changed_outside_mask"] == 0
    told = status(out)
    assert (told["pending"], told["merged"], told["locked"]) == (0, True, False)
    before = {s.key: s.etag for s in Files(out).walk() if not s.key.startswith("zmend/")}
    again = run(propose(check(document(place, **recipe))))
    assert (again["bytes_written"], again["done"]) == (0, summary["slabs"]), "run again, nothing is to do"
    assert {s.key: s.etag for s in Files(out).walk() if not s.key.startswith("zmend/")} == before
    assert {s.key: s for s in Files(f"{place}/raw.zarr").walk()} == source, "the source is never written"
    written = "".join((Files(out).read(s.key) or b"").decode("latin1") for s in Files(out).walk() if s.key.startswith("zmend/"))
    assert KEYS["AWS_SECRET_ACCESS_KEY"] not in written, "no secret in plans, records or logs"


def voxels_of(out: str, what: str) -> np.ndarray:
    array = Volume.open(f"{out}/{'0' if what == 'merged' else 'labels/synthetic/0'}")
    return array.read(Box.of(array.shape))


def test_overlay_first_merge_later(place: str, local: Path) -> None:
    out = f"{place}/out.zarr"
    run(propose(check(document(place, output={"mode": "overlay"}))))
    assert Files(f"{out}/0").names() is None
    merged = remerge(out)
    assert merged["chunks_copied"] > 0 and merged["chunks_linked"] == 0
    assert verify(out)["ok"]
    levels, twins = ({k: v for k, v in said(at).items() if k[0] in "012"} for at in (out, str(local / "out.zarr")))
    assert levels == twins
    again = remerge(out)
    assert (again["chunks_copied"], again["chunks_rewritten"], again["bytes_written"]) == (0, 0, 0)


def test_other_flags_do_only_what_changed_and_take_back_what_is_unflagged(place: str) -> None:
    first = run(propose(check(document(place))))
    old = Ledger(f"{place}/out.zarr").ids()
    Files(place).put("flags.csv", b"z_start,z_stop,class\n3,4,missing\n9,10,missing\n")
    second = run(propose(check(document(place))))
    assert second["bytes_written"] < first["bytes_written"] * 2
    ledger = Ledger(f"{place}/out.zarr")
    assert len(ledger.ids() & old) == 4, "section 3 stays"
    assert ledger.files.names() and not list(ledger.retiring())
    assert verify(f"{place}/out.zarr")["ok"]
    labels = voxels_of(f"{place}/out.zarr", "labels")
    assert [z for z in range(12) if labels[z].any()] == [3, 9]
    np.testing.assert_array_equal(voxels_of(f"{place}/out.zarr", "merged")[7], Volume.open(f"{place}/raw.zarr").read(Box((7, 0, 0), (8, 96, 96)))[0])


def test_a_spread_that_is_no_longer_asked_for_is_removed(place: str) -> None:
    out = f"{place}/out.zarr"
    run(propose(check(document(place, **UNSURE))))
    assert Files(f"{out}/zmend/uncertainty").names()
    run(propose(check(document(place))))
    assert not list(Files(f"{out}/zmend/uncertainty").walk())
    assert verify(out)["ok"]


def test_a_run_reverted_in_a_bucket_is_what_it_found(place: str) -> None:
    out = f"{place}/out.zarr"
    run(propose(check(document(place, **UNSURE))))
    before = said(out)
    last = run(propose(check(document(place))))["run"]
    after = said(out)
    back = revert(out, last)["run"]
    assert said(out) == before
    found = verify(out)
    assert found["ok"], found["checks"]
    revert(out, back)
    assert said(out) == after
    assert not list(Files(f"{out}/zmend/uncertainty").walk())


@pytest.mark.parametrize("where", ["source", "output"])
def test_one_side_in_a_bucket_the_other_on_a_disk(place: str, local: Path, where: str, tmp_path: Path) -> None:
    body = document(str(local), f"{place}/mixed.zarr") if where == "output" else document(place, f"{tmp_path}/mixed.zarr")
    run(propose(check(body)))
    assert verify(body["output"]["path"])["ok"]
    assert said(body["output"]["path"]) == said(str(local / "out.zarr"))
    assert remerge(body["output"]["path"])["chunks_copied"] == 0, "what came over need not come again"


def test_a_killed_maker_leaves_no_store(place: str) -> None:
    """The group's own document comes last: what lies there without it is made anew."""
    out = f"{place}/out.zarr"
    make_store(propose(check(document(place, output={"chunk_px": 64}))))
    assert is_store(out)
    Files(out).delete("zarr.json")
    assert not is_store(out)
    run(propose(check(document(place))))
    assert verify(out)["ok"]
    assert Volume.open(f"{out}/zmend/overlay").chunks == (1, 32, 32)
