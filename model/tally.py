"""Sums over blocks of a section, from which every local metric and its confidence interval follow.

Each section is cut into 4 x 4 blocks (256 px for 1024). The block is what the bootstrap draws again, within its
section: five sections are too few to draw from. So an interval says how sure a number is over places in this tissue,
not over animals or laboratories. A metric is computed from the sums over a section's drawn blocks, then averaged over
sections: drawn once each, the blocks give the very numbers that `metrics` defines (tested).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from scipy import stats
from skimage.metrics import structural_similarity

from model.metrics import band_energy, binned

Image = npt.NDArray[np.floating]
Bools = npt.NDArray[np.bool_]
Array = npt.NDArray[np.float64]

ACROSS = 4  # blocks along each edge of a section
CONFIDENCE = 0.95
_RESAMPLES = 2000
_BINS = (1, 4, 8)
_MOMENTS = ("n", "a", "b", "aa", "bb", "ab")
COLUMNS = (
    "pixels", "error", "error_constant",  # count; squared error of the method, and of `constant`
    *(f"{m}{f}" for f in _BINS for m in _MOMENTS),  # a = truth, b = restored, after binning by f
    "band", "band_truth", "both", "either",  # detail's power; membrane pixels found and true, found + true
    "ssim_pixels", "ssim",
)  # fmt: skip
_AT = {name: i for i, name in enumerate(COLUMNS)}


def tally(
    truth: Image,
    image: Image,
    constant: Image,
    where: Bools,
    membranes: Bools | None = None,
    found: Bools | None = None,
) -> Array:
    """Sums over the pixels `where`: (blocks, len(COLUMNS)). All (H, W); blocks without such a pixel are left out."""
    maps: dict[str, tuple[Bools, Image]] = {
        "pixels": (where, np.ones_like(truth)),
        "error": (where, (np.asarray(truth, float) - image) ** 2),
        "error_constant": (where, (np.asarray(truth, float) - constant) ** 2),
        "band": (where, band_energy(image)),
        "band_truth": (where, band_energy(truth)),
    }
    for f in _BINS:
        whole = np.asarray(binned(where.astype(np.float32), f) > 1 - 1e-6)
        a, b = binned(np.asarray(truth, float), f), binned(np.asarray(image, float), f)
        for name, values in zip(_MOMENTS, (np.ones_like(a), a, b, a * a, b * b, a * b), strict=True):
            maps[f"{name}{f}"] = (whole, values)
    if membranes is not None and found is not None:
        maps["both"] = (where, (membranes & found).astype(float))
        maps["either"] = (where, membranes.astype(float) + found)
    inner = np.zeros_like(where)
    inner[3:-3, 3:-3] = where[3:-3, 3:-3]  # scikit-image leaves out the rim that a 7 px window does not fill
    _, similar = structural_similarity(np.asarray(truth, float), np.asarray(image, float), data_range=1.0, full=True)
    maps["ssim_pixels"], maps["ssim"] = (inner, np.ones_like(truth)), (inner, similar)
    sums = np.zeros((ACROSS**2, len(COLUMNS)))
    for name, (chosen, values) in maps.items():
        sums[:, _AT[name]] = np.bincount(_blocks(chosen.shape)[chosen], values[chosen], ACROSS**2)
    if "both" not in maps:
        sums[:, [_AT["both"], _AT["either"]]] = np.nan
    return sums[sums[:, 0] > 0]


def _blocks(shape: tuple[int, ...]) -> npt.NDArray[np.intp]:
    """(H, W): the block of each pixel."""
    y, x = (np.arange(n) * ACROSS // n for n in shape)
    return np.asarray(y[:, None] * ACROSS + x[None, :])


def _ncc(s: Array, factor: int) -> Array:
    n, a, b, aa, bb, ab = (s[..., _AT[f"{m}{factor}"]] for m in _MOMENTS)
    scale = np.sqrt(np.maximum(n * aa - a * a, 0) * np.maximum(n * bb - b * b, 0))
    return np.asarray(np.where(scale > 1e-9 * n * n, (n * ab - a * b) / np.maximum(scale, 1e-300), 0.0))


def _ratio(s: Array, above: str, below: str) -> Array:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(s[..., _AT[above]] / s[..., _AT[below]])


def _db(ratio: Array) -> Array:
    with np.errstate(divide="ignore"):
        return np.asarray(-10 * np.log10(ratio))


LOCAL: Mapping[str, Callable[[Array], Array]] = {  # sums (..., len(COLUMNS)) -> metric (...)
    "gain_db": lambda s: _db(_ratio(s, "error", "error_constant")),
    "psnr": lambda s: _db(_ratio(s, "error", "pixels")),
    "ncc": lambda s: _ncc(s, 1),
    "ncc4": lambda s: _ncc(s, 4),
    "ncc8": lambda s: _ncc(s, 8),
    "power": lambda s: _ratio(s, "band", "band_truth"),
    "membrane_f1": lambda s: 2 * _ratio(s, "both", "either"),
    "ssim": lambda s: _ratio(s, "ssim", "ssim_pixels"),
}


def row(sums: Array) -> dict[str, float]:
    """The local metrics of one section."""
    return {name: float(metric(sums.sum(0))) for name, metric in LOCAL.items()}


def interval(name: str, sections: Sequence[Array], other: Sequence[Array] | None = None) -> tuple[float, float] | None:
    """95 % percentile bootstrap of the mean over sections of LOCAL[name], blocks drawn within each section.

    With `other` (the same sections restored by another method) the interval of the difference, the same blocks drawn
    for both. None where it is not defined: the metric is infinite or unknown, or a section has a single block.
    """
    metric = LOCAL[name]

    def mean(*drawn: npt.NDArray[np.intp], axis: int = -1) -> Array:
        values = [metric(s[d].sum(-2)) for s, d in zip(sections, drawn, strict=True)]
        if other is not None:
            values = [v - metric(o[d].sum(-2)) for v, o, d in zip(values, other, drawn, strict=True)]
        return np.asarray(np.mean(values, 0))

    indices = tuple(np.arange(len(s)) for s in sections)
    if not all(len(i) > 1 for i in indices) or not np.isfinite(mean(*indices)):
        return None
    return _percentile(indices, mean)


def spread(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % percentile bootstrap of the mean of `values` (one a section, or one a profile); None for fewer than 2."""
    data = np.asarray(values, float)
    if len(data) < 2 or not np.isfinite(data).all():
        return None
    return _percentile((data,), _mean)


def _mean(values: Array, axis: int = -1) -> Array:
    return np.asarray(values.mean(axis))


def _percentile(
    data: tuple[npt.NDArray[np.generic], ...], statistic: Callable[..., Array]
) -> tuple[float, float] | None:
    if all(np.ptp(np.asarray(d, float)) == 0 for d in data):  # nothing varies: scipy would warn
        value = float(statistic(*data))
        return value, value
    with np.errstate(invalid="ignore"):  # a draw may hold no pixel of the kind; scipy then meets NaN or infinity
        found = stats.bootstrap(
            data, statistic, n_resamples=_RESAMPLES, batch=200, vectorized=True, confidence_level=CONFIDENCE,
            method="percentile", rng=np.random.default_rng(0),
        ).confidence_interval  # fmt: skip
    return (float(found.low), float(found.high)) if np.isfinite([found.low, found.high]).all() else None
