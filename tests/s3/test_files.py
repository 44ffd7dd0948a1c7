"""Objects: disk and bucket keep the same promises."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from pipeline.errors import StoreLockedError
from pipeline.files import Files
from pipeline.ledger import Ledger
from pipeline.lock import KEY, StoreLock, holder
from tests.s3.conftest import Server

ROOT = Path(__file__).parents[2]
Make = Callable[[], str]


@pytest.fixture(params=["disk", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path, s3: Server) -> str:
    return str(tmp_path / "out") if request.param == "disk" else f"s3://{s3.bucket()}/a/b"


def test_what_is_written_is_read(place: str) -> None:
    files = Files(place)
    assert files.names() is None
    assert files.read("x/y") is None and files.stat("x/y") is None
    files.put("x/y", b"abcdef")
    files.put("x/z/w", b"12")
    files.put("x/y", b"abcdeg")
    assert files.read("x/y") == b"abcdeg"
    assert files.read("x/y", 2) == b"cdeg"
    assert files.read("x/y", 1, 3) == b"bc"
    assert files.read("x/y", 4, 99) == b"eg"
    assert files.read("x") is None, "a folder is no object"
    (stat,) = files.stats(["x/y"])
    assert stat and (stat.key, stat.size) == ("x/y", 6)
    assert files.stats(["x/y", "nothing"]) == [stat, None]
    assert list((files / "x").walk()) == [s._replace(key=s.key[2:]) for s in files.walk()]
    assert [s.key for s in files.walk()] == ["x/y", "x/z/w"]
    assert files.stat("x/y") == next(iter(files.walk())), "a listing and a look say the same"
    assert files.names() == ["x"]
    assert files.names_below(["x", "nothing"]) == [["y", "z"], []]
    files.move("x/y", "m/y")
    assert (files.read("x/y"), files.read("m/y")) == (None, b"abcdeg")
    files.delete("m/y")
    files.delete("m/y")
    assert files.read("m/y") is None
    (files / "x").clear(last=("z/w",))
    assert files.read("x/z/w") is None


def test_a_listing_of_many_pages_is_whole_and_in_order(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline import bucket as module

    monkeypatch.setattr(module, "PAGE", 2)
    for count in range(6):
        files = Files(f"s3://{bucket}/{count}")
        for n in range(count):
            files.put(f"d/{n}", b"x")
        assert [s.key for s in files.walk()] == [f"d/{n}" for n in range(count)]


def test_create_has_one_winner_of_sixteen(place: str) -> None:
    files, gate = Files(place), Barrier(16)

    def race(n: int) -> bool:
        gate.wait()
        return files.create("r/record", str(n).encode())

    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(race, range(16)))
    assert sum(won) == 1
    assert files.read("r/record") == str(won.index(True)).encode()


def test_records_are_created_once_retired_and_put_aside(place: str) -> None:
    ledger = Ledger(place)
    assert ledger.ids() == set()
    assert ledger.commit({"slab": "ab12", "n": 1}) and ledger.commit({"slab": "cd34", "n": 2})
    assert not ledger.commit({"slab": "ab12", "n": 3})
    assert ledger.get("ab12")["n"] == 1
    ledger.retire({"ab12"})
    assert (ledger.ids(), [name for name, _ in ledger.retiring()]) == ({"cd34"}, ["ab12.json"])
    ledger.finish_retiring("ab12.json", "run1")
    assert ledger.files.stat("retired/ab12.run1.json") and not list(ledger.retiring())
    ledger.discard("cd34")
    assert ledger.ids() == set()


def test_packed_records_are_as_good_as_loose_ones(place: str) -> None:
    ids = [f"{n:032x}" for n in range(5)]
    for n, slab in enumerate(ids):
        Ledger(place).commit({"slab": slab, "chunks": [], "n": n})
    assert Ledger(place).pack(least=1) == 5
    ledger = Ledger(place)
    assert not ledger.loose_ids() and ledger.ids() == set(ids)
    assert [ledger.get(slab)["n"] for slab in ids] == [0, 1, 2, 3, 4]
    ledger.retire([ids[2]])
    assert Ledger(place).ids() == set(ids) - {ids[2]}
    ((name, record),) = Ledger(place).retiring()
    assert record["n"] == 2
    ledger.finish_retiring(name, "run1")
    assert Ledger(place).commit({"slab": ids[2], "chunks": []}), "it may be made again"
    assert Ledger(place).ids() == set(ids)


def test_a_lock_keeps_others_out_and_a_dead_ones_is_taken_over(place: str) -> None:
    with StoreLock(place) as lock:
        assert not lock.taken_over
        assert str(os.getpid()) in holder(place)
        with pytest.raises(StoreLockedError, match=f"locked by process {os.getpid()}"), StoreLock(place):
            pass
    assert Files(place).read(KEY) is None
    killed = "import sys, os, signal; from pipeline.lock import StoreLock\nStoreLock(sys.argv[1]).__enter__(); os.kill(os.getpid(), signal.SIGKILL)"
    subprocess.run([sys.executable, "-c", killed, place], cwd=ROOT, check=False)
    assert Files(place).read(KEY) and not holder(place)
    with StoreLock(place) as lock:
        assert lock.taken_over
        assert json.loads(Files(place).read(KEY) or b"")["pid"] == os.getpid()
    elsewhere = {"host": "elsewhere", "pid": 1, "started": "x"}
    Files(place).put(KEY, json.dumps(elsewhere).encode())
    with pytest.raises(StoreLockedError, match="process 1 on elsewhere"), StoreLock(place):
        pass
    assert socket.gethostname() not in holder(place)


def test_copies_come_over_within_the_server(s3: Server) -> None:
    """From another place of the bucket, from another bucket, and from a disk; the second time there is nothing to do."""
    from pipeline.clone import bring

    near, far = s3.bucket(), s3.bucket()
    Files(f"s3://{near}/source").put("c/0", b"voxels")
    (stored,) = Files(f"s3://{near}/source").walk()
    for target in (Files(f"s3://{near}/out"), Files(f"s3://{far}/out")):
        assert target.bucket and target.bucket.copy(Files(f"s3://{near}/source").bucket, "c/0"), "not through this machine"
        target.delete("c/0")
        assert bring(Files(f"s3://{near}/source"), target, [stored], "auto") == [(stored, "copied")]
        assert target.read("c/0") == b"voxels"
        assert bring(Files(f"s3://{near}/source"), target, [stored], "auto") == [(stored, "")]
