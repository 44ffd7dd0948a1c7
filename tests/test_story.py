"""One voxel's story: every label in words, its record and inputs, and what does not fit together."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline.box import Box
from pipeline.errors import UsageError
from pipeline.story import story
from pipeline.verify import verify
from pipeline.volume import Volume
from tests.jobs import ENSEMBLE, Job, build, command, put_back, voxels


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A store with labels 0 to 3, a second plan in force, and the records of the first in retirement."""
    job = build(tmp_path_factory.mktemp("finished"), chunks=(2, 128, 128))
    job.run(recipe={"seed": 1})
    job.run(recipe={"seed": 2})
    return job


@pytest.fixture
def job(finished: Job, tmp_path: Path) -> Iterator[Job]:
    yield from put_back(finished, tmp_path)


def somewhere(job: Job, label: int) -> tuple[int, int, int]:
    """A voxel of that label."""
    z, y, x = np.argwhere(voxels(job.folder / "out.zarr", "labels") == label)[0].tolist()
    return z, y, x


def told(job: Job, label: int) -> dict:
    return story(str(job.folder / "out.zarr"), somewhere(job, label))


def test_an_original_voxel(job: Job) -> None:
    found = told(job, 0)
    assert found["meaning"] == "original: no record may touch it"
    assert found["record"] is None and found["flags"] == [] and found["ok"]
    assert found["value"] == found["source_value"]


@pytest.mark.parametrize(("label", "words"), [(1, "synthesised: its whole section was flagged"), (2, "repaired: it lies in a flagged region"), (3, "feather band")])
def test_a_restored_voxel(job: Job, label: int, words: str) -> None:
    found = told(job, label)
    z, y, x = found["at"]
    assert found["meaning"].startswith(words)
    assert found["value"] == voxels(job.folder / "out.zarr")[z, y, x] == voxels(job.folder / "out.zarr", "overlay")[z, y, x]
    assert found["source_value"] == job.damaged[z, y, x]
    (path,) = (job.folder / "out.zarr/zmend/records").glob(f"??/{found['record']['slab']}.json")
    body = json.loads(path.read_text())
    assert all(body[k] == found["record"][k] for k in ("run", "plan", "weights", "recipe", "seed", "inputs_sha256"))
    assert body["write"][0][0] <= z < body["write"][1][0]
    assert found["record"]["seed"] == 2 and found["inputs_match"] is found["chunk_matches"] is True and found["ok"]
    (flag,) = found["flags"]
    assert bool(flag["mask"]) == (label != 1)
    (before,) = found["history"]
    assert before["seed"] == 1 and before["retired_by"] == found["record"]["run"]


def test_the_flag_covers_the_voxel_and_not_only_its_box(job: Job) -> None:
    """Beside a crack lie voxels in the box of its flag, and not in its mask."""
    labels = voxels(job.folder / "out.zarr", "labels")
    z = int(np.argwhere(labels == 2)[0][0])
    y, x = np.argwhere(labels[z] == 0)[0].tolist()
    assert story(str(job.folder / "out.zarr"), (z, y, x))["flags"] == []


def test_a_voxel_that_was_left(tmp_path: Path) -> None:
    job = build(tmp_path)
    job.flags("z_start,z_stop,class\n0,1,missing\n")
    job.run()
    found = story(str(job.folder / "out.zarr"), (0, 5, 5))
    assert found["label"] == 4 and found["meaning"].startswith("left as it was")
    assert "section" in found["why_left"] and found["record"]["status"] == "done" and found["ok"]


def test_a_quarantined_voxel(tmp_path: Path) -> None:
    job = build(tmp_path)
    job.run(recipe={"options": {"spoil": "nan"}})
    z, y, x = somewhere(job, 4)
    found = story(str(job.folder / "out.zarr"), (z, y, x))
    assert found["record"]["status"] == "quarantined" and "quarantined: " in found["why_left"] and "NaN" in found["why_left"]


