"""Touched: the cells of a grid that a plan writes to, each counted once, however many slabs it lies under."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.box import ZYX, Box
from pipeline.lattice import Lattice, Part

Marks = NDArray[np.bool_]


class Touched:
    """Parts come by runs of sections, so few layers of cells are kept. A mask counts as its box: an upper bound."""

    def __init__(self, shape: ZYX, cell: ZYX, runs: Sequence[tuple[int, int]]) -> None:
        """runs: of sections (`Flags.runs`), ascending; each part lies in one, and those of a run come together."""
        self.shape, self.cell, self._gone, self._run = shape, cell, (0, 0), 0
        self._layers: dict[int, Marks] = {}
        self._starts = [start for start, _ in runs]
        ends = (np.append(np.arange(0, n, c), n) for n, c in zip(shape[1:], cell[1:], strict=True))
        self._high, self._wide = map(np.diff, ends)

    def add(self, part: Part) -> None:
        """Touch the cells of all that is flagged and written."""
        if isinstance(part, Lattice):
            boxes = [Box.of(self.shape).with_z(z.start, z.stop) for z, _ in part.stretches]
        else:
            flags = [f for f in part.flags if f.restorable]
            boxes = [part.write] if all(f.whole for f in flags) else [f.box & part.write for f in flags]
        for box in boxes:
            if box.size:
                self._mark(box)

    @property
    def count(self) -> int:
        """Cells so far."""
        return self._gone[0] + self._sums(self._layers)[0]

    @property
    def voxels(self) -> int:
        """What the cells so far hold: those at the volume's edge are cut."""
        return self._gone[1] + self._sums(self._layers)[1]

    def _mark(self, box: Box) -> None:
        (z0, y0, x0), (z1, y1, x1), (cz, cy, cx) = box.start, box.stop, self.cell
        run = bisect_right(self._starts, z0)
        if run != self._run:  # what lies before another run comes no more
            self._drop([z for z in self._layers if z < self._starts[run - 1] // cz])
        self._run = run
        for z in range(z0 // cz, -(-z1 // cz)):
            if z not in self._layers:
                self._layers[z] = np.zeros((len(self._high), len(self._wide)), bool)
            self._layers[z][y0 // cy : -(-y1 // cy), x0 // cx : -(-x1 // cx)] = True

    def _drop(self, layers: Sequence[int]) -> None:
        cells, voxels = self._sums(layers)
        self._gone = self._gone[0] + cells, self._gone[1] + voxels
        for z in layers:
            del self._layers[z]

    def _sums(self, layers: Iterable[int]) -> tuple[int, int]:
        cells = voxels = 0
        for z in layers:
            marks, deep = self._layers[z], min(self.cell[0], self.shape[0] - z * self.cell[0])
            cells += int(np.count_nonzero(marks))
            voxels += int(self._high @ (marks @ self._wide)) * deep
        return cells, voxels
