"""What a run finds is noted once, is trusted only as it was written, and is put back whole."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from pipeline.errors import RevertError, UsageError
from pipeline.runlog import _after, new_name
from pipeline.state import BESIDE, State, changing, found_by, run_called

MADE = {"20261101T000000-aa": "0" * 32 + "1" * 32, "20261102T000000-bb": "2" * 32}
SOME = State("head", MADE, {"review": "{}\n"})


def note(out: Path, run: str = "20261103T000000-cc") -> Path:
    return out / "zmend/runs" / run / "before.json"


def test_the_first_note_of_a_run_stays(tmp_path: Path) -> None:
    SOME.keep(str(tmp_path), "20261103T000000-cc")
    State("other").keep(str(tmp_path), "20261103T000000-cc")
    assert found_by(str(tmp_path), "20261103T000000-cc") == SOME
    assert SOME.records() == {"0" * 32: "20261101T000000-aa", "1" * 32: "20261101T000000-aa", "2" * 32: "20261102T000000-bb"}


@pytest.mark.parametrize("change", [{"head": "other"}, {"made": {}}, {"review": "{ }"}, {"digest": "0" * 64}])
def test_a_note_that_was_edited_is_not_trusted(change: dict, tmp_path: Path) -> None:
    SOME.keep(str(tmp_path), "20261103T000000-cc")
    path = note(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(RevertError, match="(?s)what run .* found cannot be trusted.*does not hash to what it says"):
        found_by(str(tmp_path), "20261103T000000-cc")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"digest": 1}'])
def test_a_note_that_is_none(text: str, tmp_path: Path) -> None:
    note(tmp_path).parent.mkdir(parents=True)
    note(tmp_path).write_text(text)
    with pytest.raises(RevertError, match="cannot be trusted"):
        found_by(str(tmp_path), "20261103T000000-cc")


def test_documents_beside_are_put_back_and_others_taken_away(tmp_path: Path) -> None:
    for key in BESIDE.values():
        (tmp_path / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / key).write_text("later")
    SOME.put_beside(str(tmp_path), ("review", "certificate"))
    left = {name: (tmp_path / key).read_text() for name, key in BESIDE.items() if (tmp_path / key).exists()}
    assert left == {"review": "{}\n", "signature": "later"}
    SOME.put_beside(str(tmp_path))
    assert [name for name, key in BESIDE.items() if (tmp_path / key).exists()] == ["review"]


def test_names_of_runs_follow_each_other_whatever_the_clock_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, made = time.time_ns(), list[str]()
    for jump_s in (0, 0, -3600, -3600, 5, -(10**9), 10**8, 0):
        monkeypatch.setattr("pipeline.runlog.time.time_ns", lambda jump_s=jump_s: begun + jump_s * 10**9)
        made.append(new_name(str(tmp_path)))
        (tmp_path / "zmend/runs" / made[-1]).mkdir(parents=True)
    assert made == sorted(set(made)), "in the order in which they began, none twice"
    (tmp_path / "zmend/runs/old").mkdir()
    assert new_name(str(tmp_path))[:15] <= max(made)[:15], "what is no run's name is passed over"
    assert made[4][:15] == time.strftime("%Y%m%dT%H%M%S", time.localtime(begun // 10**9 + 5)), "the clock's, where it goes on"


@pytest.mark.parametrize(("last", "following"), [("x-0009", "x-000a"), ("x-ffff", "x-ffff0"), ("x-ffff0", "x-ffff1"), ("x", "x0"), ("somebody's", "somebody's0")])
def test_what_comes_after_a_name(last: str, following: str) -> None:
    assert _after(last) == following > last


def test_runs_that_changed_something_and_what_they_are_called(tmp_path: Path) -> None:
    for run in ("20261103T000000-cc", "20261101T000000-aa"):
        SOME.keep(str(tmp_path), run)
    (tmp_path / "zmend/runs/20261102T000000-bb").mkdir()
    assert changing(str(tmp_path)) == ["20261101T000000-aa", "20261103T000000-cc"]
    assert run_called(str(tmp_path), "20261102") == "20261102T000000-bb"
    with pytest.raises(UsageError, match="3 runs are called '2026'"):
        run_called(str(tmp_path), "2026")
    with pytest.raises(UsageError, match="there is no run '1'"):
        run_called(str(tmp_path), "1")
    with pytest.raises(RevertError, match="run 20261102T000000-bb changed nothing"):
        found_by(str(tmp_path), "20261102T000000-bb")
