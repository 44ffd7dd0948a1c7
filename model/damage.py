"""Simulators of partial damage, to measure restoration with a known truth. Nothing is trained on them.

Each takes a section (H, W) in [0, 1] and a generator and gives the damaged image, float32 in [0, 1], and the mask of
the voxels to restore, bool (H, W). Outside the mask the image is the section, voxel by voxel; a mask is never empty and
never the whole section. Lengths are fractions of the shorter edge, so that small and large sections look alike; in
brackets what that is for 1024 px at 4.6 nm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Image = npt.NDArray[np.floating]
Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
Simulator = Callable[[Image, np.random.Generator], tuple[Floats, Bools]]


def _line(shape: tuple[int, ...], rng: np.random.Generator) -> tuple[Image, Image]:
    """Signed distance in pixels from a wavy line through the middle third, and its normal (2,) = (y, x)."""
    angle, edge = rng.uniform(0, np.pi), min(shape)
    normal = np.array([np.sin(angle), np.cos(angle)])
    y, x = np.mgrid[: shape[0], : shape[1]] - (np.array(shape) / 2 + rng.uniform(-edge, edge, 2) / 6)[:, None, None]
    along = y * normal[1] - x * normal[0]
    wave = 0.02 * edge * np.sin(2 * np.pi * (along / (0.6 * edge) + rng.random()))
    return np.asarray(y * normal[0] + x * normal[1] + wave), normal


def _displaced(section: Image, distance: Image, normal: Image, shift: Image) -> Image:
    """The section seen `shift` pixels further from the line (negative: nearer to it)."""
    y, x = np.mgrid[: section.shape[0], : section.shape[1]].astype(float)
    step = np.sign(distance) * shift
    return np.asarray(
        ndimage.map_coordinates(section, [y + step * normal[0], x + step * normal[1]], order=1, mode="nearest")
    )


def _finish(section: Image, damaged: Image, mask: Bools) -> tuple[Floats, Bools]:
    kept = np.where(mask, np.clip(damaged, 0, 1), section)
    return np.asarray(kept, np.float32), mask


def fold(section: Image, rng: np.random.Generator) -> tuple[Floats, Bools]:
    """A fold: a dark band where the section lies on itself (20-60 px wide); the tissue either side has moved in to
    close the gap, less and less up to 3 band widths from it.
    """
    distance, normal = _line(section.shape, rng)
    half = rng.uniform(0.01, 0.03) * min(section.shape)
    away = np.abs(distance)
    reach = 3 * half + half
    moved = half * np.clip((reach - away) / (reach - half), 0, 1)  # tissue now at `away` came from further off
    closed = _displaced(section, distance, normal, moved)
    band = 0.25 * closed + 0.02 * rng.standard_normal(section.shape)
    return _finish(section, np.where(away < half, band, closed), away < reach)


def crack(section: Image, rng: np.random.Generator) -> tuple[Floats, Bools]:
    """A crack: empty resin, brighter than any tissue (10-40 px wide at its middle); the tissue either side has been
    pushed apart, less and less up to 6 half widths from it.
    """
    distance, normal = _line(section.shape, rng)
    half = rng.uniform(0.005, 0.02) * min(section.shape)
    away, reach = np.abs(distance), 6 * half
    moved = np.where(away >= half, -half * (reach - away) / (reach - half), 0.0)
    opened = _displaced(section, distance, normal, np.where(away < reach, moved, 0.0))
    empty = 0.97 + 0.01 * rng.standard_normal(section.shape)
    return _finish(section, np.where(away < half, empty, opened), away < reach)


def contamination(section: Image, rng: np.random.Generator) -> tuple[Floats, Bools]:
    """Stain precipitate: smooth dark blobs over 5-15 % of the section, darkest in their middle."""
    field = ndimage.gaussian_filter(rng.standard_normal(section.shape), 0.025 * min(section.shape), mode="wrap")
    level = np.quantile(field, 1 - rng.uniform(0.05, 0.15))
    mask = field > level
    depth = np.clip((field - level) / max(field.max() - level, 1e-12), 0, 1)
    return _finish(section, section * (0.45 - 0.4 * depth), mask)


def tile(section: Image, rng: np.random.Generator) -> tuple[Floats, Bools]:
    """A missing tile: a rectangle of 25-50 % of each edge holds zeros."""
    mask = np.zeros(section.shape, bool)
    sizes = [max(int(n * rng.uniform(0.25, 0.5)), 1) for n in section.shape]
    y, x = (int(rng.integers(n - s + 1)) for n, s in zip(section.shape, sizes, strict=True))
    mask[y : y + sizes[0], x : x + sizes[1]] = True
    return _finish(section, np.zeros_like(section), mask)


def half(section: Image, rng: np.random.Generator) -> tuple[Floats, Bools]:
    """The knife slipped: one side of the section (40-60 %) is lost, on a straight edge parallel to an axis."""
    mask = np.zeros(section.shape, bool)
    axis, share = int(rng.integers(2)), rng.uniform(0.4, 0.6)
    cut = int(section.shape[axis] * share)
    lost = [slice(None), slice(None)]
    lost[axis] = slice(0, cut) if rng.random() < 0.5 else slice(section.shape[axis] - cut, None)
    mask[tuple(lost)] = True
    return _finish(section, np.zeros_like(section), mask)


def contrast(section: Image, rng: np.random.Generator) -> tuple[Floats, Bools]:
    """A contrast step: in a region of 20-50 % gain and offset differ.

    The region is treated as lost, though its tissue could still be seen: the harder task. Mending the contrast alone
    would be another method's.
    """
    field = ndimage.gaussian_filter(rng.standard_normal(section.shape), 0.15 * min(section.shape), mode="nearest")
    mask = field > np.quantile(field, 1 - rng.uniform(0.2, 0.5))
    gain, offset = rng.uniform(0.5, 0.75), rng.uniform(0.1, 0.25) * rng.choice([-1, 1])
    mean = section.mean()
    return _finish(section, (section - mean) * gain + mean + offset, mask)


SIMULATORS: Mapping[str, Simulator] = {
    "fold": fold, "crack": crack, "contamination": contamination, "tile": tile, "half": half, "contrast": contrast,
}  # fmt: skip
