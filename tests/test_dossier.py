"""zmend status SLAB: all that is known of one slab."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.box import Box
from pipeline.dossier import dossier
from pipeline.errors import UsageError
from pipeline.job import propose
from pipeline.planfile import current_plan
from pipeline.revert import revert
from pipeline.run import run
from pipeline.verdicts import read as read_verdicts
from pipeline.volume import Volume
from tests.jobs import Job, build, command, put_back


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Job:
    job = build(tmp_path_factory.mktemp("finished"), chunks=(2, 128, 128))
    job.run(certificate=0)
    return job


@pytest.fixture
def job(finished: Job, tmp_path: Path) -> Iterator[Job]:
    yield from put_back(finished, tmp_path)


def out(job: Job) -> str:
    return str(job.folder / "out.zarr")


def some_slab(job: Job) -> Any:
    return current_plan(out(job)).slabs[0]


def test_a_slab_that_is_done(job: Job) -> None:
    slab = some_slab(job)
    found = dossier(out(job), slab.id)
    assert (found["slab"], found["state"], found["ok"], found["doubts"]) == (slab.id, "done", True, [])
    assert found["plan"]["number"] == 1 and found["plan"]["of"] == len(current_plan(out(job)).slabs)
    assert found["record"]["voxels"]["1"] == sum(f["voxels"] for f in found["flags"]) > 0
    assert found["chunks"] and all(c["as_written"] for c in found["chunks"])
    assert (found["inputs_match"], found["merged"], found["verdict"], found["history"]) == (True, True, None, [])
    (attempt,) = found["attempts"]
    assert (attempt["kind"], attempt["run"], attempt["status"]) == ("slab", found["record"]["run"], "done")
    assert "process" in attempt["worker"]


def test_names_of_a_slab(job: Job) -> None:
    plan, slab = current_plan(out(job)), some_slab(job)
    ids = [s.id for s in plan.slabs]
    shortest = next(n for n in range(1, 33) if sum(i.startswith(slab.id[:n]) for i in ids) == 1)
    for called in (slab.id[:shortest], slab.id[: shortest + 1].upper(), ",".join(map(str, slab.write.start))):
        assert dossier(out(job), called)["slab"] == slab.id
    with pytest.raises(UsageError, match=r"no slab of the plan in force is called 'zz'(.|\n)*another plan had it"):
        dossier(out(job), "zz")
    with pytest.raises(UsageError, match=r"no slab .* called '0,0,0'(.|\n)*nothing is flagged there"):
        dossier(out(job), "0,0,0")
    with pytest.raises(UsageError, match="'1,2' is not a voxel"):
        dossier(out(job), "1,2")
    twice = next(i[0] for i in ids if sum(other[0] == i[0] for other in ids) > 1)
    with pytest.raises(UsageError, match=rf"\d slabs are called '{twice}'(.|\n)*give more of its id: {twice}"):
        dossier(out(job), twice)


@pytest.mark.parametrize(("name", "words"), [("zmend/overlay", "is not what was written"), ("0", "the merged volume does not hold what was restored here")])
def test_what_was_changed_since_is_seen(name: str, words: str, job: Job) -> None:
    slab = some_slab(job)
    array = Volume.open(f"{out(job)}/{name}", writable=True)
    box = next(iter(slab.write.cells(array.grain))).aligned(array.grain) & Box.of(array.shape)
    array.write(box, 255 - array.read(box))
    found = dossier(out(job), slab.id)
    assert not found["ok"] and words in found["doubts"][0]
    assert all(c["as_written"] for c in found["chunks"]) == (name == "0")
    assert found["merged"] is False, "the two differ, whichever was changed"
    process = command("status", "out.zarr", slab.id[:12], cwd=job.folder)
    text, err = process.communicate(timeout=200)
    assert process.returncode == 5 and words in err
    assert f"{slab.id}, 1 of" in " ".join(text.split()), text


def test_a_source_that_was_changed(job: Job) -> None:
    slab = some_slab(job)
    raw = Volume.open(job.raw, writable=True)
    box = next(iter(slab.read.cells(raw.grain))).aligned(raw.grain) & Box.of(raw.shape)
    raw.write(box, 255 - raw.read(box))
    found = dossier(out(job), slab.id)
    assert found["inputs_match"] is False and "changed since" in found["doubts"][0]


def test_failures_verdicts_and_reverts_are_told(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    slab = some_slab(job)
    csv = job.folder / "verdicts.csv"
    csv.write_text(_verdicts(job, slab.id))
    monkeypatch.setenv("ZMEND_FAILPOINTS", "restore=eio@1")
    made = propose(job.load(certificate=0, site={"workers": 0, "slab_px": 256}))
    again = run(made, verdicts=read_verdicts(str(csv), made.plan.slabs))
    monkeypatch.delenv("ZMEND_FAILPOINTS")
    found = dossier(out(job), slab.id)
    assert [a["kind"] for a in found["attempts"]] == ["slab", "failure", "slab"]
    assert (found["attempts"][1]["cause"], found["attempts"][1]["again"]) == ("transient", True)
    assert found["verdict"]["attempt"] == found["record"]["attempt"] == 1 and found["verdict"]["rejected"] == "smeared"
    (before,) = found["history"]
    assert (before["retired_by"], before["why"]) == (again["run"], "made anew")
    back = revert(out(job), again["run"])
    found = dossier(out(job), slab.id)
    assert (found["history"][-1]["retired_by"], found["history"][-1]["why"]) == (back["run"], f"revert of {again['run']}")
    assert found["ok"] and found["record"]["seed"] == before["seed"]


def _verdicts(job: Job, slab_id: str) -> str:
    plan = current_plan(out(job))
    lines = ["slab,verdict,note"]
    return "\n".join([*lines, *(f"{s.id},{'reject' if s.id == slab_id else 'accept'},smeared" for s in plan.slabs)]) + "\n"


def test_a_slab_that_waits(job: Job, tmp_path: Path) -> None:
    slab = some_slab(job)
    (path,) = (job.folder / "out.zarr/zmend/records").glob(f"??/{slab.id}.json")
    path.unlink()
    found = dossier(out(job), slab.id)
    assert (found["state"], found["record"], found["inputs_match"], found["chunks"]) == ("pending", None, None, [])
    assert found["ok"], "what is not done yet is no doubt"
    (path.parent / path.name).write_text(json.dumps({"slab": slab.id}))
    assert "cannot be trusted" in dossier(out(job), slab.id)["doubts"][0]
