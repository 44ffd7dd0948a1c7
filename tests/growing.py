"""Volumes that grow in z, as they do where sections come in every night: pyramids too, also downsampled in z."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import zarr

from pipeline.pyramid import mean_under
from tests.stores import Kind, along, write_volume

ZYX = tuple[int, int, int]
CHUNKS, SHARDS = (4, 32, 32), (8, 64, 64)


class Growing:
    """A store of the first sections of `voxels`, and of what they are at coarser levels."""

    def __init__(self, path: Path, kind: Kind, voxels: np.ndarray, depth: int, steps: tuple[ZYX, ...] = ()) -> None:
        self.path, self.kind, self.voxels, self.steps = path, kind, voxels, steps
        self.uri = write_volume(path, kind, self.levels(depth), chunks=CHUNKS, shards=SHARDS, steps=steps)

    def levels(self, depth: int) -> list[np.ndarray]:
        levels = [self.voxels[:depth]]
        for step in self.steps:
            levels.append(mean_under(levels[-1], step))
        return levels

    def grow(self, depth: int) -> None:
        """Append sections, as zarr does it: chunks that were cut short are written anew, others are left alone."""
        for i, level in enumerate(self.levels(depth)):
            array: Any = zarr.open_array(str(self.path / f"s{i}" if self.kind.ome else self.path), mode="r+")
            array = array.with_config({"write_empty_chunks": True})
            deep = along(self.kind, (CHUNKS[0],) * 3, 0)[self.kind.dims.index("z")] * (2 if self.kind.sharded else 1)
            old = array.shape[self.kind.dims.index("z")]
            start = min(old // deep * deep, max(0, old - 1) // deep * deep) if self._changes(i) else old
            array.resize(along(self.kind, level.shape))
            others = [d for d in self.kind.dims if d not in "zyx"]
            order = [[*others, "z", "y", "x"].index(d) for d in self.kind.dims]
            part = level[start:].reshape((1,) * len(others) + level[start:].shape).transpose(order)
            array[tuple(slice(start, None) if d == "z" else slice(None) for d in self.kind.dims)] = part

    def _changes(self, level: int) -> bool:
        """Whether the last section of a level may have been averaged over fewer sections than it will be."""
        return any(step[0] > 1 for step in self.steps[:level])
