"""Slabs in columns are the slabs that went in; a plan hashes and reads as it did when they were objects."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.errors import PlanChangedError
from pipeline.ids import Ids, column
from pipeline.job import propose
from pipeline.plan import Box, Plan, Slab
from pipeline.planfile import dump, read_ids, read_plan
from pipeline.recipe import digest
from pipeline.slabs import TOGETHER, Slabs, ids_in
from tests.jobs import build


def some(n: int) -> list[Slab]:
    return [Slab(f"{i:032x}", Box((i, 0, 2), (i + 1, 8, 8)), Box((i, 1, 0), (i + 3, 9, 9))) for i in range(n)]


@pytest.mark.parametrize("n", [0, 1, 3, TOGETHER, TOGETHER + 1])
def test_what_goes_in_comes_out(n: int) -> None:
    slabs = Slabs.of(iter(some(n)))
    assert len(slabs) == n
    assert list(slabs) == some(n)
    rows = json.dumps([s.row() for s in some(n)])
    assert f"[{', '.join(slabs.blocks(between=', '))}]" == rows, "as an encoder writes it"
    assert ",".join(slabs.blocks("", ",")) == rows[1:-1].replace(" ", "")
    assert slabs == Slabs.of(some(n))
    assert slabs != Slabs.of(some(n + 1))


def test_one_slab_a_slice_and_membership() -> None:
    slabs = Slabs.of(some(5))
    assert slabs[2] == slabs[-3] == some(5)[2]
    assert list(slabs[1:3]) == some(5)[1:3]
    assert some(5)[4] in slabs
    assert Slab(some(5)[4].id, Box((0, 0, 0), (1, 1, 1)), Box((0, 0, 0), (1, 1, 1))) not in slabs
    with pytest.raises(IndexError):
        slabs[5]
    twice = Slabs.of([*some(3), *reversed(some(5))])
    assert all(s in twice for s in some(5))
    assert Slab("f" * 32, some(1)[0].write, some(1)[0].read) not in twice


def test_but_those_that_are_done() -> None:
    done = Ids.of(column([some(5)[n].id for n in (4, 1)]))
    assert list(Slabs.of(some(5)).but(done)) == [some(5)[n] for n in (0, 2, 3)]


def test_what_is_no_id_is_refused() -> None:
    with pytest.raises(ValueError, match="no id of a slab: ab"):
        Slabs.of([Slab("ab", Box((0, 0, 0), (1, 1, 1)), Box((0, 0, 0), (1, 1, 1)))])


def test_ids_are_told_without_the_boxes() -> None:
    rows = next(Slabs.of(some(3)).blocks("", ",")).encode()
    assert ids_in(rows).tolist() == Slabs.of(some(3)).ids.tolist()
    assert not len(ids_in(b""))
    for wrong in (b'["ab",[0,0,0]]', rows[:-60] + b'"', rows.replace(b"0", b"x")):
        with pytest.raises(ValueError, match="an id has not 32 digits|fromhex"):
            ids_in(wrong)


def test_a_plan_hashes_as_one_document(tmp_path: Path) -> None:
    plan = propose(build(tmp_path).load()).plan
    strip = {k: {n: v for n, v in plan.header[k].items() if n not in ("uri", "path")} for k in ("source", "flags")}
    assert plan.hash == digest({**plan.header, **strip, "slabs": [s.row() for s in plan.slabs]})
    assert Plan({**plan.header, "note": '"slabs":[]'}, plan.slabs).hash != plan.hash


def test_a_plan_file_is_json_and_reads_back_whole_or_without_slabs(tmp_path: Path) -> None:
    plan = propose(build(tmp_path).load()).plan
    path = tmp_path / "plan.json"
    path.write_bytes(dump(plan))
    body = json.loads(path.read_text())
    assert body["hash"] == plan.hash
    assert [Slab.of(r) for r in body["slabs"]] == list(plan.slabs)
    assert (read_plan(path).hash, read_plan(path).slabs) == (plan.hash, plan.slabs)
    bare = read_plan(path, slabs=False)
    assert (bare.hash, len(bare.slabs)) == (plan.hash, 0)
    named, ids = read_ids(path)
    assert (named, ids.tolist()) == (plan.hash, plan.slabs.ids.tolist())
    path.write_text(json.dumps(body))  # laid out anew, by hand or by a tool
    assert (read_plan(path).hash, read_plan(path).slabs) == (plan.hash, plan.slabs)
    body["slabs"][0][1][0] += 1
    for text in (json.dumps(body), dump(plan).decode().replace(f'"{plan.slabs[0].id}", [', f'"{plan.slabs[0].id}", [1', 1)):
        path.write_text(text)
        for slabs in (True, False):
            with pytest.raises(PlanChangedError, match="the plan file was edited"):
                read_plan(path, slabs=slabs)
