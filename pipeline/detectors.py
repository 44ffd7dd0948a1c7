"""Detectors: what can be seen in one section, or between two; arrays in, numbers and masks out.

Images are uint8 or float32 (y, x), masks bool (y, x). Nothing here decides: `detect` does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.registration import phase_cross_correlation

Image = NDArray[np.float32]
Mask = NDArray[np.bool_]
T = TypeVar("T", np.uint8, np.float32)
FLAT_BOX = 7  # px: a place is flat if so wide a square is
TO_SIGMA = 1.4826  # of a median absolute deviation, to a standard deviation
TINY = 1e-3  # grey levels
PLACE = 16  # px: detail is measured in squares of this size
ENOUGH = 170  # rows and columns at least that are looked at for greys: more change no number by a tenth of its floor


@dataclass(frozen=True, slots=True)
class Looks:
    """How a section looks as a whole, in numbers that a fold or a crack does not move much."""

    grey: float  # median
    low: float  # grey level at a blur that 16 % are darker than: with `high`, both move if all of the section does
    high: float  # that 84 % are darker than
    contrast: float  # robust standard deviation at a blur, grey levels
    fine: float  # what a blur of one pixel takes away, grey levels, in the places with least detail (15th per cent)
    finest: float  # and at the 70th per cent: both move if all of the section does
    streak: float  # standard deviation between neighbouring rows' greys
    flat: float  # share of pixels in flat places


def shrink(section: NDArray[T], factor: int) -> NDArray[T]:
    """The means of squares of factor × factor pixels, uint8 or float32; those at the far edge may be cut."""
    if factor == 1:
        return section
    wanted = (-(-section.shape[1] // factor), -(-section.shape[0] // factor))
    pad = [(0, w * factor - n) for w, n in zip(wanted[::-1], section.shape, strict=True)]
    whole = np.pad(section, pad, mode="edge") if any(after for _, after in pad) else section
    return np.asarray(cv2.resize(whole, wanted, interpolation=cv2.INTER_AREA), section.dtype)


def blur(image: NDArray[Any], sigma: float) -> Image:
    """Gaussian, mirrored at the edges."""
    return np.asarray(cv2.GaussianBlur(image.astype(np.float32), (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101))


def square(radius: int) -> NDArray[np.uint8]:
    """The pixels within a radius, of rows and of columns: OpenCV takes these one after the other, discs at once."""
    return np.ones((2 * radius + 1, 2 * radius + 1), np.uint8)


def grown(mask: Mask, radius: int) -> Mask:
    """A mask and all that is within `radius` pixels of it."""
    if radius <= 0 or not mask.any():
        return mask
    return np.asarray(cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 3) <= radius)


def flat(image: NDArray[np.uint8], grey: int) -> Mask:
    """Where squares of FLAT_BOX pixels hold values within `grey` levels of each other."""
    box = square(FLAT_BOX // 2)
    span = cv2.subtract(cv2.dilate(image, box), cv2.erode(image, box))
    return np.asarray(cv2.dilate((span <= grey).astype(np.uint8), box)).astype(bool)


def looks(image: NDArray[np.uint8], empty: Mask, smooth_px: float) -> tuple[Looks, Image]:
    """The numbers of a section, of what is not empty in it; and of every third pixel the finest detail.

    Greys are taken from enough of the pixels: percentiles of all take longer than everything else together.
    """
    share = float(empty.mean())
    kept = ~empty if share < 0.95 else np.ones_like(empty)
    sharp = image.astype(np.float32)
    signed = sharp - blur(sharp, 1.0)
    fine = np.abs(signed)
    few = max(1, min(image.shape) // ENOUGH)
    smooth = blur(sharp, smooth_px)[::few, ::few][kept[::few, ::few]]
    low, middle, high = np.percentile(smooth, (16, 50, 84))
    squares = (max(1, image.shape[1] // PLACE), max(1, image.shape[0] // PLACE))
    share_kept = cv2.resize(kept.astype(np.float32), squares, interpolation=cv2.INTER_AREA)
    places = cv2.resize(fine * kept, squares, interpolation=cv2.INTER_AREA)[share_kept > 0.5]
    least, most = np.percentile(places / share_kept[share_kept > 0.5], (15, 70)) if places.size else (TINY, TINY)
    across = kept.mean(1)
    full = across > across.max() * 0.9  # rows through a lost tile have fewer pixels, and other greys
    rows = cv2.reduce(np.clip(sharp, low, high), 1, cv2.REDUCE_AVG)[:, 0]  # dark profiles count no more than others
    beside = full[1:] & full[:-1]
    wobble = float(np.median(np.abs(np.diff(rows))[beside])) * TO_SIGMA if beside.any() else 0.0
    spread = max(float(high - low) / 2, TINY)
    details = max(float(least), TINY), max(float(most), TINY)
    found = Looks(float(middle), float(low), float(high), spread, *details, wobble + TINY, share)
    return found, np.ascontiguousarray(signed[::3, ::3])


def alike(one: Image, other: Image) -> float:
    """Correlation coefficient; 0 where one of them is constant."""
    a, b = one - one.mean(), other - other.mean()
    norm = math.sqrt(float((a * a).sum()) * float((b * b).sum()))
    return float((a * b).sum()) / norm if norm > 0 else 0.0


def coarse(image: NDArray[np.uint8]) -> Image:
    """A quarter of the size, without what is slower than 100 px: what neighbouring sections have in common."""
    small = cv2.resize(image, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA).astype(np.float32)
    low = np.percentile(small, 2), np.percentile(small, 98)
    small = blur(np.clip(small, *low), 1.0)
    return small - blur(small, 12.0)


def offset(here: Image, other: Image) -> tuple[tuple[int, int], float, float]:
    """By how many pixels (y, x) of the scan `other` must move to lie on `here`, and the correlation before and after.

    Both are `coarse`. The move is (0, 0) where none makes it better.
    """
    taper = np.outer(np.hanning(here.shape[0]), np.hanning(here.shape[1])).astype(np.float32)
    found, _, _ = phase_cross_correlation(here * taper, other * taper, normalization=None)
    before = alike(here, other)
    dy, dx = (int(v) for v in found)
    h, w = here.shape
    if (dy, dx) == (0, 0) or abs(dy) > h // 2 or abs(dx) > w // 2:
        return (0, 0), before, before
    after = alike(overlap(here, dy, dx), overlap(other, -dy, -dx))
    return ((4 * dy, 4 * dx), before, after) if after > before else ((0, 0), before, before)


def overlap(image: NDArray[Any], dy: int, dx: int) -> NDArray[Any]:
    """The part of an image that is still there when another one was moved by (dy, dx) onto it."""
    h, w = image.shape
    return image[max(0, dy) : h + min(0, dy), max(0, dx) : w + min(0, dx)]


def moved(image: NDArray[Any], move: tuple[int, int]) -> NDArray[Any]:
    """The image moved by (y, x) pixels; what comes in at the edge is mirrored."""
    (dy, dx), (h, w) = move, image.shape
    if (dy, dx) == (0, 0):
        return image
    y, x = min(abs(dy), h - 1), min(abs(dx), w - 1)
    return np.pad(image, ((y, y), (x, x)), mode="reflect")[y - dy : y - dy + h, x - dx : x - dx + w]


def parts(strong: Mask, weak: Mask, least_px: int) -> Iterator[tuple[tuple[slice, slice], Mask]]:
    """The connected parts of `weak` that hold a pixel of `strong` and have so many: where, and the part cut out."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(weak.astype(np.uint8), connectivity=8)
    for n in np.unique(labels[strong & weak]).tolist():
        x, y, w, h, area = (int(v) for v in stats[n])
        if area >= least_px:
            window = (slice(y, y + h), slice(x, x + w))
            yield window, np.asarray(labels[window] == n)


def length_and_width(part: Mask) -> tuple[float, float]:
    """Of a band, however it winds: its area over its mean width, and that width (from the distance to its edge)."""
    depth = cv2.distanceTransform(np.pad(part, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
    # A band of half width h has the mean distance h / 2; a disc of radius r has r / 3.
    width = 4.0 * float(depth[part].mean())
    return float(part.sum()) / max(width, 1.0), width
