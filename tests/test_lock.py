"""Who holds a store, who may take it over, and who notices that it was taken: each question with its two answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from pipeline import lock as room
from pipeline.errors import StoreLockedError
from pipeline.files import Files
from pipeline.ledger import Ledger
from pipeline.lock import KEY, StoreLock, _alive, _me, _started, still_held

OTHER = {"host": "another host", "pid": 1, "started": "then", "lock": "theirs"}


def put(out: Path, **told: Any) -> bytes:
    """A lock lies there; returns it."""
    raw = json.dumps({**_me(), **told}).encode()
    Files(str(out)).put(KEY, raw)
    return raw


def test_who_has_lost_the_store_hears_of_it_and_leaves_the_others_lock(tmp_path: Path) -> None:
    with StoreLock(str(tmp_path)) as lock:
        lock.held()
        theirs = put(tmp_path, **OTHER)
        with pytest.raises(StoreLockedError, match="(?s)this run holds the store no more.*another run has taken it over"):
            lock.held()
    assert Files(str(tmp_path)).read(KEY) == theirs
    Files(str(tmp_path)).delete(KEY)
    with pytest.raises(StoreLockedError, match="(?s)holds the store no more.*it has ended"):
        still_held(str(tmp_path), "mine")


def test_what_fails_once_the_store_is_lost_fails_for_that(tmp_path: Path) -> None:
    """Whoever took it over swept away what was half made."""
    with pytest.raises(StoreLockedError, match="this run holds the store no more") as told, StoreLock(str(tmp_path)):
        put(tmp_path, **OTHER)
        raise FileNotFoundError("zmend/.seal.json.partial")
    assert isinstance(told.value.__context__, FileNotFoundError)
    Files(str(tmp_path)).delete(KEY)
    with pytest.raises(FileNotFoundError), StoreLock(str(tmp_path)):
        raise FileNotFoundError("something else")


def test_a_process_that_has_ended_and_was_not_waited_for_holds_nothing(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    holder = {**_me(), "pid": process.pid, "started": _started(process.pid)}
    assert _alive(holder) and not _alive({**holder, "started": "before"}) and not _alive({**holder, "pid": "1"})
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # a zombie from here on
    assert not _alive(holder)
    process.communicate()


@pytest.mark.parametrize("restarts", [0, 1])
def test_a_job_that_was_requeued_takes_its_own_lock_over(restarts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job(monkeypatch, "7", restarts=1)
    put(tmp_path, **OTHER, slurm=["cluster", "7", restarts])
    queue(tmp_path, monkeypatch, "echo RUNNING")
    taken(tmp_path, restarts == 0)


@pytest.mark.parametrize(
    ("cluster", "says", "free"),
    [
        ("cluster", "echo slurm_load_jobs error: Invalid job id specified >&2; exit 1", True),
        ("cluster", "true", True),
        ("cluster", "echo RUNNING", False),
        ("cluster", "echo no answer >&2; exit 1", False),
        ("another", "true", False),
    ],
)
def test_the_lock_of_another_job_is_free_where_slurm_has_it_no_more(cluster: str, says: str, free: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job(monkeypatch, "8", restarts=0)
    put(tmp_path, **OTHER, slurm=[cluster, "7", 0])
    queue(tmp_path, monkeypatch, says)
    taken(tmp_path, free)


def job(monkeypatch: pytest.MonkeyPatch, number: str, restarts: int) -> None:
    for name, value in {"SLURM_JOB_ID": number, "SLURM_CLUSTER_NAME": "cluster", "SLURM_RESTART_COUNT": str(restarts)}.items():
        monkeypatch.setenv(name, value)


def queue(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """What `squeue` answers."""
    (folder / "bin").mkdir()
    (folder / "bin/squeue").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "bin/squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")


def taken(out: Path, free: bool) -> None:
    if free:
        with StoreLock(str(out)) as lock:
            assert lock.taken_over
        return
    with pytest.raises(StoreLockedError, match="the store is locked by process 1 on another host"), StoreLock(str(out)):
        pass


def guard(raw: bytes) -> str:
    return f"{KEY}.{sha256(raw).hexdigest()[:16]}"


def test_a_dead_ones_lock_is_not_replaced_while_another_replaces_it(tmp_path: Path) -> None:
    dead = put(tmp_path, started="before")
    Files(str(tmp_path)).put(guard(dead), json.dumps(_me()).encode())
    with pytest.raises(StoreLockedError, match="locked by process"), StoreLock(str(tmp_path)):
        pass
    assert Files(str(tmp_path)).read(KEY) == dead


def test_who_comes_late_finds_what_another_has_put_in_the_place_of_the_dead_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between its look at the dead one's lock and its guard another was there, and holds the store."""
    dead, create = put(tmp_path, started="before"), Files.create
    theirs: list[bytes] = []

    def late(files: Files, key: str, data: bytes) -> bool:
        if key == guard(dead) and not theirs:
            theirs.append(put(tmp_path))
        return create(files, key, data)

    monkeypatch.setattr(Files, "create", late)
    with pytest.raises(StoreLockedError, match="locked by process"), StoreLock(str(tmp_path)):
        pass
    assert [Files(str(tmp_path)).read(KEY)] == theirs and Files(str(tmp_path)).stat(guard(dead)) is None


class Lost(Exception):
    """As a fence raises: the store is another run's."""


def fence() -> None:
    raise Lost


@pytest.mark.parametrize("deed", ["commit", "pack", "remove", "append", "retire", "discard"])
def test_nothing_is_recorded_packed_retired_or_put_aside_without_asking(deed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, slab = Ledger(str(tmp_path)), "ab" * 16
    mine.commit({"slab": slab, "chunks": []})
    before = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*"))
    other = Ledger(str(tmp_path), fence)
    if deed == "remove":  # of a loose record that lies in a pack by now
        monkeypatch.setattr(other.packs, "append", lambda records: list(records))
    deeds = {
        "commit": lambda: other.commit({"slab": "cd" * 16}),
        "pack": lambda: other.pack(least=1),
        "remove": lambda: other.pack(least=1),
        "append": lambda: other.packs.append([], withdrawn=[slab]),
        "retire": lambda: other.retire({slab}),
        "discard": lambda: other.discard(slab),
    }
    with pytest.raises(Lost):
        deeds[deed]()
    assert sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*")) == before


def test_what_is_no_lock_keeps_everybody_out(tmp_path: Path) -> None:
    for raw in (b"", b"[]", b"{", b"\0" * 9):
        Files(str(tmp_path)).put(KEY, raw)
        assert room.holder(str(tmp_path)) == ""
        with pytest.raises(StoreLockedError), StoreLock(str(tmp_path)):
            pass
