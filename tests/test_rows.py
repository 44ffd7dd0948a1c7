"""Rows: a pass over columns tells what a pass over the records tells, whether they are packed, loose or unlike others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.ledger import Ledger
from pipeline.rows import Rows, of_records
from tests.test_packs import ledger, record, sha

SHAPE = (10_000, 200_000, 200_000)
Told = dict[str, tuple[Any, ...]]


def odd(n: int) -> dict[str, Any]:
    """A record that no column fits: a digest that is none."""
    return {**record(n), "inputs_sha256": "of another age", "status": "quarantined", "given_up": True}


def slowly(made: Ledger) -> Told:
    """From the records themselves."""
    found: Told = {}
    for name, r in made.records():
        assert r is not None
        chunks = [(tuple(c[0]), tuple(c[1]), len(c) - 2) for c in r["chunks"]]
        voxels = [r["voxels"].get(str(label), 0) for label in range(1, 6)]
        boxes = [tuple(tuple(corner) for corner in r[k]) for k in ("write", "read")]
        found[name] = (r["status"], r["run"], r.get("given_up"), r.get("attempt"), voxels, chunks, *boxes)
    return found


def quickly(made: Ledger) -> Told:
    found: Told = {}
    for rows in made.rows():
        for shared, alike in rows.each_kind():
            each = zip(alike.names(), alike.voxels.tolist(), alike.corner, alike.boxes("write", shared), alike.boxes("read", shared), strict=True)
            for name, voxels, corner, write, read in each:
                assert write[0] == tuple(corner)
                chunks = [(*(tuple((corner + c).tolist()) for c in chunk[:2]), chunk[2]) for chunk in shared["chunks"]]
                found[name] = (shared["status"], shared["run"], shared.get("given_up"), shared.get("attempt"), voxels, chunks, write, read)
    return found


def test_columns_tell_what_the_records_tell(tmp_path: Path) -> None:
    made = ledger(tmp_path, *range(40))
    chunks = [[[0, 8, 16], [1, 16, 24], sha(1)], [[1, 8, 16], [2, 16, 24], sha(2), sha(3), sha(4)]]
    for r in (odd(50), record(51, voxels={"1": 5}), record(52, chunks=chunks, attempt=2), record(53, chunks=[], status="quarantined")):
        made.commit(r)
    for packed in (False, True):
        if packed:
            made.pack(least=1)
            for r in (odd(60), record(61)):
                made.commit(r)
            made.retire([record(3)["slab"], record(52)["slab"]])
        told = quickly(made)
        assert told == slowly(made)
        assert len(told) == 44
    assert record(3)["slab"] not in told


def test_what_cannot_be_trusted_is_named_and_left_out(tmp_path: Path) -> None:
    made, doubted = ledger(tmp_path, 1, 2), list[str]()
    Path(tmp_path / "zmend/records" / Ledger.key(record(1)["slab"])).write_text("{}")
    (rows,) = made.rows(doubted.append)
    assert rows.names() == [record(2)["slab"]]
    assert doubted == [record(1)["slab"]]


def test_one_number_a_voxel() -> None:
    rows = of_records([record(700), odd(3)])
    (z, y, x), shape = record(700)["write"][0], SHAPE
    assert rows.codes(shape, (1, 2, 3)).tolist()[0] == np.ravel_multi_index((z + 1, y + 2, x + 3), shape)
    assert rows.codes(shape).tolist()[1] == np.ravel_multi_index(record(3)["write"][0], shape)
    assert len(rows.take(rows.kind < 0)) == 0
    assert list(Rows.each_kind(of_records([]))) == []
