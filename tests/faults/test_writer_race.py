"""Many writers at once: whole chunks never lose a voxel, and parts of chunks do, which is why they are refused."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest

from pipeline.box import Box
from pipeline.errors import MisalignedWriteError, VolumeError
from pipeline.volume import Volume
from tests.stores import noise

WRITERS = 16
SHAPE = (4, 128, 128)
formats = pytest.mark.parametrize(
    ("zarr_format", "shards"), [(2, None), (3, None), (3, (1, 32, 32))], ids=["v2", "v3", "v3-sharded"]
)


def make(path: Path, zarr_format: Any, shards: Any) -> Volume:
    return Volume.create(path, shape=SHAPE, dtype="uint8", chunks=(1, 16, 16), shards=shards, zarr_format=zarr_format)


def race(volume: Volume, data: np.ndarray[Any, Any], boxes: Sequence[Box]) -> int:
    """Write all boxes at once, each from its own thread; returns how many voxels are wrong afterwards."""
    start = Barrier(len(boxes))

    def write(box: Box) -> None:
        start.wait()
        try:
            volume.write(box, data[box.within(Box.of(SHAPE))])
        except MisalignedWriteError:
            raise
        except VolumeError:
            pass  # reading back may notice the other writer; or not, if that one comes later

    with ThreadPoolExecutor(len(boxes)) as pool:
        list(pool.map(write, boxes))
    whole = Box(boxes[0].start, boxes[-1].stop)
    return int((volume.read(whole) != data[whole.within(Box.of(SHAPE))]).sum())


@formats
def test_writers_of_whole_chunks_lose_nothing(zarr_format: int, shards: Any, tmp_path: Path) -> None:
    volume = make(tmp_path / "v", zarr_format, shards)
    for turn in range(4):
        boxes = list(Box((turn, 0, 0), (turn + 1, 128, 128)).cells((1, 32, 32)))
        assert len(boxes) == WRITERS
        assert race(volume, noise(SHAPE, seed=turn), boxes) == 0


@formats
def test_without_the_guard_writers_do_lose_voxels(
    zarr_format: int, shards: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mutation: take the guard away, and let zarr do what it does for everyone, read a chunk and write it back."""
    volume = make(tmp_path / "v", zarr_format, shards)
    parts = [Box((0, 0, 4 * i), (1, 128, 4 * i + 4)) for i in range(WRITERS)]  # several writers to every chunk
    with pytest.raises(MisalignedWriteError):
        race(volume, noise(SHAPE), parts)
    monkeypatch.setattr(Volume, "_check_write", lambda self, box: None)
    volume._by_zarr(write=True)[0].blind = False
    for part in parts:
        volume.write(part, noise(SHAPE)[part.within(Box.of(SHAPE))])
    np.testing.assert_array_equal(
        volume.read(Box((0, 0, 0), (1, 128, 64))), noise(SHAPE)[:1, :, :64]
    )  # one by one: fine
    lost = 0
    for turn in range(50):  # one turn is enough in practice
        lost = race(volume, noise(SHAPE, seed=turn), parts)
        if lost:
            break
    assert lost > 0
