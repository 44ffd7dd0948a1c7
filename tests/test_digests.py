"""Digests, identity and replay, question by question: a forger who makes everything else agree is found by each alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.box import Box
from pipeline.check import Check
from pipeline.digests import digests
from pipeline.identity import identity, pyramid
from pipeline.replay import replay_slabs
from pipeline.store import open_merged
from pipeline.volume import Volume, voxels_sha256
from tests.jobs import Job
from tests.test_lineage import finished, forge, job, loose, opened, out  # noqa: F401

ARRAYS = ("zmend/overlay", "labels/synthetic/0", "zmend/uncertainty")


def read(job: Job) -> tuple[Check, Counter[str]]:  # noqa: F811
    _, mine, records, _ = opened(job)
    tally: Counter[str] = Counter()
    return digests(records, mine, 1, tally), tally


def rewrite(job: Job, record: Path, array: str, change: Any) -> Box:  # noqa: F811
    """Change voxels of a record's first chunk, in one array, and make its digest and its counts agree."""
    made: list[Box] = []

    def agree(r: dict[str, Any]) -> None:
        chunk = r["chunks"][0]
        made.append(Box(tuple(chunk[0]), tuple(chunk[1])))
        volume = Volume.open(f"{out(job)}/{array}", writable=True)
        before = volume.read(made[0])
        after = before.copy()
        change(after)
        volume.write(made[0], after)
        chunk[2 + ARRAYS.index(array)] = voxels_sha256(after)
        if array == ARRAYS[1]:
            for label in range(1, 6):
                now, then = (int((v == label).sum()) for v in (after, before))
                r["voxels"][str(label)] = r["voxels"].get(str(label), 0) + now - then

    forge(record, agree)
    return made[0]


def test_good_chunks_are_counted(job: Job) -> None:  # noqa: F811
    check, tally = read(job)
    assert check.findings == [] and tally["synthetic"] > 0 == tally["left"]


@pytest.mark.parametrize(("at", "name"), [(2, "overlay"), (3, "label"), (4, "uncertainty")])
def test_a_digest_that_is_another(at: int, name: str, job: Job) -> None:  # noqa: F811
    record = forge(loose(job)[0], lambda r: r["chunks"][0].__setitem__(at, "0" * 64))
    (finding,) = read(job)[0].findings
    assert finding.startswith(f"slab {record['slab']}, {name} chunk [4:5") and finding.endswith("is not what was written")


def test_digests_that_are_too_many_or_too_few(job: Job) -> None:  # noqa: F811
    path = loose(job)[0]
    record = forge(path, lambda r: r["chunks"][0].append("0" * 64))
    (finding,) = read(job)[0].findings
    assert finding.startswith(f"slab {record['slab']}, chunk [4:5") and finding.endswith("has 4 digests")
    forge(path, lambda r: r["chunks"][0].__delitem__(slice(4, None)))
    findings = read(job)[0].findings
    assert any(f.startswith("the restored voxels in [4:5") and f.endswith("have no spread on record") for f in findings)


def test_counts_that_are_others(job: Job) -> None:  # noqa: F811
    record = forge(loose(job)[0], lambda r: r["voxels"].update({"1": r["voxels"]["1"] + 1}))
    (finding,) = read(job)[0].findings
    assert finding.startswith(f"slab {record['slab']} recorded ") and "its labels hold" in finding


def test_labels_that_no_flag_tells_of(job: Job) -> None:  # noqa: F811
    path = loose(job)[0]  # section 4 whole, section 5 under a mask from y = 8 on
    forge(path, lambda r: r["chunks"].reverse())
    box = rewrite(job, path, ARRAYS[1], lambda v: v[0, 0].__setitem__(slice(None), 4))
    assert f"{box.shape[2]} labelled voxels in {box} are not flagged" in read(job)[0].findings


def test_a_spread_where_nothing_was_restored(job: Job) -> None:  # noqa: F811
    path = loose(job)[0]
    forge(path, lambda r: r["chunks"].reverse())
    box = rewrite(job, path, ARRAYS[2], lambda v: v[0, 0, :3].__setitem__(slice(None), 9))
    assert read(job)[0].findings == [f"3 voxels in {box} have a spread, and were not restored"]


def test_a_label_that_is_not_what_the_spread_says(job: Job) -> None:  # noqa: F811
    box = rewrite(job, loose(job)[0], ARRAYS[1], lambda v: np.copyto(v, 5, where=v == 1))
    assert any("are labelled uncertain, or are not, against their spread" in f and str(box) in f for f in read(job)[0].findings)


def compared(job: Job) -> tuple[Check, Check]:  # noqa: F811
    _, mine, _, _ = opened(job)
    return identity(open_merged(out(job)), mine, 1, Counter()), pyramid(out(job), mine, 1)


def test_a_merged_chunk_that_cannot_be_read_is_told_with_what_mends_it(job: Job) -> None:  # noqa: F811
    assert [c.findings for c in compared(job)] == [[], []]
    for level in ("0", "1"):
        path = job.folder / f"out.zarr/{level}/c/0/0/0"
        path.write_bytes(path.read_bytes()[:5])
    for check, what in zip(compared(job), ("chunk [", "level 1: chunk ["), strict=True):
        assert any(f.startswith(what) and f.endswith("cannot be decoded") for f in check.findings)
        assert "zmend merge STORE --anew brings their voxels over again" in check.detail


def test_labels_of_a_coarser_level_that_are_others(job: Job) -> None:  # noqa: F811
    volume = Volume.open(f"{out(job)}/labels/synthetic/1", writable=True)
    (box, *_) = [b for b in volume.present() if volume.read(b).any()]
    volume.write(box, np.where(volume.read(box) == 1, 2, volume.read(box)).astype(np.uint8))
    assert any("labels of level 1 are not what is under them" in f for f in compared(job)[1].findings)


def test_what_is_made_anew_comes_out_otherwise(job: Job) -> None:  # noqa: F811
    path = loose(job)[0]
    box = rewrite(job, path, ARRAYS[0], lambda v: v.__iadd__(1))
    plan, mine, records, _ = opened(job)
    found = replay_slabs(plan, records, lambda _: mine, 100, 0).findings
    assert found == [f"slab {path.stem}: chunk {box} comes out differently"]
    assert any("synthetic voxels are not the overlay's in" in f for f in compared(job)[0].findings)
    forge(path, lambda r: r.update(inputs_sha256="0" * 64))
    _, mine, records, _ = opened(job)
    assert f"slab {path.stem}: its inputs are not the inputs that were read then" in replay_slabs(plan, records, lambda _: mine, 100, 0).findings
