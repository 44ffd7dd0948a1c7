"""Profiles of neurites: from human membranes, from a restored section, and their links across a gap.

profile    a 4-connected component of what human annotators did not draw as membrane
segment    the same from an image alone: watershed of the membrane classifier's score

The two settings of `segments` and the erosion of `carried` were chosen once, on real training sections (odd z of
vnc_stack1, which the classifier was not fitted to), before any restored section was looked at.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.metrics import adapted_rand_error, variation_of_information
from skimage.morphology import h_minima
from skimage.segmentation import watershed

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.floating]
Labels = npt.NDArray[np.int32]

SMOOTH = 2.0  # pixels; Gaussian over the score before any watershed
DEPTH = 0.3  # of the score: shallower basins join their neighbour. On real sections VOI .27 (split .14, merge .13)
DEPTHS = (0.1, 0.2, DEPTH)  # a method with fainter membranes may suit a smaller one: "best" takes what suits it most
ERODE = 4  # pixels a profile shrinks before it is looked for in the next section
SMALLEST = 400  # pixels (0.0085 um2 at 4.6 nm): smaller profiles are not linked; most of them end within a section


def profiles(membranes: Bools) -> Labels:
    """(H, W) int32: 0 = membrane, 1 ... n = profiles."""
    return np.asarray(ndimage.label(~membranes)[0], np.int32)


def filled(labels: Labels) -> Labels:
    """(H, W): every membrane pixel joins the nearest profile, as `segments` have it.

    Human profiles that stand for a segmentation need it: left open, their membranes would count as one more segment
    (copied from the section before, vnc_stack1 z 14-18: VOI 1.55 instead of .74).
    """
    if not labels.any():
        return labels
    y, x = ndimage.distance_transform_edt(labels == 0, return_distances=False, return_indices=True)
    return np.asarray(labels[y, x])


def segments(score: Floats, depth: float = DEPTH) -> Labels:
    """(H, W) int32 from 1: every pixel belongs to a basin of the smoothed membrane score (MembraneClassifier.score)."""
    smooth = ndimage.gaussian_filter(score, SMOOTH)
    seeds, count = ndimage.label(h_minima(smooth, depth))
    if not count:  # h_minima finds none in what is flatter than that as a whole
        return np.ones(score.shape, np.int32)
    return np.asarray(watershed(smooth, seeds), np.int32)


def agreement(truth: Labels, found: Labels, where: Bools | None = None) -> dict[str, float]:
    """Variation of information in bits (split + merge) and adapted Rand error against human profiles.

    Membrane pixels of the truth, and pixels not `where`, are not counted, as in SNEMI3D. 0 is best.
    """
    counted = truth if where is None else np.where(where, truth, 0)
    split, merge = variation_of_information(counted, found, ignore_labels=(0,))
    error, _, _ = adapted_rand_error(counted, found, ignore_labels=(0,))
    return {"voi": float(split + merge), "voi_split": float(split), "voi_merge": float(merge), "arand": float(error)}


# ---- links ----------------------------------------------------------------------------------------------------------


def overlaps(a: Labels, b: Labels, shape: tuple[int, int] | None = None) -> npt.NDArray[np.int64]:
    """(labels of a, labels of b): pixels in common; `shape` where more labels exist than appear."""
    rows, columns = shape or (int(a.max()) + 1, int(b.max()) + 1)
    both = a.ravel().astype(np.int64) * columns + b.ravel()
    return np.asarray(np.bincount(both, minlength=rows * columns).reshape(rows, columns))


def partners(table: npt.NDArray[np.int64]) -> npt.NDArray[np.intp]:
    """Of each label of a, the label of b with which it has most pixels in common; 0 = none. Membrane never counts."""
    inner = table.copy()
    inner[:, 0] = 0
    best = inner.argmax(1)
    best[inner.max(1) == 0] = 0
    best[0] = 0
    return np.asarray(best)


def true_links(before: Labels, targets: Labels, after: Labels) -> npt.NDArray[np.intp]:
    """Of each profile before the gap, its profile after it: by largest overlap from section to section.

    before, after (H, W); targets (K, H, W), the human profiles that a restorer never sees.
    """
    planes = [before, *targets, after]
    links = np.arange(int(before.max()) + 1)
    for a, b in pairwise(planes):
        links = partners(overlaps(a, b))[links]
    return np.asarray(links)


def direct_links(before: Labels, after: Labels) -> npt.NDArray[np.intp]:
    """Links without any restored section: the profile after the gap that overlaps most."""
    return partners(overlaps(before, after))


def carried(labels: Labels, score: Floats, threshold: float) -> Labels:
    """Profiles of one section found again in the next, (H, W): each grows from its shrunken self over the membrane
    score of that section, until it meets another (seeded watershed); membrane (score > threshold) is 0. A profile too
    thin to shrink is not shrunk; one that would be all membrane is kept.
    """
    core = np.where(ndimage.distance_transform_edt(labels > 0) > ERODE, labels, 0)
    thin = np.setdiff1d(np.unique(labels), np.unique(core))
    seeds = np.where(np.isin(labels, thin), labels, core)
    grown = watershed(ndimage.gaussian_filter(score, SMOOTH), seeds)
    inner = np.where(score > threshold, 0, grown)
    return np.asarray(np.where(np.isin(grown, inner), inner, grown), np.int32)


def links_through(before: Labels, after: Labels, scores: Floats, threshold: float) -> npt.NDArray[np.intp]:
    """Links by way of restored sections, of which scores (K, H, W) are the membrane scores.

    Profiles before the gap are carried forward through the K sections, profiles after it backward; the partner is the
    one with most pixels in common over all K.
    """
    forward, backward = [before], [after]
    for score in scores:
        forward.append(carried(forward[-1], score, threshold))
    for score in scores[::-1]:
        backward.append(carried(backward[-1], score, threshold))
    shape = (int(before.max()) + 1, int(after.max()) + 1)
    met = zip(forward[1:], backward[:0:-1], strict=True)
    table = sum((overlaps(f, b, shape) for f, b in met), np.zeros(shape, np.int64))
    return partners(table)


def wrong_links(found: npt.NDArray[np.intp], true: npt.NDArray[np.intp], before: Labels) -> Bools:
    """Which links are wrong, one a profile of at least SMALLEST pixels that has a true partner."""
    counted = (np.bincount(before.ravel(), minlength=len(true)) >= SMALLEST) & (true > 0)
    counted[0] = False
    return np.asarray((found != true)[counted])
