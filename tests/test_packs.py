"""Packs: records come back as they were, in little room, from a chain that nobody can edit, whatever is killed when."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.files import Files
from pipeline.ids import Ids, column
from pipeline.job import propose
from pipeline.ledger import Ledger
from pipeline.packfile import decode, encode
from pipeline.packs import Packs
from pipeline.run import run
from pipeline.summary import status
from pipeline.verify import verify
from tests.jobs import build

ROOT = Path(__file__).parents[1]


def sha(*what: Any) -> str:
    return hashlib.sha256(repr(what).encode()).hexdigest()


def record(n: int, **more: Any) -> dict[str, Any]:
    """As a run makes them: a slab of one shard, in a grid of 25 x 25 a section."""
    rng = random.Random(n)
    z, y, x = n // 625 * 50, n % 625 // 25 * 8192, n % 25 * 8192
    write = [[z, y, x], [z + 1, y + 8192, x + 8192]]
    return {
        "schema": "zmend-record/1", "plan": sha("plan"), "recipe": sha("recipe"), "restorer": "diffusion", "weights": sha("weights"),
        "flags": sha("flags"), "seed": 0, "slab": sha(n)[:32], "status": "done", "run": "20261122T190524-d3af0b", "write": write,
        "read": [[z - 2, max(0, y - 64), max(0, x - 64)], [z + 3, y + 8256, x + 8256]], "inputs_sha256": sha("in", n), "left": [],
        "quarantined": "", "voxels": {"1": 8192**2, "2": 0, "3": 0, "4": 0, "5": 0}, "chunks": [[*write, sha("chunk", n), sha("ones")]],
        "bytes_read": 5 * 8256**2, "bytes_written": 61_000_000 + rng.randrange(10**6),
        "seconds": [round(rng.uniform(9, 12), 3), round(rng.uniform(1, 2), 3)], **more,
    }  # fmt: skip


def ledger(folder: Path, *numbers: int) -> Ledger:
    made = Ledger(str(folder))
    for n in numbers:
        made.commit(record(n))
    return made


def loose(folder: Path) -> list[str]:
    return sorted(p.stem for p in (folder / "zmend/records").glob("??/*.json"))


def packs(folder: Path) -> list[Path]:
    return sorted((folder / "zmend/records/packs").glob("*.parquet"))


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"status": "quarantined", "quarantined": "[0:1]: NaN", "given_up": True, "left": [{"z": [0, 1], "box": [[0, 0], [1, 2]], "voxels": 2, "why": "x"}]},
        {"chunks": [[[0, 0, 0], [1, 9, 9], sha(1), sha(2), sha(3)], [[0, 0, 9], [1, 9, 18], sha(4), sha(5)]]},
        {"chunks": []},
        {"voxels": {"1": 5, "2": 0, "3": 0, "4": 0}},
        {"voxels": {"1": 5, "7": 3}},
        {"voxels": {}},
        {"bytes_read": 2**50},
        {"seconds": [0.1234567, 1]},
        {"seconds": [1, 2, 3]},
        {"inputs_sha256": "not hexadecimal"},
        {"inputs_sha256": sha(1).upper()},
        {"write": "nowhere"},
        {"": 1},
        {"new": {"deep": [1, {"x": None}]}},
    ],
    ids=lambda m: ",".join(m) or "plain",
)
def test_a_record_comes_back_as_it_was(more: dict[str, Any], tmp_path: Path) -> None:
    given = record(7, **more)
    made = Packs(Files(str(tmp_path)))
    made.append([given, record(8)])
    assert Packs(Files(str(tmp_path))).get(given["slab"]) == given
    assert decode(encode(record(8))) == record(8)


def test_what_is_read_may_be_changed_by_whoever_reads_it(tmp_path: Path) -> None:
    made = Packs(Files(str(tmp_path)))
    made.append([record(7, left=[{"z": [1, 2]}])])
    made.get(record(7)["slab"])["left"][0]["z"].append(3)
    assert made.get(record(7)["slab"])["left"] == [{"z": [1, 2]}]


def test_a_typical_record_takes_less_than_150_bytes(tmp_path: Path) -> None:
    Packs(Files(str(tmp_path))).append(record(n) for n in range(8192))
    (pack,) = (tmp_path / "packs").iterdir()
    assert pack.stat().st_size / 8192 < 150


def test_loose_records_are_packed_once_there_are_enough(tmp_path: Path) -> None:
    made = ledger(tmp_path, *range(6))
    assert made.pack(least=7) == 0
    assert len(loose(tmp_path)) == 6
    assert made.pack(least=6) == 6
    assert not loose(tmp_path)
    fresh = Ledger(str(tmp_path))
    assert fresh.ids() == {record(n)["slab"] for n in range(6)}
    assert all(fresh.has(record(n)["slab"]) and fresh.get(record(n)["slab"]) == record(n) for n in range(6))
    assert not fresh.has(sha(99)[:32])
    assert not fresh.packs.faults()


def test_what_is_done_again_after_it_was_withdrawn_counts(tmp_path: Path) -> None:
    made = ledger(tmp_path, 1, 2)
    made.pack(least=1)
    one = record(1)["slab"]
    made.retire({one})
    assert Ledger(str(tmp_path)).ids() == {record(2)["slab"]}
    ((name, body),) = made.retiring()
    assert body["chunks"] == record(1)["chunks"]
    made.finish_retiring(name, "run1")
    assert made.commit(record(1, run="again"))
    made.pack(least=1)
    assert Ledger(str(tmp_path)).get(one)["run"] == "again"
    assert len(packs(tmp_path)) == 3, "nothing was changed that was written"
    assert not made.packs.faults()


def test_retiring_that_was_killed_half_way_is_completed(tmp_path: Path) -> None:
    """Killed after the record was told as retiring, before the pack was told."""
    made = ledger(tmp_path, 1, 2)
    made.pack(least=1)
    one = record(1)["slab"]
    raw = made.files.read(made.key(one))
    assert raw is None
    made.commit(record(1))
    made.files.move(made.key(one), f"retiring/{one}.json")
    assert one in Ledger(str(tmp_path)).ids(), "still in force"
    again = Ledger(str(tmp_path))
    again.retire(set())
    assert one not in again.ids()
    assert [body["slab"] for _, body in again.retiring()] == [one]


def test_a_pack_that_was_changed_is_not_believed(tmp_path: Path) -> None:
    made = ledger(tmp_path, 1)
    made.pack(least=1)
    made.commit(record(2))
    made.pack(least=1)
    first, _ = packs(tmp_path)
    raw = bytearray(first.read_bytes())
    raw[40] ^= 1
    first.write_bytes(raw)
    fresh = Ledger(str(tmp_path))
    assert fresh.ids() == {record(2)["slab"]}
    assert "does not hash to its name: run again" in fresh.packs.faults()[0]
    assert fresh.packs.discard_damaged() == [first.name]
    assert not Ledger(str(tmp_path)).packs.faults(), "what was put aside is told of, and not missed"
    fresh.commit(record(1))
    fresh.pack(least=1)
    assert Ledger(str(tmp_path)).ids() == {record(1)["slab"], record(2)["slab"]}
    assert not Ledger(str(tmp_path)).packs.faults()


def test_a_pack_that_was_taken_away_or_exchanged_breaks_the_chain(tmp_path: Path) -> None:
    made = ledger(tmp_path)
    for n in range(3):
        made.commit(record(n))
        made.pack(least=1)
    other = ledger(tmp_path / "other", 5)
    other.pack(least=1)
    _, second, _ = packs(tmp_path)
    kept = second.read_bytes()
    second.unlink()
    assert "does not follow the one before it" in Packs(made.files).faults()[0]
    second.write_bytes(kept)
    assert not Packs(made.files).faults()
    third = packs(tmp_path)[-1]
    moved = third.rename(third.with_name(third.name.replace("00000002-", "00000007-")))
    assert "does not follow the one before it" in Packs(made.files).faults()[0], "what it names is there, but others are not"
    moved.rename(third)
    (foreign,) = packs(tmp_path / "other")
    second.rename(tmp_path / "aside")
    (second.parent / foreign.name.replace("00000000-", "00000001-")).write_bytes(foreign.read_bytes())
    assert len(Packs(made.files).faults()) == 2, "neither follows what is before it"


KILLED = """
import sys
from pipeline.ledger import Ledger
from pipeline.disk import Disk
ledger, point, count = Ledger(sys.argv[1]), sys.argv[2], int(sys.argv[3])
def stop(name, real):
    def method(self, key, *rest):
        global count
        if name == point:
            count -= 1
            if count < 0:
                print("here", flush=True)
                import time; time.sleep(60)
        return real(self, key, *rest)
    return method
