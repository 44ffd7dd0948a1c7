"""The whole path on small real stores: what a run does, does again, refuses, and leaves."""

from __future__ import annotations

import json
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from pipeline.blend import LEFT, SYNTHESISED
from pipeline.box import Box
from pipeline.cli import cli
from pipeline.config import check as validate
from pipeline.config import load
from pipeline.errors import (
    ConfigError,
    InputError,
    Interrupted,
    PlanChangedError,
    StoreLockedError,
    VerifyError,
    ZmendError,
)
from pipeline.explain import explain
from pipeline.gap import ABSENT
from pipeline.job import open_job, propose
from pipeline.journal import forget_merge
from pipeline.ledger import Ledger
from pipeline.lock import StoreLock
from pipeline.remerge import remerge
from pipeline.run import Stop, run
from pipeline.slab import restore
from pipeline.summary import status
from pipeline.verify import verify
from pipeline.volume import Volume
from tests.jobs import NM, SHAPE, TOY, Job, build, command, save, store_digest, tissue, tree, voxel_digest, voxels
from tests.stores import KINDS, noise, write_volume

KEYS = {"run", "slabs", "done", "quarantined", "not_restorable", "voxels_restored", "bytes_read", "bytes_written", "seconds", "output"}


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return build(tmp_path)


def check(out: Path, **kw: int) -> dict:
    """Every test that makes a store ends here: the store must verify."""
    found = verify(str(out), **kw)
    assert found["ok"], [c for c in found["checks"] if not c["ok"]]
    assert found["voxels_changed_outside_mask"] in (0, None)
    return found


def test_a_flagged_volume_becomes_a_mended_one(job: Job) -> None:
    summary = job.run()
    assert set(summary) >= KEYS
    assert summary["voxels_restored"] == job.flagged.sum()
    assert (summary["quarantined"], summary["not_restorable"]) == (0, [])
    found = check(job.folder / "out.zarr", replay=4)
    assert found["voxels_synthetic"] == job.flagged.sum()
    made = voxels(job.folder / "out.zarr")
    error = np.abs(made.astype(int) - job.truth)[job.flagged].mean()
    assert error < np.abs(job.damaged.astype(int) - job.truth)[job.flagged].mean() / 2


def test_known_voxels_are_returned_bit_for_bit(job: Job) -> None:
    job.run()
    for what in ("merged", "overlay"):
        made, labels = voxels(job.folder / "out.zarr", what), voxels(job.folder / "out.zarr", "labels")
        where = ~job.flagged if what == "merged" else (labels == 0) & (made > 0)
        np.testing.assert_array_equal(made[where], job.damaged[where])
    assert ((labels > 0) == job.flagged).all()


def test_z_never_shifts(job: Job) -> None:
    job.run()
    made = Volume.open(str(job.folder / "out.zarr"))
    assert made.shape == SHAPE
    assert made.voxel_nm == NM
    kept = [z for z in range(SHAPE[0]) if not job.flagged[z].any()]
    np.testing.assert_array_equal(voxels(job.folder / "out.zarr")[kept], job.damaged[kept])


def test_source_is_never_written(job: Job) -> None:
    before = tree(job.raw)
    job.run()
    job.flags("z_start,z_stop,class\n2,3,missing\n")
    job.run()
    check(job.folder / "out.zarr")
    assert tree(job.raw) == before


def test_labels_tell_sections_regions_and_feather_apart(job: Job) -> None:
    job.run()
    labels = voxels(job.folder / "out.zarr", "labels")
    for z in range(SHAPE[0]):
        whole = job.flagged[z].all()
        allowed = [{1}] if whole else [{0, 2, 3}, {0, 3}] if job.flagged[z].any() else [{0}]  # a thin fold is all feather
        assert set(np.unique(labels[z])) in allowed


