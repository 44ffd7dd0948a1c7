"""Fingerprints of many boxes are those of each, and each object is looked at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline import inputs
from pipeline.box import Box
from pipeline.errors import VolumeError
from pipeline.inputs import Inputs
from pipeline.volume import Volume

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
