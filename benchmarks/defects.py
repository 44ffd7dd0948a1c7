"""Simulated damage to whole sections and parts of them, at three severities, to measure detection with a known truth.

Each takes a section (H, W) uint8, its neighbour before it, a severity (0 mild, 1 medium, 2 strong) and a generator, and
gives the damaged section and the mask of what was damaged (None: all of it). Folds, cracks, contamination, lost tiles
and regions of other contrast are those of `model.damage`; mild ones are half transparent, strong ones come twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from model import damage

Section = NDArray[np.uint8]
Damaged = tuple[Section, NDArray[np.bool_] | None]
Defect = Callable[[Section, Section, int, np.random.Generator], Damaged]
SEVERITIES = ("mild", "medium", "strong")


def _grey(image: NDArray[Any]) -> Section:
    return np.clip(np.round(image), 0, 255).astype(np.uint8)


def missing(section: Section, _: Section, severity: int, rng: np.random.Generator) -> Damaged:
    """Its chunks do not exist: they read as zeros. The severity says nothing."""
    return np.zeros_like(section), None


def blank(section: Section, _: Section, severity: int, rng: np.random.Generator) -> Damaged:
    """Strong: one value; medium: that of empty resin, with a camera's noise; mild: uneven resin."""
    noise = rng.normal(0, (6.0, 3.0, 0.0)[severity], section.shape)
    slope = np.linspace(0, 10, section.shape[0])[:, None] if severity == 0 else 0.0
    return _grey(rng.choice([0.0, 120.0, 200.0, 255.0]) + slope + noise), None


def duplicate(_: Section, before: Section, severity: int, rng: np.random.Generator) -> Damaged:
    """The section before once more; imaged twice (noise, brightness) where it is mild or medium."""
    return _grey(before + rng.normal(0, (6.0, 2.0, 0.0)[severity], before.shape) + (8, 3, 0)[severity]), None


def brightness(section: Section, _: Section, severity: int, rng: np.random.Generator) -> Damaged:
    """Brighter or darker by 20, 40 or 70 grey levels."""
    return _grey(section + rng.choice([-1.0, 1.0]) * (20, 40, 70)[severity]), None


def contrast(section: Section, _: Section, severity: int, rng: np.random.Generator) -> Damaged:
    """0.7, 0.5 or 0.3 of its contrast."""
    mean = section.mean()
    return _grey((section - mean) * (0.7, 0.5, 0.3)[severity] + mean), None


def blur(section: Section, _: Section, severity: int, rng: np.random.Generator) -> Damaged:
    """Out of focus: a Gaussian of 1, 2 or 4 px."""
    return _grey(ndimage.gaussian_filter(section.astype(np.float32), (1.0, 2.0, 4.0)[severity])), None


def noise(section: Section, _: Section, severity: int, rng: np.random.Generator) -> Damaged:
    """Grain of 15, 30 or 60 grey levels."""
    return _grey(section + rng.normal(0, (15, 30, 60)[severity], section.shape)), None


def charging(section: Section, _: Section, severity: int, rng: np.random.Generator) -> Damaged:
    """Rows are brighter or darker by 8, 16 or 32 grey levels."""
    return _grey(section + rng.normal(0, (8, 16, 32)[severity], (len(section), 1))), None


def misaligned(section: Section, _: Section, severity: int, rng: np.random.Generator) -> Damaged:
    """Moved by 24, 40 or 64 px in any direction; what comes in at the edge is mirrored."""
    far, angle = (24, 40, 64)[severity], rng.uniform(0, 2 * np.pi)
    move = (round(far * np.sin(angle)), round(far * np.cos(angle)))
    wide = np.pad(section, 64, mode="reflect")
    return np.roll(wide, move, (0, 1))[64:-64, 64:-64], None


def _partial(simulate: damage.Simulator) -> Defect:
    def defect(section: Section, _: Section, severity: int, rng: np.random.Generator) -> Damaged:
        image, mask = simulate(section / np.float32(255), rng)
        if severity == 0:
            image = (image + section / np.float32(255)) / 2
        if severity == 2:
            image, more = simulate(image, rng)
            mask = mask | more
        return _grey(image * 255), mask

    return defect


def tile(section: Section, _: Section, severity: int, rng: np.random.Generator) -> Damaged:
    """A rectangle of one value: an eighth to a quarter, a quarter to a half, a half to three quarters of each edge."""
    low, high = ((0.125, 0.25), (0.25, 0.5), (0.5, 0.75))[severity]
    sizes = [int(n * rng.uniform(low, high)) for n in section.shape]
    y, x = (int(rng.integers(n - s + 1)) for n, s in zip(section.shape, sizes, strict=True))
    mask = np.zeros(section.shape, bool)
    mask[y : y + sizes[0], x : x + sizes[1]] = True
    return np.where(mask, np.uint8(rng.choice([0, 255, 128])), section), mask


# Name of the defect, what it does, and the class that a flag of it should have.
DEFECTS: dict[str, tuple[Defect, str]] = {
    "missing": (missing, "missing"),
    "blank": (blank, "blank"),
    "duplicate": (duplicate, "duplicate"),
    "missing tile": (tile, "missing"),
    "brightness": (brightness, "contrast"),
    "contrast": (contrast, "contrast"),
    "region of other contrast": (_partial(damage.contrast), "contrast"),
    "blur": (blur, "blur"),
    "noise": (noise, "noise"),
    "charging": (charging, "noise"),
    "misaligned": (misaligned, "misaligned"),
    "fold": (_partial(damage.fold), "fold"),
    "crack": (_partial(damage.crack), "crack"),
    "contamination": (_partial(damage.contamination), "contamination"),
}
