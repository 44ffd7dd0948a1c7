"""View: the sections of a tile with what was measured of each, and what can be said of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline import detectors as see
from pipeline.detectors import Image, Looks, Mask
from pipeline.spotter import cells
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

    image: NDArray[np.uint8]  # (y, x)
    absent: bool  # the store does not hold it
    empty: Mask
    look: Looks
    fine: Image  # detail of a sample of pixels: noise, which only a copy shares
    coarse: Image
    cells: NDArray[np.float32]  # what the scout is shown

    @staticmethod
    def of(image: NDArray[np.uint8], absent: bool, t: Thresholds) -> Section:
        empty = see.flat(image, t.flat_grey)
        look, fine = see.looks(image, empty, t.smooth_px)
        return Section(image, absent, empty, look, fine, see.coarse(image), cells(image))


@dataclass(frozen=True)
class View:
    """Sections that follow one another."""

    sections: Sequence[Section]
    t: Thresholds
    moves: dict[tuple[int, int], tuple[tuple[int, int], float]] = field(default_factory=dict)  # known ones, see `move`

    def around(self, z: int, fit: Sequence[bool]) -> tuple[list[int], list[int]]:
        """The sections before and after that are fit, nearest first, within the window."""
        reach = self.t.window
        return (
            [k for k in range(z - 1, max(-1, z - 1 - reach), -1) if fit[k]],
            [k for k in range(z + 1, min(len(self.sections), z + 1 + reach)) if fit[k]],
        )


def unit(image: NDArray[np.uint8], look: Looks) -> Image:
    """The section in units of tissue: 0 is its median, 1 the spread of its greys."""
    return (image.astype(np.float32) - np.float32(look.grey)) / np.float32(look.contrast)


def move(view: View, z: int, other: int) -> tuple[tuple[int, int], float]:
    """Where a section lies as seen from another one, and by how much that explains it better."""
    if (z, other) not in view.moves:
        found, before, after = see.offset(view.sections[z].coarse, view.sections[other].coarse)
        view.moves[z, other] = found, after - before if after >= view.t.jump_corr else 0.0
    return view.moves[z, other]
