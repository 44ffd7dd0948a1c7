"""Records: created whole, once, and never overwritten. One live run holds the lock."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipeline.errors import StoreLockedError, UnfitError
from pipeline.files import Files
from pipeline.ledger import Ledger
from pipeline.lock import StoreLock


def test_the_first_record_wins_and_stays(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path))
    assert not ledger.has("ab12")
    assert ledger.commit({"slab": "ab12", "n": 1})
    assert not ledger.commit({"slab": "ab12", "n": 2})
    assert ledger.get("ab12")["n"] == 1
    assert ledger.ids() == {"ab12"}


def test_of_sixteen_writers_exactly_one_creates_the_record(tmp_path: Path) -> None:
    ledger, won = Ledger(str(tmp_path)), []
    gate = threading.Barrier(16)

    def race(n: int) -> None:
        gate.wait()
        if ledger.commit({"slab": "cd34", "n": n}):
            won.append(n)

    threads = [threading.Thread(target=race, args=(n,)) for n in range(16)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(won) == 1
    assert ledger.get("cd34")["n"] == won[0]
    assert not list(tmp_path.rglob("*.partial")), "nothing half-made is left"


def test_retired_records_become_history_and_the_slab_is_pending_again(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path))
    ledger.commit({"slab": "ab12", "chunks": []})
    ledger.retire({"ab12"})
    assert not ledger.has("ab12")
    ((name, record),) = ledger.retiring()
    assert record["slab"] == "ab12"
    ledger.finish_retiring(name, "run1")
    assert not list(ledger.retiring())
    assert ledger.files.stat("retired/ab12.run1.json")
    assert ledger.commit({"slab": "ab12", "chunks": []}), "it may be made again"


def test_a_record_that_a_kill_left_in_both_places_is_not_in_force(tmp_path: Path) -> None:
    """An object store moves by copy and delete."""
    ledger = Ledger(str(tmp_path))
    ledger.commit({"slab": "ab12", "chunks": []})
    raw = ledger.files.read(ledger.key("ab12"))
    assert raw
    ledger.files.put("retiring/ab12.json", raw)
    ledger.retire(set())
    assert not ledger.ids()
    assert [name for name, _ in ledger.retiring()] == ["ab12.json"]


def test_keep_is_whole(tmp_path: Path) -> None:
    path, files = tmp_path / "x.json", Files(str(tmp_path))
    files.keep("x.json", b"1")
    files.keep("x.json", b"2")
    assert path.read_text() == "2"
    assert os.listdir(tmp_path) == ["x.json"]


def test_a_file_system_without_links_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(UnfitError, match="no hard links") as e:
        Files(str(tmp_path)).create("r.json", b"{}")
    assert "zmend doctor" in e.value.do
    assert not os.listdir(tmp_path)


def test_a_full_disk_is_not_taken_for_a_file_system_without_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", full)
    with pytest.raises(OSError, match="No space left"):
        Files(str(tmp_path)).create("r.json", b"{}")
    assert not os.listdir(tmp_path)


def test_a_link_that_was_made_although_the_answer_says_no_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS: the first answer was lost, and the request sent again finds the link that it made itself."""
    link = os.link

    def twice(source: str, target: str) -> None:
        link(source, target)
        raise FileExistsError(errno.EEXIST, "File exists")

    monkeypatch.setattr(os, "link", twice)
    assert Files(str(tmp_path)).create("r.json", b"{}")
    monkeypatch.undo()
    assert not Files(str(tmp_path)).create("r.json", b"other")
    assert (tmp_path / "r.json").read_bytes() == b"{}" and os.listdir(tmp_path) == ["r.json"]


def test_a_live_run_keeps_others_out(tmp_path: Path) -> None:
    with StoreLock(str(tmp_path)), pytest.raises(StoreLockedError, match=f"process {os.getpid()}") as e, StoreLock(str(tmp_path)):
        pass
    assert e.value.exit_code == 6
    assert not (tmp_path / "zmend" / "lock").exists()


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path: Path) -> None:
    child = subprocess.run(
        [sys.executable, "-c", "import sys, os, signal; from pipeline.lock import StoreLock\n"
         "StoreLock(sys.argv[1]).__enter__(); os.kill(os.getpid(), signal.SIGKILL)", str(tmp_path)],
        cwd=Path(__file__).parents[1], check=False,
    )  # fmt: skip
    assert child.returncode == -9
    assert (tmp_path / "zmend" / "lock").exists()
    with StoreLock(str(tmp_path)):
        assert json.loads((tmp_path / "zmend" / "lock").read_text())["pid"] == os.getpid()


def test_a_pid_that_was_given_to_another_process_is_no_holder(tmp_path: Path) -> None:
    lock = tmp_path / "zmend" / "lock"
    lock.parent.mkdir()
    lock.write_text(json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "started": "earlier boot:1"}))
    with StoreLock(str(tmp_path)):
        pass


def test_the_lock_of_another_host_is_respected(tmp_path: Path) -> None:
    lock = tmp_path / "zmend" / "lock"
    lock.parent.mkdir()
    lock.write_text(json.dumps({"host": "elsewhere", "pid": 1, "started": "x"}))
    with pytest.raises(StoreLockedError, match="process 1 on elsewhere") as e, StoreLock(str(tmp_path)):
        pass
    assert "delete the file" in e.value.do
