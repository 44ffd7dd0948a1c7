"""Augmentation: how a training window may be turned, bent, stained, blurred and damaged. Pure functions of an rng.

Windows are (D, H, W) float32 in [0, 1].
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
from scipy import ndimage

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


def elastic(cut: Floats, rng: np.random.Generator) -> Floats:
    """Half of the windows bend: one smooth deformation of up to a few pixels for all sections, and now and then a
    small shift of each (sections are never perfectly aligned).
    """
    if rng.random() < 0.5:
        return cut
    size = cut.shape[1]
    knots = rng.normal(0, rng.uniform(1, 5), (2, 4, 4)).astype(np.float32)  # pixels, at 4 x 4 knots
    bend = [cv2.resize(k, (size, size), interpolation=cv2.INTER_CUBIC) for k in knots]
    y, x = np.mgrid[:size, :size].astype(np.float32)
    shift = rng.normal(0, 0.7, (len(cut), 2)) * (rng.random() < 0.3)
    moved = [
        cv2.remap(s, x + bend[1] + np.float32(dx), y + bend[0] + np.float32(dy), cv2.INTER_LINEAR,
                  borderMode=cv2.BORDER_REFLECT)
        for s, (dy, dx) in zip(cut, shift, strict=True)
    ]  # fmt: skip
    return np.stack(moved).astype(np.float32)


def optics(cut: Floats, rng: np.random.Generator) -> Floats:
    """A fifth of the windows are a little blurred, a fifth a little noisier: other microscopes, other dwell times."""
    blurred, noisy = rng.random(2) < 0.2
    if blurred:
        sigma = float(rng.uniform(0.3, 0.9))
        cut = np.stack([cv2.GaussianBlur(s, (5, 5), sigma) for s in cut])
    if noisy:
        cut = cut + np.float32(rng.uniform(0.01, 0.04)) * rng.standard_normal(cut.shape, np.float32)
    return np.asarray(np.clip(cut, 0, 1), np.float32)


def dihedral(cut: Floats, rng: np.random.Generator) -> Floats:
    """One of the 8 symmetries of the square, and a z flip half of the time."""
    cut = np.rot90(cut, int(rng.integers(4)), (1, 2))
    if rng.random() < 0.5:
        cut = cut[:, :, ::-1]
    return np.ascontiguousarray(cut[::-1] if rng.random() < 0.5 else cut)


def contrast(cut: Floats, rng: np.random.Generator) -> Floats:
    """Gain and offset of the whole window (staining, microscope) and a little of each section (real steps)."""
    depth = cut.shape[0]
    step = 3 if rng.random() < 0.15 else 1  # some volumes have steps that anyone sees
    gain = np.exp(rng.normal(0, 0.15)) * np.exp(rng.normal(0, 0.04 * step, (depth, 1, 1)))
    offset = rng.normal(0, 0.05) + rng.normal(0, 0.015 * step, (depth, 1, 1))
    mean = cut.mean()
    return np.asarray(np.clip((cut - mean) * gain + mean + offset, 0, 1), np.float32)


def damage(gap: int, crop: int, rng: np.random.Generator) -> Bools:
    """Which target pixels are known, (K, crop, crop): none in three windows of four, else random holes in each section.

    Only shapes are drawn; no artefact is simulated, because damaged pixels are hidden from the network anyway.
    """
    if rng.random() < 0.75:
        return np.zeros((gap, crop, crop), bool)
    return np.stack([_SHAPES[rng.integers(len(_SHAPES))](crop, rng) for _ in range(gap)])


def _missing(crop: int, rng: np.random.Generator) -> Bools:
    return np.zeros((crop, crop), bool)


def _band(crop: int, rng: np.random.Generator) -> Bools:
    """A fold or crack: a band of any direction is lost."""
    return np.abs(_ramp(crop, rng)) > rng.uniform(0.03, 0.25) * crop


def _side(crop: int, rng: np.random.Generator) -> Bools:
    """A missing tile's edge: everything on one side is lost."""
    return _ramp(crop, rng) > 0


def _blobs(crop: int, rng: np.random.Generator) -> Bools:
    """Contamination: smooth blobs are lost, 10-60 % of the area."""
    field = ndimage.gaussian_filter(rng.standard_normal((crop, crop)), rng.uniform(4, 14), mode="wrap")
    return np.asarray(field > np.quantile(field, rng.uniform(0.1, 0.6)))


def _ramp(crop: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Signed distance in pixels from a random line near the middle."""
    angle, shift = rng.uniform(0, 2 * np.pi), rng.normal(0, 0.2) * crop
    at = np.arange(crop) - crop / 2
    return np.asarray(np.cos(angle) * at[:, None] + np.sin(angle) * at[None, :] + shift)


_SHAPES = (_missing, _band, _side, _blobs)