def test_running_again_does_nothing(job: Job) -> None:
    job.run()
    before = store_digest(job.folder / "out.zarr")
    events: list[dict] = []
    run(propose(job.load()), on_event=events.append)
    assert next(e for e in events if e["kind"] == "begin")["todo"] == 0
    assert store_digest(job.folder / "out.zarr") == before


def redone(job: Job, **parts) -> set[tuple[int, int]]:
    """Run, and return the (z0, z1) of the slabs that were worked on."""
    events: list[dict] = []
    run(propose(job.load(**parts)), on_event=events.append)
    check(job.folder / "out.zarr")
    return {(e["write"][0][0], e["write"][1][0]) for e in events if e["kind"] == "slab"}


def test_run_again_does_only_what_changed(job: Job) -> None:
    job.flags("3\n8\n12\n")
    assert redone(job) == {(3, 4), (8, 9), (12, 13)}
    original = voxel_digest(job.folder / "out.zarr")
    job.flags("3\n12\n")  # one flag taken back: nothing is made, the source comes back there
    assert redone(job) == set()
    np.testing.assert_array_equal(voxels(job.folder / "out.zarr")[8], job.damaged[8])
    job.flags("3\n5\n12\n")  # 5 is second neighbour of 3: both
    assert redone(job) == {(3, 4), (5, 6)}
    job.flags("3\n8\n12\n")  # back to the first
    assert redone(job) == {(3, 4), (8, 9)}
    assert voxel_digest(job.folder / "out.zarr") == original
    assert redone(job, recipe={"restorer": "tests.toys:Retrained"}) == {(3, 4), (8, 9), (12, 13)}


def test_a_volume_that_grows_keeps_what_was_done(job: Job) -> None:
    job.flags("3\n8\n")
    job.run()
    before = voxels(job.folder / "out.zarr")
    raw = Volume.open(str(job.raw), writable=True)
    raw.resize((24, *SHAPE[1:]))
    raw.write(Box((16, 0, 0), (24, *SHAPE[1:])), tissue((24, *SHAPE[1:]))[16:])
    job.flags("3\n8\n20\n")
    assert redone(job) == {(20, 21)}
    np.testing.assert_array_equal(voxels(job.folder / "out.zarr")[:16], before)


def test_a_store_whose_source_has_moved_goes_on_as_the_refusal_says(tmp_path: Path) -> None:
    job = build(tmp_path / "here")
    job.run()
    (tmp_path / "here").rename(tmp_path / "there")
    moved = replace(job, folder=tmp_path / "there")
    with pytest.raises(ZmendError, match=r"if the source has only moved, set zmend\.source\.uri in the store's attributes"):
        moved.run()
    attrs = moved.folder / "out.zarr/zarr.json"
    attrs.write_text(attrs.read_text().replace("here/raw.zarr", "there/raw.zarr"))
    assert moved.run()["done"] == 16
    check(moved.folder / "out.zarr")


def test_an_axis_that_lost_its_name_is_found_and_no_bug(job: Job) -> None:
    job.run()
    attrs = job.folder / "out.zarr/zarr.json"
    attrs.write_text(attrs.read_text().replace('"name": "z"', '"oame": "z"', 1))
    found = CliRunner().invoke(cli, ["verify", str(job.folder / "out.zarr")])
    assert isinstance(found.exception, InputError | VerifyError | SystemExit), found.exception
    assert "bug" not in found.output


@pytest.mark.parametrize("text", [None, "{}"])
def test_a_store_that_lost_its_metadata_is_not_called_a_stranger(job: Job, text: str | None) -> None:
    """It was said to be removed by hand: it holds everything that was restored."""
    job.run()
    attrs = job.folder / "out.zarr/zarr.json"
    whole = attrs.read_text()
    attrs.unlink() if text is None else attrs.write_text(text)
    before = tree(job.folder / "out.zarr")
    with pytest.raises(InputError, match=r"metadata of this store is damaged or gone(.|\n)*bring it back from a copy"):
        job.run()
    assert tree(job.folder / "out.zarr") == before, "not even its seal is touched"
    attrs.write_text(whole)
    assert job.run()["done"] == 16
    check(job.folder / "out.zarr")


