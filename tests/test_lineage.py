"""Lineage, question by question: from each chunk to one record, and from there to place, weights, recipe, inputs.

A forger who rewrites a record with its digest is found by what the record says.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline import lineage, seal
from pipeline.box import Box
from pipeline.job import open_job
from pipeline.lock import StoreLock
from pipeline.plan import Plan, Slab
from pipeline.planfile import current_plan
from pipeline.recipe import digest
from pipeline.sight import Job as Open
from pipeline.slabs import Slabs
from pipeline.volume import Volume
from tests.faults.tampering import build
from tests.jobs import Job, put_back

Json = dict[str, Any]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Job:
    return build(tmp_path_factory.mktemp("lineage"), late=4)


@pytest.fixture
def job(finished: Job, tmp_path: Path) -> Iterator[Job]:
    yield from put_back(finished, tmp_path)


def out(job: Job) -> str:
    return str(job.folder / "out.zarr")


def opened(job: Job) -> tuple[Plan, Open, lineage.Records, list[str]]:
    plan = current_plan(out(job))
    open_job.cache_clear()
    mine = open_job(out(job), plan.hash)
    return plan, mine, *lineage.records(plan, mine)


def walked(job: Job) -> Any:
    plan, mine, records, _ = opened(job)
    return lineage.lineage(plan, records, mine)


def ended(job: Job, volume_mode: bool = True) -> Any:
    plan, mine, records, spoiled = opened(job)
    return lineage.finished(out(job), plan, records, spoiled, mine, volume_mode)


def loose(job: Job) -> list[Path]:
    """Records in files of their own, in the order of their places: ids are others each time."""
    found = {p: json.loads(p.read_bytes()) for p in (job.folder / "out.zarr/zmend/records").glob("??/*.json")}
    return sorted((p for p in found if found[p]["chunks"]), key=lambda p: found[p]["write"])


def forge(path: Path, change: Callable[[Json], object]) -> Json:
    """Rewrite a record so that it hashes to its own digest."""
    record: Json = json.loads(path.read_bytes())
    del record["digest"]
    change(record)
    path.write_text(json.dumps({**record, "digest": digest(record)}, sort_keys=True))
    return record


def test_a_good_store_has_one_record_for_each_chunk(job: Job) -> None:
    plan, mine, records, spoiled = opened(job)
    found = lineage.lineage(plan, records, mine)
    assert found.findings == [] and spoiled == [] and found.early == ""
    assert found.detail == f"{len(list(mine.labels.cells()))} chunks, each of one record"
    assert ended(job).findings == [] == lineage.inputs(plan, mine).findings == lineage.sources(records, mine).findings


@pytest.mark.parametrize("key", ["recipe", "weights", "restorer", "seed"])
def test_a_record_of_another_recipe(key: str, job: Job) -> None:
    record = forge(loose(job)[0], lambda r: r.update({key: 5}))
    assert walked(job).findings == [f"slab {record['slab']} was made with another recipe or other weights"]


@pytest.mark.parametrize("key", ["write", "read"])
def test_a_record_of_another_place(key: str, job: Job) -> None:
    record = forge(loose(job)[0], lambda r: r[key][1].__setitem__(0, r[key][1][0] + 1))
    assert f"slab {record['slab']} was made for another place than the plan's" in walked(job).findings


def test_a_chunk_of_two_records_names_both(job: Job) -> None:
    one, two = loose(job)[:2]
    theirs = json.loads(two.read_bytes())
    mine = forge(one, lambda r: r["chunks"].append(theirs["chunks"][0]))
    (finding,) = walked(job).findings
    assert finding.startswith("chunk [") and "has two records: " in finding
    assert {mine["slab"], theirs["slab"]} == set(finding.partition(": ")[2].split(" and "))


@pytest.mark.parametrize("stop", [-1, 1, 100])
def test_a_box_that_is_no_chunk(stop: int, job: Job) -> None:
    """Too small, over the edge of the next, beyond the volume."""
    record = forge(loose(job)[0], lambda r: r["chunks"][0][1].__setitem__(2, r["chunks"][0][1][2] + stop))
    box = Box(*map(tuple, record["chunks"][0][:2]))
    assert walked(job).findings == [f"slab {record['slab']} tells of {box}, which is no chunk"]


@pytest.mark.parametrize(("name", "array"), [("label", "labels/synthetic/0"), ("overlay", "zmend/overlay"), ("uncertainty", "zmend/uncertainty")])
def test_a_chunk_of_no_record(name: str, array: str, job: Job) -> None:
    copied(job, array)
    assert walked(job).findings == [f"{name} chunk [0:1, 0:32, 0:32] has no record"] and walked(job).early == ""


def copied(job: Job, array: str) -> None:
    """A chunk of an array lies at a section that nobody flagged, too."""
    folder = job.folder / "out.zarr" / array / "c"
    (folder / "0/0").mkdir(parents=True)
    shutil.copy2(folder / "2/0/0", folder / "0/0/0")


def test_a_chunk_of_the_spread_that_its_record_does_not_tell_of(job: Job) -> None:
    forge(loose(job)[0], lambda r: r["chunks"][0].pop())
    (finding,) = walked(job).findings
    assert finding.startswith("uncertainty chunk [") and finding.endswith("has no record")


def test_chunks_without_a_record_are_early_where_their_slab_has_none(job: Job) -> None:
    gone, other = loose(job)[:2]
    gone.unlink()
    assert walked(job).early == "slabs were stopped half-way" and len(walked(job).findings) == 6, "two sections in three arrays"
    copied(job, "zmend/overlay")  # where no slab lies
    assert walked(job).early == "" and len(walked(job).findings) == 7
    shutil.rmtree(job.folder / "out.zarr/zmend/overlay/c/0")
    assert walked(job).early == "slabs were stopped half-way"
    forge(other, lambda r: r.update(weights="others"))
    assert walked(job).early == "", "something else is wrong besides"


def test_slabs_that_overlap() -> None:
    def slab(n: int, z0: int, z1: int, x: int = 0) -> Slab:
        box = Box((z0, 0, x), (z1, 8, x + 8))
        return Slab(f"{n:032x}", box, box)

    def found(*slabs: Slab) -> list[tuple[int, int]]:
        return [(int(a, 16), int(b, 16)) for a, b in lineage._overlaps(Slabs.of(slabs))]

    assert found(slab(1, 0, 2), slab(2, 2, 4)) == [], "half-open"
    assert found(slab(1, 0, 3), slab(2, 2, 4)) == [(1, 2)]
    assert found(slab(1, 0, 3, x=8), slab(2, 2, 4)) == [], "beside each other"
    assert found(slab(3, 5, 6), slab(2, 2, 6, x=8), slab(1, 3, 5, x=8)) == [(2, 1)]


def test_inputs_that_are_others(job: Job) -> None:
    record = forge(loose(job)[0], lambda r: r.update(inputs_sha256="0" * 64))
    _, mine, records, _ = opened(job)
    assert lineage.sources(records, mine).findings == [f"slab {record['slab']}: its inputs are not the inputs that were read then"]


def test_inputs_that_cannot_be_read(job: Job) -> None:
    shutil.rmtree(job.folder / "mask.zarr")
    _, mine, records, _ = opened(job)
    findings = lineage.sources(records, mine).findings
    assert findings and all(f.startswith("slab ") and f.endswith("there is no Zarr volume here") for f in findings)


def test_a_record_that_cannot_be_trusted_is_told_and_is_none(job: Job) -> None:
    path = loose(job)[0]
    path.write_text(path.read_text().replace('"done"', '"DONE"'))
    _, _, records, spoiled = opened(job)
    assert [path.stem in s and "a record cannot be trusted" in s for s in spoiled] == [True]
    assert path.stem not in records and path.stem not in set(records)
    (job.folder / "out.zarr/zmend/merge.json").unlink()
    found = ended(job)
    assert spoiled[0] in found.findings and found.early == "", "damage, not an end that is still to come"


def test_what_is_not_done_is_early_only_before_the_merge(job: Job) -> None:
    (path,) = loose(job)[:1]
    path.unlink()
    found = ended(job)
    assert any(f.startswith(f"slab {path.stem} ") and f.endswith("has no record: run again") for f in found.findings)
    assert found.early == "", "a merge comes after the last record: this one was taken away"
    (job.folder / "out.zarr/zmend/merge.json").unlink()
    found = ended(job)
    assert f"{lineage.BEHIND}: zmend merge, or run again" in found.findings
    plan = current_plan(out(job))
    assert found.early == f"the run has not ended, {len(plan.slabs) - 1} of {len(plan.slabs)} slabs are done"
    assert not any(lineage.BEHIND in f for f in ended(job, volume_mode=False).findings)


def test_while_a_run_is_at_work_and_after_it_was_killed(job: Job) -> None:
    with StoreLock(out(job)):
        assert ended(job).findings[0].endswith("is at work here: verify when it has ended")
    (job.folder / "out.zarr/zmend/seal.json").unlink()
    found = ended(job)
    assert found.findings == ["its last run was killed before it sealed the store: run again"]
    assert found.early == "the run has not ended"


def test_nobody_seals_a_store_that_is_anothers(job: Job) -> None:
    class Lost(Exception):
        pass

    def held() -> None:
        raise Lost

    (job.folder / "out.zarr/zmend/seal.json").unlink()
    with pytest.raises(Lost):
        seal.put(out(job), held)
    assert seal.broken(out(job))


def test_the_seal_binds_every_document_and_itself(job: Job) -> None:
    assert lineage.sealed(out(job)).findings == [] and seal.changed(out(job)) == []
    (job.folder / "out.zarr/zmend/review.json").write_text("{}")  # there was none
    assert lineage.sealed(out(job)).findings == ["zmend/review.json is not what it was when the store was sealed"]
    (job.folder / "out.zarr/zmend/review.json").unlink()
    path = job.folder / "out.zarr/zmend/seal.json"
    whole = path.read_text()
    for other in (whole + " ", whole.replace('"digest": "', '"digest": "0', 1), whole.replace("zmend/merge.json", "zmend/merge.jsom")):
        path.write_text(other)
        assert seal.changed(out(job)) == [seal.KEY]


def test_faults_of_packs_and_of_the_source(job: Job) -> None:
    raw = Volume.open(str(job.folder / "raw.zarr"), writable=True)
    box = Box((0, 0, 0), raw.grain)
    raw.write(box, raw.read(box) ^ 1)
    (finding,) = ended(job).findings
    assert finding.startswith("chunks of the source differ from those merged")
    (pack, *_) = sorted((job.folder / "out.zarr/zmend/records/packs").iterdir())
    pack.write_bytes(pack.read_bytes()[:-1])
    assert any("does not hash to its name" in f for f in ended(job).findings)


def test_a_source_or_weights_that_are_others(job: Job) -> None:
    (job.folder / "tiny.safetensors").write_bytes(b"others")
    plan, mine, *_ = opened(job)
    (finding,) = lineage.inputs(plan, mine).findings
    assert finding.startswith("the weights: ")
    other = Plan({**plan.header, "source": {**plan.header["source"], "fingerprint": "0" * 64}}, plan.slabs)
    assert "the source's metadata changed since the plan" in lineage.inputs(other, mine).findings
