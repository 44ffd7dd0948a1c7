"""Verify finds whatever was changed after the run, wherever it was changed."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.box import Box
from pipeline.recipe import digest
from pipeline.store import open_labels, open_overlay
from pipeline.verify import LEVELS, verify
from pipeline.volume import Volume
from tests.jobs import Job, build, command, put_back


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Job:
    job = build(tmp_path_factory.mktemp("finished"), chunks=(2, 128, 128))
    job.run()
    return job


@pytest.fixture
def job(finished: Job, tmp_path: Path) -> Iterator[Job]:
    """A finished store that a test may spoil: afterwards all of it is put back, times and links included."""
    yield from put_back(finished, tmp_path)


def failed(job: Job, **kw: Any) -> set[str]:
    found = verify(str(job.folder / "out.zarr"), **kw)
    return {c["name"] for c in found["checks"] if not c["ok"]}


def test_every_synthetic_voxel_has_one_record(job: Job) -> None:
    found = verify(str(job.folder / "out.zarr"), replay=100)
    assert found["ok"]
    assert found["voxels_synthetic"] == job.flagged.sum()
    assert found["voxels_compared"] == (~job.flagged).sum()
    assert found["replayed"] == found["slabs"]


def test_each_level_looks_at_all_that_those_before_it_do(job: Job) -> None:
    seen: list[set[str]] = []
    for level in LEVELS:
        found = verify(str(job.folder / "out.zarr"), level=level)
        assert found["ok"] and found["level"] == level
        seen.append({c["name"] for c in found["checks"]})
        assert (found["voxels_synthetic"] is None) == (level == "structure")
        assert (found["voxels_changed_outside_mask"] is None) == (level in ("structure", "digests"))
    assert all(a < b for a, b in pairwise(seen))
    assert {c["name"] for c in verify(str(job.folder / "out.zarr"))["checks"]} == seen[3]
    assert found["replayed"] == 3


def test_a_level_finds_what_is_its_own_and_not_what_is_deeper(job: Job) -> None:
    volume = Volume.open(str(job.folder / "out.zarr/0"), writable=True)
    box = Box((0, 0, 0), volume.grain)
    volume.write(box, volume.read(box) ^ 1)
    assert failed(job, level="digests") == set()
    assert failed(job, level="identity") == {"identity"}
    shown = command("verify", "out.zarr", "--level", "structure", cwd=job.folder).communicate(timeout=120)[0]
    assert "verified (level structure): no voxels were read" in shown


def records(job: Job) -> list[Path]:
    return sorted((job.folder / "out.zarr/zmend/records").glob("??/*.json"))


def test_a_lost_record(job: Job) -> None:
    path = next(p for p in records(job) if json.loads(p.read_text())["chunks"])
    path.unlink()
    assert {"finished", "lineage"} <= failed(job)


def spoil(path: Path, at: int = -30) -> None:
    """Flip one bit in the middle of a file, by a new file (a linked one must not spoil its other name)."""
    body = bytearray(path.read_bytes())
    body[at] ^= 4
    path.unlink()
    path.write_bytes(body)


@pytest.mark.parametrize("array", ["zmend/overlay", "labels/synthetic/0"])
def test_one_flipped_bit_in_what_was_written(job: Job, array: str) -> None:
    spoil(max((job.folder / "out.zarr" / array / "c").rglob("*"), key=lambda p: p.stat().st_size if p.is_file() else 0))
    found = verify(str(job.folder / "out.zarr"))
    (finding,) = next(c["findings"] for c in found["checks"] if c["name"] == "digests")[:1]
    assert "cannot be decoded" in finding
    slab = finding.split()[1].rstrip(":")
    config = job.config()
    healed = command("run", str(config), "--redo", slab[:8], "--json", cwd=job.folder)
    _, err = healed.communicate(timeout=120)
    assert healed.returncode == 0, err
    assert not failed(job, replay=100)


def test_redo_of_a_slab_that_is_not_there(job: Job) -> None:
    process = command("run", str(job.config()), "--redo", "zzzz", cwd=job.folder)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "no finished slab is called 'zzzz'" in err


def test_one_voxel_changed_outside_the_mask(job: Job) -> None:
    volume = Volume.open(str(job.folder / "out.zarr/0"), writable=True)
    box = Box((0, 0, 0), volume.grain)
    data = volume.read(box).copy()
    data[0, 0, 0] += 1  # section 0 is intact
    volume.write(box, data)
    found = verify(str(job.folder / "out.zarr"))
    assert not found["ok"]
    assert found["voxels_changed_outside_mask"] == 1
    assert failed(job) == {"identity"}


def test_one_voxel_changed_inside_the_mask(job: Job) -> None:
    z, y, x = np.argwhere(job.flagged)[1000]
    volume = Volume.open(str(job.folder / "out.zarr/0"), writable=True)
    (box,) = [c & Box.of(volume.shape) for c in Box((z, y, x), (z + 1, y + 1, x + 1)).cells(volume.grain)]
    data = volume.read(box).copy()
    data[z - box.start[0], y - box.start[1], x - box.start[2]] ^= 1
    volume.write(box, data)
    assert failed(job) == {"identity"}


def test_synthetic_voxels_that_nobody_recorded(job: Job) -> None:
    labels, overlay = open_labels(str(job.folder / "out.zarr")), open_overlay(str(job.folder / "out.zarr"))
    box = Box((0, 0, 0), overlay.grain)
    for array in (labels, overlay):
        array.write(box, np.ones(box.shape, array.dtype))
    assert "lineage" in failed(job)


def test_a_source_that_changed_after_the_merge(job: Job) -> None:
    raw = Volume.open(str(job.raw), writable=True)
    box = Box((0, 0, 0), raw.grain)
    raw.write(box, raw.read(box) ^ 1)
    assert "finished" in failed(job)


def test_a_linked_chunk_that_was_written_in_place(job: Job) -> None:
    linked = [p for p in (job.folder / "out.zarr/0/c").rglob("*") if p.is_file() and p.stat().st_nlink > 1]
    if not linked:
        pytest.skip("the file system made no links")
    with linked[0].open("r+b") as f:  # both names see this
        f.seek(10)
        f.write(b"\x00\xff")
    assert failed(job)


def test_a_replay_with_other_results(job: Job) -> None:
    """A record that hashes to what lies on disk, but not to what the recipe makes: only a replay can tell."""
    path = next(p for p in records(job) if json.loads(p.read_text())["voxels"]["1"])
    record = json.loads(path.read_text())
    start, stop = (tuple(v) for v in record["chunks"][0][:2])
    overlay = open_overlay(str(job.folder / "out.zarr"))
    written = overlay.write(Box(start, stop), overlay.read(Box(start, stop)) ^ 1)
    record["chunks"][0][2] = written.sha256
    del record["digest"]
    path.write_text(json.dumps({**record, "digest": digest(record)}, sort_keys=True))
    assert "replay" not in failed(job)
    assert "replay" in failed(job, replay=100)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_after_an_interruption_it_says_go_on(tmp_path: Path, number: int) -> None:
    """Nothing is damaged, not even by a kill in the middle of a slab: the words say so, and the same command ends it."""
    job = build(tmp_path, chunks=(2, 128, 128))
    config = str(job.config(recipe={"options": {"sleep": 0.2}}, site={"slab_px": 128}))
    process = command("run", config, cwd=job.folder)
    while len(records(job)) < 2:
        time.sleep(0.05)
    process.send_signal(number)
    process.communicate(timeout=60)
    last = next(p for p in records(job) if json.loads(p.read_text())["chunks"])
    last.unlink()  # as if it had been killed just before: its chunks are there
    found = verify(str(job.folder / "out.zarr"))
    assert not found["ok"] and {c["name"] for c in found["checks"] if not c["ok"]} <= {"finished", "lineage"}
    ended = command("verify", "out.zarr", cwd=job.folder)
    out, err = ended.communicate(timeout=120)
    assert ended.returncode == 5 and "not finished" in out and "NOT verified" not in out
    assert f"too early to verify: the run has not ended, {len(records(job))} of" in err
    assert "run the same zmend run again: it goes on where it stopped" in err
    again = command("run", config, cwd=job.folder)
    again.communicate(timeout=120)
    assert again.returncode == 0 and verify(str(job.folder / "out.zarr"))["ok"]


def test_damage_in_an_unfinished_store_is_still_damage(tmp_path: Path) -> None:
    job = build(tmp_path, chunks=(2, 128, 128))
    job.run(output={"mode": "overlay"})
    path = next(p for p in records(job) if json.loads(p.read_text())["chunks"])
    path.unlink()
    assert verify(str(job.folder / "out.zarr"))["unfinished"].startswith("the run has not ended")
    body = json.loads(records(job)[0].read_text())
    records(job)[0].write_text(json.dumps({**body, "seed": 5}))
    assert verify(str(job.folder / "out.zarr"))["unfinished"] == ""


def test_the_command_ends_with_5_and_words(job: Job) -> None:
    records(job)[0].unlink()
    process = command("verify", "out.zarr", cwd=job.folder)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 5
    assert "FAIL finished" in out
    assert "has no record: run again" in out
    assert "verification failed: finished" in err
    document = json.loads(command("verify", "out.zarr", "--json", cwd=job.folder).communicate(timeout=120)[0])
    assert document["ok"] is False
    assert {"ok", "checks", "voxels_changed_outside_mask"} <= set(document)


@pytest.mark.parametrize("text", ["", "not json", "{}", '{"slab": "x"}'])
def test_a_record_that_cannot_be_read(job: Job, text: str) -> None:
    records(job)[0].write_text(text)
    found = verify(str(job.folder / "out.zarr"))
    finished = next(c for c in found["checks"] if c["name"] == "finished")
    assert "a record cannot be trusted" in finished["findings"][0]
    job.run()  # it is put aside, and its slab is done again
    assert not failed(job, replay=100)


@pytest.mark.parametrize("key", ["seed", "inputs_sha256", "flags", "restorer", "status", "left", "write"])
def test_an_edited_record(job: Job, key: str) -> None:
    path = records(job)[0]
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, key: "edited"}))
    assert "finished" in failed(job)


@pytest.mark.parametrize("name", ["zmend/merge.json", "zarr.json", "zmend/plans/*.json", "zmend/flags/*.csv", "0/zarr.json"])
@pytest.mark.parametrize("text", [None, "garbage"])
def test_documents_that_were_lost_or_spoiled(job: Job, name: str, text: str | None) -> None:
    (path, *_) = (job.folder / "out.zarr").glob(name)
    path.write_text(text) if text else path.unlink()
    process = command("verify", "out.zarr", "--json", cwd=job.folder)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 5, err
    assert json.loads(out)["ok"] is False


def test_a_plan_with_an_edited_box(job: Job) -> None:
    (path, *_) = (job.folder / "out.zarr/zmend/plans").iterdir()
    path.write_text(path.read_text().replace("[1, 0, 0]", "[1, 0, 128]", 1))
    assert "structure" in failed(job)


def test_chunks_that_were_deleted_are_made_again(job: Job) -> None:
    for array in ("zmend/overlay/c", "labels/synthetic/0/c"):
        next(p for p in (job.folder / "out.zarr" / array).rglob("*") if p.is_file()).unlink()
    assert failed(job)
    job.run()
    assert not failed(job, replay=100)


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [("zarr.json", "4.6", "9.2"), ("zarr.json", '"path": "0"', '"path": "zmend/overlay"'), ("labels/synthetic/zarr.json", '"label-value": 1', '"label-value": 9'),
     ("labels/zarr.json", '"synthetic"', '"another"')],
)  # fmt: skip
def test_attributes_that_were_edited_are_found_and_put_right(job: Job, name: str, before: str, after: str) -> None:
    path = job.folder / "out.zarr" / name
    assert before in path.read_text()
    path.write_text(path.read_text().replace(before, after))
    assert "structure" in failed(job)
    job.run()
    assert not failed(job)