def test_a_plan_that_is_not_as_it_was_written_is_written_anew(job: Job) -> None:
    """Where the source lies is no part of its hash, which alone was looked at."""
    job.run()
    (plan,) = (job.folder / "out.zarr/zmend/plans").glob("*.json")
    whole = plan.read_bytes()
    for spoiled in (whole.replace(b"raw.zarr", b"rav.zarr", 1), whole.replace(b"[", b"{", 3), whole[:-20], b""):
        plan.write_bytes(spoiled)
        job.run()
        assert plan.read_bytes() == whole
    before = plan.stat().st_mtime_ns
    job.run()
    assert plan.stat().st_mtime_ns == before, "and where it is, it is left alone"
    check(job.folder / "out.zarr")


def test_chunks_that_were_replaced_in_the_source_are_done_again(job: Job) -> None:
    job.flags("3\n13\n")
    job.run()
    raw = Volume.open(str(job.raw), writable=True)
    time.sleep(0.01)
    raw.write(Box((8, 0, 0), (16, *SHAPE[1:])), 255 - job.damaged[8:])
    events: list[dict] = []
    run(propose(job.load("elsewhere.zarr")), on_event=events.append)
    assert not [e for e in events if e["kind"] == "warning"], "a new store has seen no other source"
    run(propose(job.load()), on_event=events.append)
    assert any("changed since the last merge" in e["text"] for e in events if e["kind"] == "warning")
    again = events[events.index(next(e for e in events if e["kind"] == "warning")) :]
    assert {e["write"][0][0] for e in again if e["kind"] == "slab"} == {13}
    check(job.folder / "out.zarr")
    np.testing.assert_array_equal(voxels(job.folder / "out.zarr")[9], 255 - job.damaged[9])


def test_overlay_first_and_merge_later_is_the_same_volume(job: Job) -> None:
    job.run("at-once.zarr")
    summary = job.run("later.zarr", output={"mode": "overlay"})
    assert check(job.folder / "later.zarr")["voxels_changed_outside_mask"] is None
    assert summary["done"] == summary["slabs"]
    merged = remerge(str(job.folder / "later.zarr"))
    assert merged["voxels_changed"] > 0
    assert check(job.folder / "later.zarr")["voxels_changed_outside_mask"] == 0
    assert voxel_digest(job.folder / "later.zarr") == voxel_digest(job.folder / "at-once.zarr")


@pytest.mark.parametrize(
    ("flags", "z", "words"),
    [("0\n", [0, 1], "the volume ends here"), ("15\n", [15, 16], "the volume ends here"), ("4:8\n", [4, 8], "more than 3 sections in a row")],
)
def test_what_cannot_be_restored_is_listed_left_and_labelled(job: Job, flags: str, z: list[int], words: str) -> None:
    job.flags(flags + "10\n")
    summary = job.run()
    (entry,) = summary["not_restorable"]
    assert entry["z"] == z
    assert words in entry["why"]
    assert entry["voxels"] == (z[1] - z[0]) * SHAPE[1] * SHAPE[2]
    made, labels = voxels(job.folder / "out.zarr"), voxels(job.folder / "out.zarr", "labels")
    assert (labels[z[0] : z[1]] == LEFT).all()
    np.testing.assert_array_equal(made[z[0] : z[1]], job.damaged[z[0] : z[1]])
    check(job.folder / "out.zarr")


def test_a_restorer_that_gives_nan_is_quarantined(job: Job) -> None:
    summary = job.run(recipe={"options": {"spoil": "nan"}})
    assert summary["quarantined"] > 0
    assert summary["done"] + summary["quarantined"] == summary["slabs"], "slabs where a mask is empty have nothing to spoil"
    assert summary["voxels_restored"] == 0
    np.testing.assert_array_equal(voxels(job.folder / "out.zarr"), job.damaged)
    assert "NaN" in summary["not_restorable"][0]["why"]
    check(job.folder / "out.zarr")