def test_the_spread_of_an_ensemble(tmp_path: Path) -> None:
    job = build(tmp_path)
    job.run(recipe=ENSEMBLE)
    found = told(job, 5)
    assert found["meaning"] == "restored, but the ensemble disagrees: do not trust it"
    assert found["uncertainty"]["grey_levels"] == found["uncertainty"]["counts"] / 2 > found["uncertainty"]["refuse_above"] == 12.0


@pytest.mark.parametrize("at", [(16, 0, 0), (0, 300, 0), (0, 0, 280), (-1, 0, 0)])
def test_a_voxel_outside(job: Job, at: tuple[int, int, int]) -> None:
    with pytest.raises(UsageError, match="lies outside the volume"):
        story(str(job.folder / "out.zarr"), at)


def flip(array: str, job: Job, at: tuple[int, int, int]) -> None:
    """Change one voxel."""
    volume = Volume.open(str(job.folder / array), writable=True)
    (cell,) = [c & Box.of(volume.shape) for c in Box(at, (at[0] + 1, at[1] + 1, at[2] + 1)).cells(volume.grain)]
    data = volume.read(cell).copy()
    data[tuple(a - s for a, s in zip(at, cell.start, strict=True))] ^= 1
    volume.write(cell, data)


@pytest.mark.parametrize(
    ("array", "label", "words"),
    [
        ("out.zarr/zmend/overlay", 1, "its chunk is not what was written"),
        ("out.zarr/labels/synthetic/0", 2, "its chunk is not what was written"),
        ("out.zarr/0", 0, "it is not the source's, though no label says that it was touched"),
    ],
)
def test_a_voxel_that_was_changed(job: Job, array: str, label: int, words: str) -> None:
    at = somewhere(job, label)
    flip(array, job, at)
    assert words in story(str(job.folder / "out.zarr"), at)["doubts"]


def test_inputs_that_changed_are_found_by_the_story_and_by_verify(job: Job) -> None:
    at = somewhere(job, 1)
    flip("raw.zarr", job, (at[0] - 1, at[1], at[2]))
    found = story(str(job.folder / "out.zarr"), at)
    assert found["inputs_match"] is False and "what it was made from has changed since" in found["doubts"]
    assert "sources" in {c["name"] for c in verify(str(job.folder / "out.zarr"))["checks"] if not c["ok"]}


def test_a_record_that_is_gone_or_edited(job: Job) -> None:
    at = somewhere(job, 1)
    slab = story(str(job.folder / "out.zarr"), at)["record"]["slab"]
    path = job.folder / f"out.zarr/zmend/records/{slab[:2]}/{slab}.json"
    path.write_text(path.read_text().replace('"seed": 2', '"seed": 3'))
    assert "cannot be trusted: its content does not hash" in story(str(job.folder / "out.zarr"), at)["doubts"][0]
    path.unlink()
    assert "no record of the plan does" in story(str(job.folder / "out.zarr"), at)["doubts"][0]


def test_a_retired_record_that_cannot_be_read(job: Job) -> None:
    next((job.folder / "out.zarr/zmend/records/retired").iterdir()).write_text("{")
    assert "doubt" in json.dumps(told(job, 1)["history"])


def test_the_command(job: Job) -> None:
    at = ",".join(map(str, somewhere(job, 1)))
    process = command("verify", "out.zarr", "--at", at, cwd=job.folder)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    for words in ("synthesised", "weights", "the same today", "as it was written", "retired by run"):
        assert words in out
    document = json.loads(command("verify", "out.zarr", "--at", at, "--json", cwd=job.folder).communicate(timeout=120)[0])
    assert document["ok"] and document["record"]["seed"] == 2
    flip("out.zarr/zmend/overlay", job, somewhere(job, 1))
    spoilt = command("verify", "out.zarr", "--at", at, cwd=job.folder)
    assert "its chunk is not what was written" in spoilt.communicate(timeout=120)[1] and spoilt.returncode == 5
    unfit = command("verify", "out.zarr", "--at", "1,2", cwd=job.folder)
    assert "is not three integers" in unfit.communicate(timeout=120)[1] and unfit.returncode == 2
