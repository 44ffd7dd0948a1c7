"""`zmend plan --explain`: the reason that it gives is what was changed, and what it says is what the next run does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from pipeline.box import Box
from pipeline.cli import cli
from pipeline.errors import Interrupted
from pipeline.explain import REASONS, explain
from pipeline.job import propose
from pipeline.ledger import Ledger
from pipeline.run import Stop, run
from pipeline.verify import verify
from pipeline.volume import Volume
from tests.jobs import SHAPE, Job, build, put_back, tissue

FLAGS = "z_start,z_stop,class,y_start,y_stop,x_start,x_stop\n3,4,missing,,,,\n8,9,fold,10,60,20,90\n12,13,missing,,,,\n"
WHOLE = {"site": {"slab_px": "whole"}}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Job:
    job = build(tmp_path_factory.mktemp("explain"))
    job.flags(FLAGS)
    job.run(**WHOLE)
    return job


@pytest.fixture
def job(finished: Job, tmp_path: Path) -> Any:
    yield from put_back(finished, tmp_path)


def grow(job: Job) -> None:
    raw = Volume.open(str(job.raw), writable=True)
    raw.resize((24, *SHAPE[1:]))
    raw.write(Box((16, 0, 0), (24, *SHAPE[1:])), tissue((24, *SHAPE[1:]))[16:])
    job.flags(FLAGS + "20,21,missing,,,,\n")


def replace_chunk(job: Job, change: int) -> None:
    raw = Volume.open(str(job.raw), writable=True)
    box = Box((8, 0, 0), (16, 128, 128))
    raw.write(box, raw.read(box) ^ np.uint8(change))


def spoil(job: Job) -> None:
    """Of the record of section 12 one digit is another."""
    ledger = Ledger(str(job.folder / "out.zarr"))
    name = next(i for i, r in ledger.records() if r and r["write"][0][0] == 12)
    path = job.folder / "out.zarr/zmend/records" / ledger.key(name)
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))


def lose(job: Job) -> None:
    shutil.rmtree(job.folder / "out.zarr/zmend/overlay/c/12")


# what is changed: what it does, how the configuration differs, reasons by section (all others are unchanged), a detail
CHANGES: dict[str, tuple[Callable[[Job], object], dict[str, Any], dict[int, str], str]] = {
    "nothing": (lambda job: None, {}, {}, ""),
    "growth": (grow, {}, {20: "new section"}, "the volume had 16 sections"),
    "another flag": (lambda job: job.flags(FLAGS + "5,6,missing,,,,\n"), {}, {3: "neighbour changed", 5: "newly flagged"}, "flags of section 5"),
    "a wider flag": (lambda job: job.flags(FLAGS.replace("10,60", "10,70")), {}, {8: "flags changed"}, ""),
    "a flag taken back": (lambda job: job.flags(FLAGS.replace("12,13,missing,,,,\n", "")), {}, {}, ""),
    "a chunk": (lambda job: replace_chunk(job, 1), {}, {8: "source replaced", 12: "source replaced"}, "written anew"),
    "a recipe": (lambda job: None, {"recipe": {"seed": 9}}, dict.fromkeys((3, 8, 12), "recipe changed"), "seed"),
    "weights": (lambda job: None, {"recipe": {"restorer": "tests.toys:Retrained"}}, dict.fromkeys((3, 8, 12), "recipe changed"), "restorer"),
    "a record": (spoil, {}, {12: "record spoiled"}, "not what was written"),
    "a chunk of the overlay": (lose, {}, {12: "chunks lost"}, "gone"),
    "the slabs": (lambda job: None, {"site": {"slab_px": 256}}, dict.fromkeys((3, 8, 12), "cut anew"), "it was"),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_the_reason_is_what_was_changed_and_the_next_run_does_that(change: str, job: Job) -> None:
    act, parts, wanted, detail = CHANGES[change]
    act(job)
    settings = {**WHOLE, **parts}
    proposal = propose(job.load(**settings))
    found = explain(proposal)
    told = {row["write"][0][0]: row["why"] for row in found["rows"] if row["why"] != "unchanged"}
    assert told == wanted
    assert set(found["counts"]) <= set(REASONS)
    assert sum(found["counts"].values()) == found["slabs"] == len(proposal.plan.slabs)
    assert any(detail in row["detail"] for row in found["rows"] if row["why"] != "unchanged") == bool(wanted)
    assert found["taken_back"] == ([[12, 13]] if change == "a flag taken back" else [])
    events: list[dict[str, Any]] = []
    run(proposal, on_event=events.append)
    assert {e["write"][0][0] for e in events if e["kind"] == "slab"} == set(wanted)
    assert verify(str(job.folder / "out.zarr"))["ok"]
    assert explain(propose(job.load(**settings)))["todo"] == 0


def test_before_any_run_and_after_one_that_was_interrupted(tmp_path: Path) -> None:
    job = build(tmp_path)
    job.flags(FLAGS)
    assert explain(propose(job.load()))["counts"].keys() == {"first run"}
    stop = Stop()
    with pytest.raises(Interrupted):
        run(propose(job.load()), stop=stop, on_event=lambda e: setattr(stop, "requested", e["kind"] == "slab"))
    assert explain(propose(job.load()))["counts"].keys() == {"unchanged", "not done yet"}


def test_other_weights_under_the_same_name(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.toys.Textured.digest", "toy, trained on")
    found = explain(propose(job.load(**WHOLE)))
    assert found["counts"] == {"weights changed": 3}


def test_chunks_that_were_written_anew_and_hold_what_they_held_are_kept(job: Job) -> None:
    """Also by workers; and the kept slabs are known by their new ids, so that nothing is read a second time."""
    before = {p: p.stat().st_mtime_ns for p in (job.folder / "out.zarr/zmend/overlay/c").rglob("*") if p.is_file()}
    replace_chunk(job, 0)
    for workers, kept in ((2, 2), (0, 0)):
        events: list[dict[str, Any]] = []
        run(propose(job.load(site={"slab_px": "whole", "workers": workers})), on_event=events.append)
        begin = next(e for e in events if e["kind"] == "begin")
        assert (begin["kept"], begin["todo"], begin["retired"]) == (kept, 0, 0)
    assert {p: p.stat().st_mtime_ns for p in (job.folder / "out.zarr/zmend/overlay/c").rglob("*") if p.is_file()} == before
    assert verify(str(job.folder / "out.zarr"), replay=3)["ok"]


def test_the_command_tells_it_to_people_and_to_programs(job: Job) -> None:
    job.flags(FLAGS + "5,6,missing,,,,\n")
    config = str(job.config(**WHOLE))
    told = CliRunner().invoke(cli, ["plan", config, "--explain"], catch_exceptions=False).output
    assert "2 of 4 slabs to do" in told and "neighbour changed" in told and "z 3:4" in told
    document = json.loads(CliRunner().invoke(cli, ["plan", config, "--explain", "--json"], catch_exceptions=False).output)
    assert document["explain"]["counts"] == {"unchanged": 2, "newly flagged": 1, "neighbour changed": 1}