def test_quarantine_does_not_depend_on_the_cut(tmp_path: Path) -> None:
    """A box in black padding and one in tissue, of one section: neither is suspicious, however they are cut."""
    volume = tissue().copy()
    volume[:, :, :120] = 0
    job = build(tmp_path, volume=volume)
    job.flags("z_start,z_stop,class,y_start,y_stop,x_start,x_stop\n8,9,fold,50,120,10,60\n8,9,fold,20,60,130,200\n")
    for number, slab_px in enumerate((128, 256, "whole")):
        summary = job.run(f"{number}.zarr", recipe={"restorer": "linear"}, site={"slab_px": slab_px})
        assert (summary["quarantined"], summary["voxels_restored"]) == (0, 70 * 50 + 40 * 70)


def test_quarantine_ends_the_command_with_4(job: Job) -> None:
    config = job.config(recipe={"options": {"spoil": "nan"}})
    process = command("run", str(config), "--json", cwd=job.folder)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 4
    assert json.loads(out)["quarantined"] > 0


def test_do_not_touch_wins(job: Job) -> None:
    job.flags("z_start,z_stop,class,y_start,y_stop,x_start,x_stop\n5,6,missing,,,,\n5,6,do_not_touch,10,90,20,60\n")
    job.run()
    made, labels = voxels(job.folder / "out.zarr"), voxels(job.folder / "out.zarr", "labels")
    np.testing.assert_array_equal(made[5, 10:90, 20:60], job.damaged[5, 10:90, 20:60])
    assert not labels[5, 10:90, 20:60].any()
    assert labels[5].sum() == (labels[5] > 0).sum() > 0


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_dtypes_and_formats(tmp_path: Path, dtype, zarr_format: int) -> None:
    job = build(tmp_path, dtype=dtype, zarr_format=zarr_format)
    job.run()
    check(job.folder / "out.zarr", replay=1)
    assert voxels(job.folder / "out.zarr").dtype == dtype


def test_sharded_source_and_overlay(tmp_path: Path) -> None:
    job = build(tmp_path, chunks=(1, 64, 64), shards=(8, 128, 128))
    job.run(output={"chunk_px": 64, "shard_px": 128})
    check(job.folder / "out.zarr", replay=1)


def test_missing_chunk_is_never_mistaken_for_black_tissue(job: Job) -> None:
    job.flags("3\n")
    clean = job.run("clean.zarr")["voxels_restored"]
    (gone,) = job.raw.glob("c/0/0/0")
    gone.unlink()  # holds section 3 and its neighbours at y, x < 128
    summary = job.run()
    assert summary["voxels_restored"] < clean
    assert "no chunk here" in summary["not_restorable"][0]["why"]
    labels = voxels(job.folder / "out.zarr", "labels")
    assert (labels[3, :128, :128] == LEFT).all()
    assert job.run("black.zarr", volume={"missing_chunks": "background"})["voxels_restored"] == clean


def test_absent_chunks_give_the_same_voxels_however_the_work_is_cut(tmp_path: Path) -> None:
    """A damaged section next to absent ones must not be restored or left depending on how far a slab happens to look."""
    job = build(tmp_path, chunks=(1, 128, 128))
    job.flags("z_start,z_stop,class,y_start,y_stop,x_start,x_stop\n4,5,missing,,,,\n6,7,fold,0,300,0,30\n9,10,missing,,,,\n")
    for gone in ("3/0/0", "7/0/1", "8/1/1", "10/2/0", "11/2/0"):
        (job.raw / "c" / gone).unlink()
    digests = set()
    for number, site in enumerate(({"slab_px": 128}, {"slab_px": 256, "slab_sections": 1}, {"slab_px": "whole"})):
        summary = job.run(f"{number}.zarr", site=site)
        assert {e["why"] for e in summary["not_restorable"]} == {ABSENT}
        digests.add(voxel_digest(job.folder / f"{number}.zarr"))
    assert len(digests) == 1


