"""Box: a half-open block of voxels in (z, y, x), and the grids that it is cut by."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

ZYX = tuple[int, int, int]


@dataclass(frozen=True, slots=True, order=True)
class Box:
    """Voxels [start, stop), both (z, y, x), in voxels of the level that is mended."""

    start: ZYX
    stop: ZYX

    def __str__(self) -> str:
        return "[" + ", ".join(f"{a}:{b}" for a, b in zip(self.start, self.stop, strict=True)) + "]"

    @staticmethod
    def of(shape: ZYX) -> Box:
        """The box of a whole volume of this shape."""
        return Box((0, 0, 0), shape)

    @property
    def shape(self) -> ZYX:
        """Edge lengths; 0 where the box is empty."""
        z, y, x = (max(0, b - a) for a, b in zip(self.start, self.stop, strict=True))
        return z, y, x

    @property
    def size(self) -> int:
        """Voxels inside."""
        z, y, x = self.shape
        return z * y * x

    def __and__(self, other: Box) -> Box:
        """The common part (maybe empty: then `size` is 0)."""
        start = _zyx(max(a, b) for a, b in zip(self.start, other.start, strict=True))
        return Box(start, _zyx(min(a, b) for a, b in zip(self.stop, other.stop, strict=True)))

    def __contains__(self, other: Box) -> bool:
        return (self & other) == other

    def grow(self, z: int, y: int, x: int) -> Box:
        """The box with a margin on every side; may leave the volume."""
        by = (z, y, x)
        start = _zyx(a - m for a, m in zip(self.start, by, strict=True))
        return Box(start, _zyx(b + m for b, m in zip(self.stop, by, strict=True)))

    def with_z(self, start: int, stop: int) -> Box:
        """The same lateral window over other sections."""
        return Box((start, *self.start[1:]), (stop, *self.stop[1:]))

    def within(self, outer: Box) -> tuple[slice, slice, slice]:
        """Slices that pick this box out of an array that holds `outer`."""
        z, y, x = (slice(a - o, b - o) for a, b, o in zip(self.start, self.stop, outer.start, strict=True))
        return z, y, x

    def aligned(self, grain: ZYX) -> Box:
        """The smallest box of whole grid cells around this one (cells anchored at voxel 0)."""
        start = _zyx(a // g * g for a, g in zip(self.start, grain, strict=True))
        return Box(start, _zyx(-(-b // g) * g for b, g in zip(self.stop, grain, strict=True)))

    def cells(self, grain: ZYX) -> Iterator[Box]:
        """Every grid cell (anchored at voxel 0) that touches this box, whole, in (z, y, x) order."""
        if not self.size:
            return
        spans = (range(a // g, -(-b // g)) for a, b, g in zip(self.start, self.stop, grain, strict=True))
        for index in product(*spans):
            start = _zyx(i * g for i, g in zip(index, grain, strict=True))
            yield Box(start, _zyx(s + g for s, g in zip(start, grain, strict=True)))

    def aligned_in(self, grain: ZYX, shape: ZYX) -> bool:
        """Whether this box is whole grid cells of a volume of `shape` (the last cell may be cut by the edge)."""
        return self.size > 0 and self == self.aligned(grain) & Box.of(shape)


def _zyx(values: Iterator[int]) -> ZYX:
    z, y, x = values
    return z, y, x
