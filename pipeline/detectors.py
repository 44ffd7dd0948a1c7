"""Detectors: what can be seen in one section, or between two; arrays in, numbers and masks out.

Images are uint8 (y, x), masks bool (y, x). Nothing here decides: `detect` does. A scan goes over every pixel of a
volume, and reading one costs 6 ns: so whatever can be told from cells of 4 × 4 pixels, or from a few bands of rows, is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]
Grey = NDArray[np.uint8]
Mask = NDArray[np.bool_]
T = TypeVar("T", np.uint8, np.float32)
CELL = 4  # px: most is told from the means, greatest and least greys of such squares
CELL_BLUR = 1.12  # px: the Gaussian that blurs as much as taking means of cells does
FLAT_BOX = 7  # px: a place is flat if so wide a square is; there is a whole cell in each
TO_SIGMA = 1.4826  # of a median absolute deviation, to a standard deviation
TINY = 1e-3  # grey levels
PLACE = 16  # px: detail is measured in squares of this size
ENOUGH = 256  # of those squares, that are looked at for detail: all of them say the same within two per cent
RIM = 2  # px around a place, that its blur needs
SLOW_PX = 48  # of the scan: what is slower than that is no profile


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


def square(radius: int) -> NDArray[np.uint8]:
    """The pixels within a radius, of rows and of columns: OpenCV takes these one after the other, discs at once."""
    return np.ones((2 * radius + 1, 2 * radius + 1), np.uint8)


def grown(mask: Mask, radius: int) -> Mask:
    """A mask and all that is within `radius` pixels of it."""
    if radius <= 0 or not mask.any():
        return mask
    return np.asarray(cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 3) <= radius)


def cells(image: Grey) -> Grey:
    """The mean, greatest and least grey of squares of CELL pixels, edges that are multiples of it: (3, y/4, x/4)."""
    mean = half(half(image))
    found = np.empty((3, *mean.shape), np.uint8)
    found[0] = mean
    for n, of_two, of_row in ((1, cv2.max, cv2.dilate), (2, cv2.min, cv2.erode)):
        rows = of_two(of_two(image[::CELL], image[1::CELL]), of_two(image[2::CELL], image[3::CELL]))
        found[n] = of_row(rows, _ROW, anchor=(0, 0), borderType=cv2.BORDER_REPLICATE)[:, ::CELL]
    return found


_ROW = np.ones((1, CELL), np.uint8)


def half(image: Grey) -> Grey:
    """The means of squares of two pixels; both edges are even."""
    return np.asarray(cv2.resize(image, (image.shape[1] // 2, image.shape[0] // 2), interpolation=cv2.INTER_AREA))


def empty(image: Grey, squares: Grey, grey: int) -> Mask | None:
    """Where squares of FLAT_BOX pixels hold values within `grey` levels of each other; none where there is none.

    squares: `cells` of the image. Wherever one is flat, a whole cell in it is.
    """
    if cv2.subtract(squares[1], squares[2]).min() > grey:
        return None
    box = square(FLAT_BOX // 2)
    span = cv2.subtract(cv2.dilate(image, box), cv2.erode(image, box))
    found = np.asarray(cv2.dilate((span <= grey).astype(np.uint8), box)).astype(bool)
    return found if found.any() else None


def looks(image: Grey, mean: Grey, bare: Mask | None, smooth_px: float) -> tuple[Looks, Image]:
    """The numbers of a section, of what is not bare in it; and of a sample of its pixels the finest detail, of mean 0
    and length 1.

    mean: of its cells. Detail is measured in bands of rows, alike in sections of one size.
    """
    share = float(bare.mean()) if bare is not None else 0.0
    kept = ~bare if bare is not None and share < 0.95 else None
    low, middle, high = greys(mean, kept, smooth_px)
    rows, inner = _bands(*image.shape)
    sharp = image if rows is None else image[rows]
    soft = cv2.GaussianBlur(sharp, (2 * RIM + 1, 2 * RIM + 1), 0)  # 1 4 6 4 1, of standard deviation 1: the quickest
    there = None if kept is None else _inside(kept if rows is None else kept[rows], inner)
    least, most = _at_shares(_detail(_inside(cv2.absdiff(sharp, soft), inner), there), (0.15, 0.7))
    sharp, soft = (_inside(part, inner) for part in (sharp, soft))
    fine = level(sharp[:, ::3, ::3].astype(np.float32) - soft[:, ::3, ::3])
    wobble = _wobble(np.clip(sharp, round(low), round(high)), there)
    spread = max((high - low) / 2, TINY)
    return Looks(middle, low, high, spread, max(least, TINY), max(most, TINY), wobble + TINY, share), fine


def greys(mean: Grey, kept: Mask | None, smooth_px: float) -> tuple[float, float, float]:
    """The grey levels that 16, 50 and 84 % are darker than, at a blur. mean: of cells."""
    more = math.sqrt(max(smooth_px**2 - CELL_BLUR**2, 0.0)) / CELL
    smooth = cv2.GaussianBlur(mean, (3, 3), more, borderType=cv2.BORDER_REFLECT_101) if more else mean
    if kept is not None:
        some = kept[CELL // 2 :: CELL, CELL // 2 :: CELL]
        few = smooth[: some.shape[0], : some.shape[1]][some[: smooth.shape[0], : smooth.shape[1]]]
        smooth = few if few.size else smooth
    low, middle, high = at_shares(smooth, (0.16, 0.5, 0.84))
    return low, middle, high


def at_shares(image: Grey, shares: tuple[float, ...]) -> tuple[float, ...]:
    """The grey levels, with fractions, that these shares of the pixels are darker than."""
    count = cv2.calcHist([image], [0], None, [256], [0, 256]).ravel()
    below = np.concatenate([[0.0], np.cumsum(count, dtype=np.float64)]) / image.size
    return tuple(float(v) for v in np.clip(np.interp(shares, below, np.arange(257) - 0.5), 0, 255))


def _at_shares(values: Image, shares: tuple[float, ...]) -> list[float]:
    """As np.percentile, which takes longer than all else that is measured of a section."""
    values = np.sort(values, axis=None)
    return [float(v) for v in np.interp(shares, np.linspace(0, 1, values.size), values)]


@lru_cache(maxsize=64)
def _bands(height: int, width: int) -> tuple[NDArray[np.int64] | None, tuple[int, int, int]]:
    """Which rows are looked at for detail (none: all), and how these are to be cut: bands, rows of each, rim.

    Bands are PLACE rows and a rim on both sides, as many as hold ENOUGH places, spread over the section.
    """
    high, wide = max(1, height // PLACE), max(1, width // PLACE)
    step = max(1, high * wide // ENOUGH)
    if step == 1:
        return None, (1, height, 0)
    first = np.arange(0, high, step) * PLACE
    rows = first[:, None] + np.arange(-RIM, PLACE + RIM)
    rows = np.abs(rows)
    rows = np.where(rows >= height, 2 * (height - 1) - rows, rows)
    return rows.ravel(), (len(first), PLACE, RIM)


def _inside(part: NDArray[Any], inner: tuple[int, int, int]) -> NDArray[Any]:
    """The bands without their rims: (bands, rows, x)."""
    bands, rows, rim = inner
    return part.reshape(bands, rows + 2 * rim, -1)[:, rim : rim + rows]


def _detail(fine: Grey, there: Mask | None) -> Image:
    """The mean amount of detail in each place."""
    if there is None:
        return _in_places(fine)
    share = _in_places(there)
    found = _in_places(fine * there)[share > 0.5] / share[share > 0.5]
    return found if found.size else np.full(1, TINY, np.float32)


def _in_places(bands: NDArray[Any]) -> Image:
    """Means of squares of PLACE pixels; what is over at the far edges is left out, but where there is no more."""
    n, h, w = bands.shape
    high, wide = min(h, PLACE), min(w, PLACE)
    whole = bands[:, : h // high * high, : w // wide * wide].astype(np.float32)
    across = whole.reshape(-1, wide) @ np.full(wide, 1 / wide, np.float32)
    return np.asarray(np.full(high, 1 / high, np.float32) @ across.reshape(n * (h // high), high, w // wide))


def _wobble(sharp: Grey, there: Mask | None) -> float:
    """How far the greys of neighbouring rows differ: a standard deviation. Dark profiles count no more than others."""
    rows = sharp.astype(np.float32) @ np.full(sharp.shape[2], 1 / sharp.shape[2], np.float32)
    steps = np.abs(np.diff(rows, axis=1))
    if there is not None:
        across = there.mean(2)
        full = across > across.max() * 0.9  # rows through a lost tile have fewer pixels, and other greys
        steps = steps[full[:, 1:] & full[:, :-1]]
    return _at_shares(steps, (0.5,))[0] * TO_SIGMA if steps.size else 0.0


def level(image: NDArray[Any]) -> Image:
    """As one row, of mean 0 and length 1: the product of two is their correlation."""
    row = np.ascontiguousarray(image, np.float32).ravel()
    row = row - row.mean()
    return np.asarray(row / max(float(np.sqrt(row @ row)), 1e-12), np.float32)


def alike(one: NDArray[Any], other: NDArray[Any]) -> float:
    """Correlation coefficient; 0 where one of them is constant."""
    return float(level(one) @ level(other))


def filled(mean: Grey, bare: Mask | None, grey: float) -> Grey:
    """The means of cells, with a grey where nothing is: else a lost tile seems to lie elsewhere in its neighbours."""
    if bare is None:
        return mean
    high, wide = (min(n * CELL, size) // CELL for n, size in zip(mean.shape, bare.shape, strict=True))
    found = mean.copy()
    some = bare[: high * CELL, : wide * CELL].reshape(high, CELL, wide, CELL).any((1, 3))
    found[:high, :wide][some] = round(grey)
    return found


def coarse(mean: Grey) -> Image:
    """What neighbouring sections have in common: a quarter of the size, without what is slower than 100 px; of mean 0
    and length 1. mean: of cells.
    """
    low, high = at_shares(mean, (0.02, 0.98))
    small = cv2.GaussianBlur(np.clip(mean, round(low), round(high)).astype(np.float32), (5, 5), 0)
    size = mean.shape[1], mean.shape[0]
    few = max(1, size[0] // CELL), max(1, size[1] // CELL)
    slow = cv2.GaussianBlur(cv2.resize(small, few, interpolation=cv2.INTER_AREA), (0, 0), SLOW_PX / CELL**2)
    return level(cv2.subtract(small, cv2.resize(slow, size, interpolation=cv2.INTER_LINEAR))).reshape(mean.shape)


def spectrum(image: Image) -> Image:
    """Of a `coarse` image that fades out at its edges; as OpenCV packs it."""
    return np.asarray(cv2.dft(image * _taper(*image.shape)))


@lru_cache(maxsize=16)
def _taper(height: int, width: int) -> Image:
    return np.outer(np.hanning(height), np.hanning(width)).astype(np.float32)


def offset(here: Image, other: Image, seen: tuple[Image, Image] | None = None) -> tuple[tuple[int, int], float, float]:
    """By how many pixels (y, x) of the scan `other` must move to lie on `here`, and the correlation before and after.

    Both are `coarse`; seen: their spectra, where they are known. The move is (0, 0) where none makes it better.
    """
    product = cv2.mulSpectrums(*(seen or (spectrum(here), spectrum(other))), 0, conjB=True)
    found = cv2.dft(product, flags=cv2.DFT_INVERSE | cv2.DFT_REAL_OUTPUT)
    (h, w), (dy, dx) = here.shape, (int(v) for v in np.unravel_index(int(found.argmax()), found.shape))
    dy, dx = dy - h * (dy > h // 2), dx - w * (dx > w // 2)
    before = float(here.ravel() @ other.ravel())
    if (dy, dx) == (0, 0):
        return (0, 0), before, before
    after = alike(overlap(here, dy, dx), overlap(other, -dy, -dx))
    return ((CELL * dy, CELL * dx), before, after) if after > before else ((0, 0), before, before)


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
