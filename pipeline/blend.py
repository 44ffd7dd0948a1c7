"""Blend: seat a restored patch in the section around it, so that no step shows at its rim.

Everything here looks at most `REACH` pixels around, so tiles with that much halo agree in what they share.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pipeline.recipe import GREY_PER_COUNT

SIGMA = 4.0  # px; the rim's mismatch is averaged over this much, so that noise is not carried inwards
TRUNCATE = 3.0
IN_CACHE = 1 << 15  # pixels that go together through several steps: quicker than all of them step by step
REACH = 16 + int(SIGMA * TRUNCATE) + 1  # widest feather + averaging

F32: TypeAlias = NDArray[np.float32]
Mask: TypeAlias = NDArray[np.bool_]

ORIGINAL, SYNTHESISED, REPAIRED, FEATHER, LEFT, UNCERTAIN = range(6)  # the values of labels/synthetic
RESTORED = (SYNTHESISED, REPAIRED, FEATHER, UNCERTAIN)


def synthetic(labels: NDArray[Any]) -> Mask:
    """Where labels say that a voxel was made rather than measured."""
    return np.asarray(((labels >= SYNTHESISED) & (labels <= FEATHER)) | (labels == UNCERTAIN))


def seat(prediction: F32, source: F32, unknown: Mask, feather_px: int) -> tuple[F32, Mask]:
    """Shift the prediction to meet the known pixels at the rim, fading out `feather_px` inside the damage.

    All (Y, X), prediction and source in [0, 1]; source is looked at only where known. Returns the seated
    prediction and the feather band (unknown pixels that were shifted).
    """
    band = np.zeros_like(unknown)
    if feather_px == 0 or unknown.all() or not unknown.any():
        return prediction, band
    from scipy import ndimage  # a fifth of a second, for which those who only look at a store need not wait

    depth = ndimage.distance_transform_edt(unknown)  # px from the nearest known pixel
    band = unknown & (depth <= feather_px)
    known = (~unknown).astype(np.float32)
    residual = np.where(unknown, np.float32(0), source - prediction)
    weight = _smooth(known)
    # Normalised convolution: the mean mismatch of the rim nearby.
    shift = _smooth(residual) / np.maximum(weight, np.float32(1e-3))
    ramp = np.clip(1 - depth / (feather_px + 1), 0, 1).astype(np.float32)
    return np.where(band, prediction + ramp * shift, prediction).astype(np.float32), band


def _smooth(image: F32) -> F32:
    from scipy import ndimage

    out: F32 = ndimage.gaussian_filter(image, SIGMA, truncate=TRUNCATE, mode="nearest", output=np.float32)
    return out


def fault(prediction: F32, unknown: Mask, neighbours: Sequence[F32]) -> str:
    """Why no tissue could look like this prediction, or nothing. All (Y, X); neighbours: the clean sections next to it.

    float → uint8 would turn NaN into 0 and 300 into 44 without a word: look before casting.
    """
    if not prediction.size:
        return ""
    least, most = prediction.min(), prediction.max()  # NaN if there is one
    if not (np.isfinite(least) and np.isfinite(most)):
        return f"{int((~np.isfinite(prediction)).sum())} of {prediction.size} voxels are NaN or infinite"
    made = prediction
    if not unknown.all():
        made = prediction[unknown]
        least, most = (made.min(), made.max()) if made.size else (np.float32(0), np.float32(1))
    if least < -1.0 or most > 2.0:
        return f"values from {least:.2f} to {most:.2f}, where black is 0 and white is 1"
    if made.size >= 256 and least == most and all(np.ptp(n[unknown]) > 0 for n in neighbours):
        return f"one constant value, {least:.3f}, between sections that are not constant"
    return ""


def spread_fault(spread: F32) -> str:
    """Why no ensemble could spread like this, or nothing. (D, Y, X), in units of [0, 1] voxels."""
    wrong = int((~np.isfinite(spread) | (spread < 0)).sum())
    return f"the spread of {wrong} of {spread.size} voxels is NaN, infinite or negative" if wrong else ""


def to_counts(spread: F32) -> NDArray[np.uint8]:
    """Standard deviations of [0, 1] voxels → counts of GREY_PER_COUNT grey levels; 255 is that or more.

    Rounded up, so that a count is above a whole number exactly where the spread is (to 1e-4 counts: float32 knows no
    better).
    """
    counts = np.ceil(np.round(spread.astype(np.float64) * (255 / GREY_PER_COUNT), 4))
    return np.minimum(counts, 255).astype(np.uint8)


def refused(counts: NDArray[np.uint8], refuse_above: float | None) -> Mask:
    """Where the spread is above what the recipe accepts. `refuse_above` in grey levels of 0..255; None accepts all."""
    limit = 255.0 if refuse_above is None else refuse_above / GREY_PER_COUNT
    return np.asarray(counts > limit)


def to_dtype(image: F32, low: float, high: float, dtype: np.dtype[Any]) -> NDArray[Any]:
    """[0, 1] floats → integers of the volume, rounded half to even, clamped to the dtype."""
    info, made = np.iinfo(dtype), np.empty(image.shape, dtype)
    step = max(1, IN_CACHE // max(1, image[:1].size))
    for rows in range(0, len(image), step):
        scaled = image[rows : rows + step].astype(np.float64)
        scaled *= high - low
        scaled += low
        np.rint(scaled, out=scaled)
        np.clip(scaled, info.min, info.max, out=scaled)
        made[rows : rows + step] = scaled  # whole numbers of the type: nothing is lost
    return made


def to_unit(image: NDArray[Any], low: float, high: float) -> F32:
    """Integers of the volume → [0, 1] floats, clipped to the intensity window."""
    unit: F32 = image.astype(np.float32)
    if low:
        unit -= np.float32(low)
    unit /= np.float32(high - low)  # in place: the ordinary case is the slowest step of a section between two
    info = np.iinfo(image.dtype)
    return unit if low <= info.min and high >= info.max else np.clip(unit, 0, 1, out=unit)
