"""Scores: how restored voxels agree with the sections around them, and whether a step shows where they begin.

They need no truth, and prove nothing: what agrees with its neighbours may still be wrong. What does not, is suspicious.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import pearson_corr_coeff
from skimage.metrics import structural_similarity

Image: TypeAlias = NDArray[np.float64]  # (Y, X), black 0 to white 255
Mask: TypeAlias = NDArray[np.bool_]
LEAST = 256  # voxels; fewer say nothing
AROUND = 16  # px around the mask that filters see
NEAR = 6  # px on both sides of a rim that tell how much neighbouring voxels differ anyway
VISIBLE = 1.5  # times as large a step at the rim as around it: people see that


@dataclass(frozen=True)
class Scores:
    """None: there was nothing to measure on. NCC is Pearson's correlation over the restored voxels."""

    ncc: float | None = None  # restored and the sections next to the defect, mean of both sides
    ncc_intact: float | None = None  # the sections next to the defect, and theirs: what one may hope for here
    ssim: float | None = None
    detail: float | None = None  # fine detail over the neighbours'; 1 is as much, 0 a blur
    grey_shift: float | None = None  # mean restored - mean of the neighbours, grey levels
    seam: float | None = None  # step at the rim over the steps around it; 1 cannot be seen
    seam_grey: float | None = None  # step at the rim, grey levels

    @property
    def shortfall(self) -> float:
        """How much less alike restored and neighbours are than intact sections are; 0 where nothing tells."""
        return 0.0 if self.ncc is None or self.ncc_intact is None else max(0.0, self.ncc_intact - self.ncc)


def score(made: Image, mask: Mask, sides: Iterable[tuple[Image | None, Image | None]]) -> Scores:
    """All scores of one window. mask: restored voxels. sides: (next to the defect, one further) on both sides."""
    if mask.sum() < LEAST:
        return Scores()
    here = _around(mask)
    made, mask = made[here], mask[here]
    found = dict(zip(("seam", "seam_grey"), seam(made, mask), strict=True))
    near = [(a[here], None if b is None else b[here]) for a, b in sides if a is not None]
    if not near:
        return Scores(**found)
    detail = _mean([_detail(a, mask) for a, _ in near])
    return Scores(
        ncc=_mean([_ncc(made, a, mask) for a, _ in near]),
        ncc_intact=_mean([_ncc(a, b, mask) for a, b in near if b is not None]),
        ssim=_mean([_ssim(made, a, mask) for a, _ in near]),
        detail=_detail(made, mask) / detail if detail else None,
        grey_shift=float(made[mask].mean() - np.mean([a[mask].mean() for a, _ in near])),
        **found,
    )


def _around(mask: Mask) -> tuple[slice, slice]:
    """The part of a window that scores look at: the mask and a little around it."""
    rows, columns = (np.flatnonzero(mask.any(axis=1 - axis)) for axis in (0, 1))
    (y, x) = (slice(max(0, int(i[0]) - AROUND), int(i[-1]) + 1 + AROUND) for i in (rows, columns))
    return y, x


def _mean(values: Iterable[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None


def _ncc(one: Image, two: Image, mask: Mask) -> float | None:
    if np.ptp(one[mask]) == 0 or np.ptp(two[mask]) == 0:
        return None
    return float(pearson_corr_coeff(one, two, mask)[0])


def _ssim(one: Image, two: Image, mask: Mask) -> float | None:
    if min(one.shape) < 7:
        return None
    _, each = structural_similarity(one, two, data_range=255.0, full=True)
    return float(each[mask].mean())


def _detail(image: Image, mask: Mask) -> float:
    return float(ndimage.gaussian_laplace(image, 1.0)[mask].var())


def seam(image: Image, mask: Mask) -> tuple[float | None, float | None]:
    """The mean step between a voxel of the mask and one beside it, over the mean step in a band around; and in grey
    levels. None where the mask has no rim in this window."""
    band = ndimage.binary_dilation(mask, iterations=NEAR) & ndimage.binary_dilation(~mask, iterations=NEAR)
    across, along = [], []
    for axis in (0, 1):
        step = np.abs(np.diff(image, axis=axis))
        a, b = (slice(None, -1), slice(1, None))
        first, second = ((a, slice(None)), (b, slice(None))) if axis == 0 else ((slice(None), a), (slice(None), b))
        rim = mask[first] != mask[second]
        across.append(step[rim])
        along.append(step[~rim & band[first] & band[second]])
    here, around = np.concatenate(across), np.concatenate(along)
    if not len(here) or not len(around) or around.mean() == 0:
        return None, None
    return float(here.mean() / around.mean()), float(here.mean())