def test_a_passing_fault_is_tried_again(job: Job) -> None:
    marks = job.folder / "marks"
    marks.mkdir()
    events: list[dict] = []
    config = job.load(recipe={"restorer": "tests.toys:Flaky", "options": {"marks": str(marks)}})
    summary = run(propose(config), on_event=events.append)
    assert summary["done"] == summary["slabs"]
    assert any("a passing fault" in e["error"] for e in events if e["kind"] == "failure")
    check(job.folder / "out.zarr")


def test_when_everything_fails_alike_the_run_stops(job: Job) -> None:
    with pytest.raises(ZmendError, match="everything fails alike|slabs failed|slabs were given up") as e:
        job.run(recipe={"restorer": "tests.toys:Broken"}, site={"slab_px": 128})
    assert "no such luck" in e.value.why
    assert "run again" in e.value.do


@pytest.mark.parametrize("workers", [0, 2])
def test_a_slab_that_fails_everywhere_is_given_up_left_and_labelled(job: Job, workers: int) -> None:
    job.flags("3\n8\n12\n")
    site, recipe = {"workers": workers}, {"restorer": "tests.toys:Picky", "options": {"only": "3,12"}}
    events: list[dict] = []
    summary = run(propose(job.load(recipe=recipe, site=site, certificate=0)), on_event=events.append)
    slabs = {e["slab"] for e in events if e["kind"] == "failure"}
    assert summary["quarantined"] == len(slabs) > 0
    assert summary["done"] == summary["slabs"] - len(slabs) > 0
    (entry,) = summary["not_restorable"]
    assert entry["z"] == [8, 9]
    assert "given up: ArithmeticError: not this section" in entry["why"]
    made, labels = voxels(job.folder / "out.zarr"), voxels(job.folder / "out.zarr", "labels")
    assert (labels[8] == LEFT).all()
    np.testing.assert_array_equal(made[8], job.damaged[8])
    check(job.folder / "out.zarr", replay=9)
    again = run(propose(job.load(recipe=recipe, site=site, certificate=0)), on_event=events.append)
    assert events[-1]["kind"] == "end"
    assert again["quarantined"] == len(slabs), "what was given up is not tried by every later run"
    mended = {"restorer": "tests.toys:Picky", "options": {"only": "3,8,12"}}
    assert job.run(recipe=mended, certificate=0)["quarantined"] == 0


