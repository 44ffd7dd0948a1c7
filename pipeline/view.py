"""View: the sections of a tile with what was measured of each, and what can be said of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline import detectors as see
from pipeline.detectors import Grey, Image, Looks, Mask
from pipeline.spotter import steps, whole
from pipeline.thresholds import Thresholds

Stack = NDArray[np.uint8]  # (z, y, x)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with one section of a tile."""

    z: int  # in the stack
    kind: str  # a class of flags
    score: float  # how far beyond its threshold: 1 is at it
    reason: str  # for people
    mask: Mask | None = None  # (y, x); none: the whole tile


@dataclass(frozen=True, slots=True)
class Jump:
    """From this section on the stack lies elsewhere: no section is bad, and none is to be restored."""

    z: int
    move: tuple[int, int]  # px of the scan, (y, x)
    gain: float  # of the correlation once moved back


@dataclass(frozen=True, slots=True)
class Section:
    """A section of a tile, and what was measured of it."""

    image: Grey  # (y, x)
    absent: bool  # the store does not hold it
    empty: Mask | None  # none where nothing is
    look: Looks
    fine: Image  # detail of a sample of pixels: noise, which only a copy shares
    coarse: Image
    spectrum: Image  # of that
    shown: Grey  # what the networks are shown of it, see spotter.steps

    @staticmethod
    def of(image: Grey, absent: bool, t: Thresholds) -> Section:
        padded = whole(image)
        cells = see.cells(padded)
        empty = see.empty(image, cells, t.flat_grey)
        look, fine = see.looks(image, cells[0], empty, t.smooth_px)
        coarse = see.coarse(see.filled(cells[0], empty, look.grey))
        shown = steps(cells, look.grey, look.contrast)
        return Section(image, absent, empty, look, fine, coarse, see.spectrum(coarse), shown)


Moves = dict[tuple[int, int], tuple[tuple[int, int], float]]


@dataclass(frozen=True)
class View:
    """Sections that follow one another."""

    sections: Sequence[Section]
    t: Thresholds
    first: int = 0  # which one of the stack the first is
    moves: Moves = field(default_factory=dict)  # known ones, by sections of the stack: see `move`

    def around(self, z: int, fit: Sequence[bool]) -> tuple[list[int], list[int]]:
        """The sections before and after that are fit, nearest first, within the window."""
        reach = self.t.window
        return (
            [k for k in range(z - 1, max(-1, z - 1 - reach), -1) if fit[k]],
            [k for k in range(z + 1, min(len(self.sections), z + 1 + reach)) if fit[k]],
        )


def move(view: View, z: int, other: int) -> tuple[tuple[int, int], float]:
    """Where a section lies as seen from another one, and by how much that explains it better."""
    low, high = min(z, other), max(z, other)
    name = view.first + low, view.first + high
    if name not in view.moves:
        one, two = view.sections[low], view.sections[high]
        found, before, after = see.offset(one.coarse, two.coarse, (one.spectrum, two.spectrum))
        view.moves[name] = found, after - before if after >= view.t.jump_corr else 0.0
    (dy, dx), gain = view.moves[name]
    return ((dy, dx) if z == low else (-dy, -dx)), gain
