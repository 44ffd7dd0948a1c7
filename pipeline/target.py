"""Target: an array that a merge brings up to date, and its cells that differ from the source's."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.blend import synthetic
from pipeline.box import ZYX, Box
from pipeline.pyramid import Level, Mask, coarser, footprint, zyx
from pipeline.store import open_labels
from pipeline.volume import Volume, Voxels


@dataclass
class Target:
    """An array to bring up to date: the image at a level, or the labels at a coarser level."""

    name: str
    level: Level
    out: Volume
    is_image: bool
    touched: dict[ZYX, list[Box]] = field(default_factory=lambda: defaultdict(list))  # cell: label chunks over it
    done: dict[str, list[Any]] = field(default_factory=dict)  # cell: [inputs, size, ETag or mtime_ns] when written
    laid: list[Box] = field(default_factory=list)  # written, and not durable yet

    def touches(self, labels: Voxels) -> Mask:
        """Which labels make a chunk of this array differ from the source's (labels: from an absent one)."""
        return synthetic(labels) if self.is_image else labels > 0


def targets_of(levels: Sequence[Level], out: str) -> Iterator[Target]:
    """The image at every level, and the labels at all but the mended one, which slabs write."""
    for i, level in enumerate(levels):
        yield Target(str(i), level, level.out, True)
        if level.finer is not None:
            yield Target(f"labels/{i}", level, open_labels(out, i), False)


def touch_all(target: Target) -> None:
    """Of a source that is not Zarr nothing can be brought as it lies: every chunk that is there is written anew."""
    source, sharded = target.level.source, target.level.source.layout.index_at is not None
    for box in source.present() if target.is_image else ():
        holes = source.absent(box) if sharded else ()
        for chunk in (c & box for c in box.cells(source.chunks)):
            if chunk not in holes:
                target.touched[zyx(a // c for a, c in zip(chunk.start, source.chunks, strict=True))]


def cells_of(target: Target, box: Box, mask: Mask) -> Iterator[ZYX]:
    """The cells of a target whose footprints hold a True voxel of `mask`, which lies at `box`."""
    if not mask.any():
        return
    level, grain = target.level, target.out.grain
    for cell in coarser(box, level.ratio).cells(grain):
        here = footprint(cell, level.ratio, level.extent) & box
        if here.size and mask[here.within(box)].any():
            yield zyx(a // g for a, g in zip(cell.start, grain, strict=True))