for name in ("create", "delete"):
    setattr(Disk, name, stop(name, getattr(Disk, name)))
ledger.pack(least=1)
print("done", flush=True)
"""


@pytest.mark.parametrize(("point", "count"), [("create", 0), ("delete", 0), ("delete", 1), ("delete", 19)])
def test_killed_while_packing_a_record_is_in_a_pack_or_loose_or_both(point: str, count: int, tmp_path: Path) -> None:
    made = ledger(tmp_path, *range(20))
    wanted = {record(n)["slab"] for n in range(20)}
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path), point, str(count)], stdout=subprocess.PIPE, cwd=ROOT)  # fmt: skip
    assert process.stdout and process.stdout.readline() == b"here\n"
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    left = set(loose(tmp_path))
    packed = set(Ledger(str(tmp_path)).packs.ids)
    assert left | packed == wanted, "never neither"
    assert (left != wanted) == (point == "delete" and count > 0)
    made.pack(least=1)
    again = Ledger(str(tmp_path))
    again.pack(least=1)
    assert set(again.packs.ids) == wanted
    assert not loose(tmp_path)
    assert not again.packs.faults()
    assert [again.get(record(n)["slab"]) for n in range(20)] == [record(n) for n in range(20)]


def test_a_loose_record_that_was_spoiled_is_not_packed(tmp_path: Path) -> None:
    made = ledger(tmp_path, 1, 2)
    path = tmp_path / "zmend/records" / made.key(record(1)["slab"])
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    assert made.pack(least=1) == 1
    assert loose(tmp_path) == [record(1)["slab"]]


def test_a_store_whose_records_are_packed_is_like_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.ledger.PACK_AT", 1)
    job = build(tmp_path)
    out = str(tmp_path / "out.zarr")
    job.flags("3\n8\n")
    first = job.run()
    assert not loose(tmp_path / "out.zarr")
    assert len(packs(tmp_path / "out.zarr")) == 1
    assert verify(out, replay=3)["ok"]
    assert status(out)["done"] == first["slabs"]
    events: list[dict[str, Any]] = []
    run(propose(job.load()), on_event=events.append)
    assert next(e for e in events if e["kind"] == "begin")["todo"] == 0
    job.flags("3\n12\n")  # 8 is taken back, 12 is new
    run(propose(job.load()), on_event=events.append)
    assert {e["write"][0][0] for e in events if e["kind"] == "slab"} == {12}
    assert verify(out, replay=3)["ok"]
    gone = next((tmp_path / "out.zarr/zmend/overlay").rglob("c/3/0/0"))
    gone.unlink()
    run(propose(job.load()), on_event=events.append)
    assert {e["write"][0][0] for e in events if e["kind"] == "slab"} == {3, 12}, "a lost chunk is made again"
    assert verify(out)["ok"], [c for c in verify(out)["checks"] if not c["ok"]]
    last = packs(tmp_path / "out.zarr")[-1]
    last.write_bytes(last.read_bytes()[:-1])
    assert not verify(out)["ok"]
    run(propose(job.load()), on_event=events.append)
    assert any("is not what was written" in e["text"] for e in events if e["kind"] == "warning")
    assert verify(out)["ok"], [c for c in verify(out)["checks"] if not c["ok"]]


def test_ids_are_found_as_sets_find_them() -> None:
    some = [sha(n)[:32] for n in range(500)] + ["0" * 32, "f" * 32, "00" + "0" * 30]
    made = Ids.of(np.unique(column(some)))
    assert set(made) == set(some)
    assert list(made) == sorted(set(some))
    assert all(i in made for i in some)
    assert not any(sha(n)[:32] in made for n in range(500, 600))
    assert "ab12" not in made and "X" * 32 not in made
    assert (made.at(column(some[:3])) >= 0).all()
    twins = Ids.of(column([f"{7:016x}{n:016x}" for n in range(9)]))
    assert list(twins.at(column([f"{7:016x}{n:016x}" for n in (8, 3, 9)]))) == [8, 3, -1], "alike in the first half"
    assert list(Ids.of(column([])).at(column(some[:3]))) == [-1, -1, -1]
    more = [*some[:4], *(f"{7:016x}{n:016x}" for n in (11, 4, 20)), sha(700)[:32]]
    assert list(twins.plus(column(more))) == sorted({*twins, *more})
    assert twins.plus(column(list(twins)[:2])) is twins
    assert list(Ids.of(column([])).plus(column(more))) == sorted(more)


@pytest.mark.slow
def test_one_id_is_found_as_quickly_among_a_million_as_among_a_thousand() -> None:
    """It was not: each search began with a copy of all of them."""
    rng, took = np.random.default_rng(1), []
    for n in (1_000, 1_000_000):
        ids = Ids.of(np.frombuffer(rng.bytes(16 * n), "S16"))
        some = [i for i, _ in zip(ids, range(300), strict=False)]
        assert some[0] in ids
        began = time.process_time()
        assert all(i in ids for i in some)
        took.append(time.process_time() - began)
    assert took[1] < 10 * took[0], took


def test_a_hundred_thousand_done_records_are_known_in_half_a_second(tmp_path: Path) -> None:
    made = Packs(Files(str(tmp_path)))
    rows = [encode(record(n)) for n in range(8192)]
    import pipeline.packs as module

    original, module.encode = module.encode, lambda r: {**rows[r % 8192], "slab": sha(r)[:32]}  # type: ignore[attr-defined]
    try:
        made.append(range(100_000))  # type: ignore[arg-type]
    finally:
        module.encode = original  # type: ignore[attr-defined]
    began = time.process_time()
    assert len(Packs(Files(str(tmp_path))).ids) == 100_000
    assert time.process_time() - began < 0.5