def test_what_failed_for_what_may_pass_is_tried_again_by_the_next_run_alone(job: Job) -> None:
    """An OSError may pass, an ArithmeticError is the slab's own: that one waits for --redo."""
    job.flags("3\n8\n12\n")
    marks, out = job.folder / "marks", job.folder / "out.zarr"
    parts = {"recipe": {"restorer": "tests.toys:Fickle", "options": {"outage": 8, "poison": 12, "marks": str(marks)}}, "certificate": 0}
    parts["site"] = {"attempts": {"transient": 2}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.attempts.BASE_S", 0.001)
        first = run(propose(job.load(**parts)))
        left = {s: r for s, r in Ledger(str(out)).records() if r["quarantined"]}
        passing = {s for s, r in left.items() if r.get("may_pass")}
        assert {r["write"][0][0] for s, r in left.items() if s in passing} == {8}
        assert {r["write"][0][0] for s, r in left.items() if s not in passing} == {12}
        assert explain(propose(job.load(**parts)))["counts"] == {"unchanged": first["slabs"] - len(passing), "failed before": len(passing)}
        assert run(propose(job.load(**parts)))["quarantined"] == len(left), "the outage goes on"
        check(out)
        marks.touch()
        told: list[dict] = []
        summary = run(propose(job.load(**parts)), on_event=told.append)
    assert {e["slab"] for e in told if e["kind"] == "slab"} == passing
    assert summary["quarantined"] == len(left) - len(passing)
    labels = voxels(out, "labels")
    assert (labels[8] == SYNTHESISED).all() and (labels[12] == LEFT).all()
    check(out, replay=9)


def test_what_was_done_before_is_not_done_by_a_second_copy(job: Job) -> None:
    job.flags("3\n")
    job.run()
    plan = propose(job.load()).plan
    inside, before = open_job(str(job.folder / "out.zarr"), plan.hash), tree(job.folder / "out.zarr")
    record = restore(plan.slabs[0], inside, run="a copy")
    assert record["run"] != "a copy"
    assert tree(job.folder / "out.zarr") == before


def test_the_output_may_not_lie_in_the_source(job: Job) -> None:
    for out in ("raw.zarr", "raw.zarr/mended", "."):
        with pytest.raises(InputError):
            job.run(out)
    assert not (job.raw / "mended").exists()


def test_a_live_run_keeps_a_second_one_out(job: Job) -> None:
    job.run()
    with StoreLock(str(job.folder / "out.zarr")), pytest.raises(StoreLockedError):
        job.run()


def test_a_reviewed_plan_binds(job: Job) -> None:
    config = job.config()
    plan = command("plan", str(config), "--json", cwd=job.folder)
    document = json.loads(plan.communicate(timeout=120)[0])
    assert Path(document["file"]).exists()
    assert document["totals"]["slabs"] == len(propose(load(config)).plan.slabs)
    held = command("run", str(config), "--plan", document["file"], "--json", cwd=job.folder)
    assert json.loads(held.communicate(timeout=120)[0])["plan"] == document["plan"]
    job.flags("3\n")
    broken = command("run", str(config), "--plan", document["file"], cwd=job.folder)
    _, err = broken.communicate(timeout=120)
    assert broken.returncode == 3
    assert "the plan no longer holds" in err
    assert "changed since: flags" in err


def test_a_dry_run_writes_nothing(job: Job) -> None:
    before = {p.name for p in job.folder.iterdir()}
    process = command("run", str(job.config()), "--dry-run", cwd=job.folder)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    assert "flagged at most" in out
    assert {p.name for p in job.folder.iterdir()} - before == {"zmend.yaml", "zmend_main.py"}


def test_a_bad_input_leaves_no_half_made_output(job: Job) -> None:
    job.flags("99\n")
    with pytest.raises(InputError):
        job.run()
    assert not (job.folder / "out.zarr").exists()


def test_ctrl_c_drains_and_the_same_command_goes_on(job: Job) -> None:
    config = job.config(recipe={"options": {"sleep": 0.03}}, site={"workers": 2, "slab_px": 128})
    process = command("run", str(config), cwd=job.folder)
    records = job.folder / "out.zarr" / "zmend" / "records"
    while not list(records.glob("??/*.json")):
        time.sleep(0.02)
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 75, err
    assert "stopping after the slabs in hand" in err
    assert "run the same command again" in err
    seen = status(str(job.folder / "out.zarr"))
    assert 0 < seen["done"] < seen["slabs"]
    assert not seen["locked"]
    again = command("run", str(config), "--json", cwd=job.folder)
    document = json.loads(again.communicate(timeout=120)[0])
    assert document["done"] == document["slabs"]
    check(job.folder / "out.zarr")


def test_status_before_any_run(tmp_path: Path) -> None:
    save(tmp_path / "x.zarr", np.zeros((2, 64, 64), np.uint8), (1, 64, 64))
    with pytest.raises((PlanChangedError, InputError)):
        status(str(tmp_path / "x.zarr"))


def test_a_run_that_is_kept_out_changes_nothing(job: Job) -> None:
    job.run(output={"mode": "overlay"})
    before = tree(job.folder / "out.zarr")
    job.flags("3\n")
    with StoreLock(str(job.folder / "out.zarr")), pytest.raises(StoreLockedError):
        job.run(output={"mode": "volume"})
    after = tree(job.folder / "out.zarr")
    assert {k: v for k, v in after.items() if k != "zmend/lock"} == before


def test_a_merged_volume_follows_its_overlay_whatever_the_mode(job: Job) -> None:
    """Its labels are the overlay's: stale voxels under them would be taken for restored ones."""
    job.run()
    job.flags("3\n")
    job.run(output={"mode": "overlay"})
    assert status(str(job.folder / "out.zarr"))["merged"]
    check(job.folder / "out.zarr")


def test_a_merged_volume_that_is_behind_is_told_with_what_helps(job: Job) -> None:
    out = job.folder / "out.zarr"
    job.flags("3\n")
    job.run(output={"mode": "overlay"})
    assert not (found := status(str(out)))["merged"] and not found["behind"]
    remerge(str(out))
    forget_merge(str(out))  # a merge that was killed leaves it so, and no seal
    (out / "zmend/seal.json").unlink()
    found = verify(str(out))
    (failed,) = [c for c in found["checks"] if c["name"] == "finished"]
    assert failed["findings"] == ["the merged volume is not what the overlay holds: zmend merge, or run again"]
    assert found["voxels_changed_outside_mask"] is None, "nothing to compare yet"
    assert status(str(out))["behind"]
    said = CliRunner().invoke(cli, ["verify", str(out), "--level", "structure"])
    assert isinstance(said.exception, VerifyError) and f"zmend merge {out}, or the same" in said.exception.do
    assert "zmend merge" in " ".join(CliRunner().invoke(cli, ["status", str(out)]).output.split())
    job.run(output={"mode": "overlay"})
    assert not status(str(out))["behind"]
    check(out)


@pytest.mark.parametrize("shape", [(5, 40, 70), (5, 1100, 64)])
def test_the_default_slab_and_chunk_size_fit_any_volume(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    save(tmp_path / "raw.zarr", tissue((5, 64, 64))[:, :1, :1].repeat(shape[1], 1).repeat(shape[2], 2), (2, 64, 64))
    (tmp_path / "flags.csv").write_text("2\n")
    body = {"volume": {"path": "raw.zarr"}, "flags": "flags.csv", "output": {"path": "out.zarr"}, "recipe": {"restorer": "nearest"}}
    (tmp_path / "zmend.yaml").write_text(json.dumps({**body, "site": {"workers": 0}}))
    assert run(propose(load(tmp_path / "zmend.yaml")))["voxels_restored"] == shape[1] * shape[2]
    (tmp_path / "zmend.yaml").write_text(json.dumps({**body, "site": {"workers": 0, "slab_px": 16}}))
    run(propose(load(tmp_path / "zmend.yaml")))
    check(tmp_path / "out.zarr")


def test_addresses_of_local_files(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(job.folder))
    job.run("~/tilde.zarr", flags=f"file://{job.folder}/flags.csv", volume={"path": f"file://{job.raw}"})
    check(job.folder / "tilde.zarr")
    job.run(f"file://{job.folder}/url.zarr")
    check(job.folder / "url.zarr")
    assert not (job.folder / "~").exists()
    assert not (job.folder / "file:").exists()


def test_a_pyramid_of_no_whole_factors_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    kind = next(k for k in KINDS if k.name == "ome05")
    uri = write_volume(tmp_path / "raw.zarr", kind, [noise((6, 96, 96)), noise((6, 64, 64))], steps=[(1, 1.5, 1.5)])
    (tmp_path / "flags.csv").write_text("2\n")
    body = {"volume": {"path": uri}, "flags": str(tmp_path / "flags.csv"), "output": {"path": str(tmp_path / "out.zarr")}, "recipe": {"restorer": "linear"}}
    with pytest.raises(InputError, match="not level 0 by whole factors"):
        propose(validate(body))
    assert not (tmp_path / "out.zarr").exists()


def test_ctrl_c_while_merging_stops_and_can_go_on(job: Job) -> None:
    stop = Stop()

    def once(event: dict) -> None:
        stop.requested = stop.requested or event["kind"] == "merge"

    with pytest.raises(Interrupted, match="stopped while merging"):
        run(propose(job.load()), on_event=once, stop=stop)
    job.run()
    check(job.folder / "out.zarr")


def test_a_batch_that_was_measured_is_kept(job: Job) -> None:
    job.flags("3\n")
    measured = {"recipe": {"restorer": "tests.devices:Measured", "batch": 0}}
    assert redone(job, **measured) == {(3, 4)}
    assert propose(job.load(**measured)).plan.header["recipe"]["batch"] == 4
    assert redone(job, **measured) == set()
    assert propose(job.load("other.zarr", **measured)).plan.header["recipe"]["batch"] == 8, "another store, another GPU"
    assert propose(job.load("other.zarr", recipe={"restorer": "linear", "batch": 0})).plan.header["recipe"]["batch"] == 1


def test_a_batch_is_not_guessed_for_gpus_that_are_elsewhere(job: Job) -> None:
    """It would be kept in the store, and every run to come would be slow, without a word."""
    job.flags("3\n")
    parts = {"recipe": {"restorer": "tests.devices:Tuned", "batch": 0}}
    for site in ({"kind": "slurm", "gpus": 1, "workers": 1}, {"kind": "scheduler", "address": "tcp://a:1", "workers": 1}):
        with pytest.raises(ConfigError, match="the best batch cannot be measured here") as e:
            propose(job.load(**parts, site=site))
        assert "srun --gres=gpu:1 zmend plan" in e.value.do
        given = {"recipe": {**parts["recipe"], "batch": 4}}
        assert propose(job.load(**given, site=site)).plan.header["recipe"]["batch"] == 4
    job.run(**parts)
    assert propose(job.load(**parts, site=site)).plan.header["recipe"]["batch"] == 8, "as the store has it"


def test_half_made_files_are_swept_by_the_next_run_and_never_under_a_live_one(job: Job) -> None:
    """A worker that was killed leaves them, though its run went on and ended well. Named as zarr and as we name them."""
    job.run()
    out = job.folder / "out.zarr"
    before = store_digest(out)
    halves = [out / "zmend/overlay/c/3/0/0.0f1e.partial", out / "labels/synthetic/0/c/3/0/.1.2d3c.partial", out / "zmend/records/ab/.ab12.json.77.partial"]
    for half in halves:
        half.parent.mkdir(parents=True, exist_ok=True)
        half.write_bytes(b"half")
    with StoreLock(str(out)), pytest.raises(StoreLockedError):
        job.run()
    assert all(half.exists() for half in halves), "whoever holds the store may be writing them"
    job.run()
    assert store_digest(out) == before
    assert not list(out.rglob("*.partial"))


def test_a_merge_that_is_behind_its_overlay_counts_as_none(job: Job) -> None:
    """A second run is stopped after its first slab: what was merged before is not what the overlay holds now."""
    job.run()
    assert status(str(job.folder / "out.zarr"))["merged"]
    stop = Stop()

    def until_the_first(event: dict) -> None:
        stop.requested |= event["kind"] == "slab"

    with pytest.raises(Interrupted):
        run(propose(job.load(recipe={"restorer": TOY, "seed": 5})), stop=stop, on_event=until_the_first)
    assert not status(str(job.folder / "out.zarr"))["merged"]
    job.run(recipe={"restorer": TOY, "seed": 5})
    assert status(str(job.folder / "out.zarr"))["merged"]
    check(job.folder / "out.zarr")
