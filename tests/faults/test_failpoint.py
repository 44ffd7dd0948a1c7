"""Failpoints do what they are asked for, when they are asked to, and nothing where nobody asks."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UsageError
from pipeline.failpoint import DEEDS, ENV, MARKS, POINTS, RAISED, SEED, Order, armed, parse, reach
from pipeline.foundation import create_output, sweep_beside
from pipeline.store import made_arrays
from pipeline.volume import Volume
from tests.faults.harness import Stage, World


@pytest.fixture
def marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(MARKS, str(tmp_path))
    return tmp_path


def test_orders_are_read_as_they_are_written() -> None:
    assert parse("record=kill@3, write=eio@p0.1,merge=note@*,read=hang") == (
        Order("record", "kill", 3), Order("write", "eio", 0, 0.1), Order("merge", "note"), Order("read", "hang", 1))  # fmt: skip


@pytest.mark.parametrize("text", ["record", "record=bang", "recrod=kill", "record=kill@", "record=kill@x", "record=kill;write=eio", ","])
def test_what_is_no_order_is_refused_in_words(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENV, text)
    for act in (armed, lambda: reach("record")):
        with pytest.raises(UsageError, match="is no failpoint") as e:
            act()
        assert "points: read restore" in e.value.why
        assert f"unset {ENV}" in e.value.do


def test_half_a_write_is_torn_where_it_is_made_durable_and_nowhere_else() -> None:
    with pytest.raises(UsageError, match="is no failpoint") as e:
        parse("record=tear")
    assert e.value.why == "tear and lose go with fsync"


@pytest.mark.parametrize("deed", RAISED)
def test_a_disk_fails_the_nth_time(deed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENV, f"write={deed}@3,read={deed}@*")
    reach("write"), reach("write"), reach("record")
    with pytest.raises(OSError, match="failpoint write") as e:
        reach("write", "a box")
    assert (e.value.errno, e.value.filename) == (getattr(errno, deed.upper()), "a box")
    reach("write")
    for _ in range(2):
        with pytest.raises(OSError, match="failpoint read"):
            reach("read")


def test_chances_follow_the_seed(marks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    for seed, spare in ((1, ""), (1, ",attrs=note@7"), (2, "")):
        monkeypatch.setenv(SEED, str(seed))
        monkeypatch.setenv(ENV, f"write=note@p0.3{spare}")
        for n in range(100):
            reach("write", str(n))
        seen.append((marks / "notes").read_text())
        (marks / "notes").unlink()
    told = [[line.split()[3] for line in notes.splitlines()] for notes in seen]
    assert told[0] == told[1] != told[2]
    assert 10 < len(told[0]) < 50


@pytest.mark.parametrize(("deed", "left"), [("tear", b"half"), ("lose", None)])
def test_a_power_cut_takes_what_is_not_durable(deed: str, left: bytes | None, marks: Path) -> None:
    (marks / "file").write_bytes(b"halfhalf")
    pid = os.fork()
    if pid == 0:
        os.environ[ENV] = f"fsync={deed}"
        reach("fsync", "", [marks / "file"])
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    assert ((marks / "file").read_bytes() if (marks / "file").exists() else None) == left
    os.environ[ENV] = f"fsync={deed}"
    reach("fsync", "", [marks / "file"])  # no second process is ended
    del os.environ[ENV]


def test_nothing_happens_where_nobody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENV, raising=False)
    for point in POINTS:
        reach(point)
    assert armed() == ""
    assert "kill" in DEEDS


def test_a_run_comes_by_every_point_and_says_that_it_is_made_to_fail(tmp_path: Path) -> None:
    world = World(tmp_path / "packs", "packs", patches={"pipeline.ledger.PACK_AT": 4}).make()
    assert set(world.visits) == set(POINTS)
    assert "warning: this run is made to fail: ZMEND_FAILPOINTS=" in world.undisturbed.said.read_text()


def test_memory_that_runs_out_is_no_bug(tmp_path: Path) -> None:
    stage = Stage(World(tmp_path / "plain", "plain").make(), "short")
    assert stage.run(faults="attrs=memory@2") == 7
    assert "zmend: memory ran out" in stage.said.read_text()
    assert "make slabs smaller (site.slab_px)" in stage.said.read_text()


def test_a_maker_whose_half_made_store_is_swept_away_finds_the_one_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two make the store; the faster one ends and sweeps while the other has made its first array."""
    world = World(tmp_path / "plain", "plain").make()
    out, source = str(tmp_path / "out.zarr"), Volume.open(world.folder / "raw.zarr")
    how: dict[str, Any] = {"mode": "volume", "chunk_yx": 32, "shard_yx": None, "extra": {}}

    def overtaken(uri: str, **array: Any) -> Volume:
        monkeypatch.undo()
        made = Volume.create(uri, **array)
        create_output(out, source, **how)
        sweep_beside(out)
        return Volume.open(made.uri)

    monkeypatch.setattr(Volume, "create", overtaken)
    create_output(out, source, **how)
    assert [p.name for p in tmp_path.glob("*out.zarr*")] == ["out.zarr"]
    assert made_arrays(out).keys() == {"overlay", "labels"}
