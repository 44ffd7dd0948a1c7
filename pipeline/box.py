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
        (z0, y0, x0), (z1, y1, x1) = self.start, self.stop
        return max(0, z1 - z0), max(0, y1 - y0), max(0, x1 - x0)

    @property
    def size(self) -> int:
        """Voxels inside."""
        z, y, x = self.shape
        return z * y * x

    def __and__(self, other: Box) -> Box:
        """The common part (maybe empty: then `size` is 0)."""
        # Written out: a petabyte's plan comes through here ten million times.
        (z0, y0, x0), (z1, y1, x1) = self.start, self.stop
        (v0, u0, t0), (v1, u1, t1) = other.start, other.stop
        return Box((max(z0, v0), max(y0, u0), max(x0, t0)), (min(z1, v1), min(y1, u1), min(x1, t1)))

    def __contains__(self, other: Box) -> bool:
        return (self & other) == other

    def grow(self, z: int, y: int, x: int) -> Box:
        """The box with a margin on every side; may leave the volume."""
        (z0, y0, x0), (z1, y1, x1) = self.start, self.stop
        return Box((z0 - z, y0 - y, x0 - x), (z1 + z, y1 + y, x1 + x))

    def with_z(self, start: int, stop: int) -> Box:
        """The same lateral window over other sections."""
        return Box((start, *self.start[1:]), (stop, *self.stop[1:]))

    def within(self, outer: Box) -> tuple[slice, slice, slice]:
        """Slices that pick this box out of an array that holds `outer`."""
        z, y, x = (slice(a - o, b - o) for a, b, o in zip(self.start, self.stop, outer.start, strict=True))
        return z, y, x

    def aligned(self, grain: ZYX) -> Box:
        """The smallest box of whole grid cells around this one (cells anchored at voxel 0)."""
        (z0, y0, x0), (z1, y1, x1), (gz, gy, gx) = self.start, self.stop, grain
        return Box(
            (z0 // gz * gz, y0 // gy * gy, x0 // gx * gx), (-(-z1 // gz) * gz, -(-y1 // gy) * gy, -(-x1 // gx) * gx)
        )

    def cells(self, grain: ZYX) -> Iterator[Box]:
        """Every grid cell (anchored at voxel 0) that touches this box, whole, in (z, y, x) order."""
        if not self.size:
            return
        spans = (range(a // g, -(-b // g)) for a, b, g in zip(self.start, self.stop, grain, strict=True))
        for index in product(*spans):
            z, y, x = (i * g for i, g in zip(index, grain, strict=True))
            yield Box((z, y, x), (z + grain[0], y + grain[1], x + grain[2]))

    def aligned_in(self, grain: ZYX, shape: ZYX) -> bool:
        """Whether this box is whole grid cells of a volume of `shape` (the last cell may be cut by the edge)."""
        return self.size > 0 and self == self.aligned(grain) & Box.of(shape)
