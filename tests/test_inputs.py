"""Fingerprints of many boxes are those of each, and each object is looked at once; which objects there are is known fast."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import zarr

from pipeline import inputs
from pipeline.box import Box
from pipeline.errors import VolumeError
from pipeline.files import Files
from pipeline.inputs import Inputs
from pipeline.ledger import sweep
from pipeline.volume import Volume
from tests.stores import KINDS, Kind, noise, write_volume

BOXES = [Box((z, y, 0), (z + 2, y + 40, 50)) for z in (0, 3, 2) for y in (0, 16, 56, 16)]


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    made = Volume.create(tmp_path / "raw.zarr", shape=(6, 96, 80), dtype=np.uint8, chunks=(1, 16, 16))
    made.write(Box((1, 0, 0), (4, 64, 64)), np.ones((3, 64, 64), np.uint8))  # the others are absent
    return made


@pytest.mark.parametrize("most", [1, 10, 1 << 17])
def test_boxes_together_are_told_as_one_by_one(volume: Volume, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "MOST", most)
    told = Inputs(volume)
    assert [told(box) for box in BOXES] == [volume.inputs(box) for box in BOXES]
    assert len({told(box) for box in BOXES}) == 9


def test_each_object_is_looked_at_once(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    looked, stats = [], volume.files.stats
    monkeypatch.setattr(volume.files, "stats", lambda keys: looked.extend(keys) or stats(keys))
    told = Inputs(volume)
    for box in BOXES:
        told(box)
    assert len(looked) == len(set(looked)) == len({key for box in BOXES for key in volume.keys(box)})


def test_a_box_outside_is_refused(volume: Volume) -> None:
    for box in (Box((5, 0, 0), (7, 16, 16)), Box((1, 0, 0), (1, 16, 16))):
        with pytest.raises(VolumeError, match="leaves the volume|is empty"):
            Inputs(volume)(box)


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("separator", ["/", "."])
def test_cells_are_those_of_the_objects(tmp_path: Path, zarr_format: Literal[2, 3], separator: Literal["/", "."]) -> None:
    keys = {"name": "v2" if zarr_format == 2 else "default", "separator": separator}
    shape, chunks = (1, 4, 90, 70), (1, 1, 16, 8)
    raw = zarr.create_array(tmp_path / "raw", shape=shape, dtype="u1", chunks=chunks, zarr_format=zarr_format, chunk_key_encoding=keys)
    raw[0, :, :40, :] = 1
    names = {"_ARRAY_DIMENSIONS": ["c", "z", "y", "x"]}
    if zarr_format == 2:
        raw.attrs.update(names)
    else:
        doc = json.loads((tmp_path / "raw/zarr.json").read_text())
        (tmp_path / "raw/zarr.json").write_text(json.dumps({**doc, "dimension_names": names["_ARRAY_DIMENSIONS"]}))
    volume = Volume.open(tmp_path / "raw")
    some = tmp_path / "raw" / volume.key((2, 1, 3))
    before = sorted(map(tuple, volume.cells().tolist()))
    assert before == sorted(cell for cell, _ in volume.objects()) and len(before) == 4 * 3 * 9
    for other in ("03", "9", "-1", ".2.partial", "x", "+2", "٣"):  # none of them is a chunk's
        some.with_name(some.name[:-1] + other).write_bytes(b"")
    some.unlink()
    assert sorted(map(tuple, volume.cells().tolist())) == sorted(cell for cell, _ in volume.objects()) == sorted({*before} - {(2, 1, 3)})


def test_sweeping_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "store/a/b").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    mine, theirs = tmp_path / "store/a/b/.x.partial", tmp_path / "elsewhere/.y.partial"
    mine.touch(), theirs.touch()
    (tmp_path / "store/a/link").symlink_to(tmp_path / "elsewhere")
    assert Files(str(tmp_path / "store")).sweep() == 1
    assert theirs.exists() and not mine.exists()
    assert Files(str(tmp_path / "nowhere")).sweep() == 0


@pytest.mark.parametrize("layout", KINDS, ids=[k.name for k in KINDS])
def test_chunks_are_found_by_folders_as_they_are_one_by_one(layout: Kind, tmp_path: Path) -> None:
    volume = Volume.open(write_volume(tmp_path / "raw", layout, [noise((9, 70, 75), layout.dtype)]))
    due = sorted(cell for cell, _ in volume.objects())
    assert sorted(map(tuple, volume.cells().tolist())) == due
    folder = Path(volume.files.uri, next(stored.key for _, stored in volume.objects())).parent
    for name in ("007", "nine", ".5.abc.partial"):  # no chunks
        (folder / name).touch()
    assert sorted(map(tuple, volume.cells().tolist())) == due and (folder / ".5.abc.partial").exists()
    assert sorted(map(tuple, volume.cells(sweep=True).tolist())) == due and not (folder / ".5.abc.partial").exists()
    assert (folder / "nine").exists(), "what nobody knows is nobody's to remove"


def test_a_survey_sweeps_what_is_not_swept_before_it(tmp_path: Path) -> None:
    chunks = ("zmend/overlay/c/1/2", "zmend/uncertainty/c/1", "labels/synthetic/0/c/1")
    others = ("zmend/records", "zmend/kept/run/overlay/c/1", "labels/synthetic/1/c/1", "labels/synthetic")
    for folder in (*chunks, *others):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / ".a.partial").touch()
    assert sweep(str(tmp_path), surveyed=True) == len(others) and sweep(str(tmp_path)) == len(chunks)
