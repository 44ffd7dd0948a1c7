"""View: the sections of a tile with what was measured of each, and what can be said of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline import detectors as see
from pipeline.detectors import Image, Looks, Mask
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


@dataclass(frozen=True)
class View:
    """A stack, and what was measured of each section."""

    stack: Stack
    absent: Sequence[bool]
    empty: list[Mask]
    looks: list[Looks]
    coarse: list[Image]
    quantiles: NDArray[np.float32]  # (z, 4), in units of tissue: dark, rim of dark, rim of bright, bright
    t: Thresholds

    @staticmethod
    def of(stack: Stack, absent: Sequence[bool], t: Thresholds) -> View:
        empty = [see.flat(image, t.flat_grey) for image in stack]
        numbers = [see.looks(image, hole, t.smooth_px) for image, hole in zip(stack, empty, strict=True)]
        wanted = (t.extreme, t.rim, 100 - t.rim, 100 - t.extreme)
        smooth = (standard(*pair, t) for pair in zip(stack, numbers, strict=True))
        tails = np.array([np.percentile(image[::2, ::2], wanted) for image in smooth], np.float32)
        return View(stack, absent, empty, numbers, [see.coarse(image) for image in stack], tails, t)

    def tails(self, z: int, sign: int) -> tuple[float, float]:
        """What is darker than all tissue around, and what is as dark as the rim of damage; sign -1: of the negative."""
        near = self.quantiles[max(0, z - self.t.window) : z + self.t.window + 1]  # (z, 4)
        dark, rim, light_rim, light = (float(v) for v in np.median(near, 0))
        return (dark, rim) if sign > 0 else (-light, -light_rim)

    def around(self, z: int, fit: Sequence[bool]) -> tuple[list[int], list[int]]:
        """The sections before and after that are fit, nearest first, within the window."""
        reach = self.t.window
        return (
            [k for k in range(z - 1, max(-1, z - 1 - reach), -1) if fit[k]],
            [k for k in range(z + 1, min(len(self.stack), z + 1 + reach)) if fit[k]],
        )


def standard(image: NDArray[np.uint8], look: Looks, t: Thresholds) -> Image:
    """The section at a blur, in units of tissue: 0 is its median."""
    return (see.blur(image, t.smooth_px) - np.float32(look.grey)) / np.float32(look.contrast)


def move(view: View, z: int, other: int) -> tuple[tuple[int, int], float]:
    """Where a section lies as seen from another one, and by how much that explains it better."""
    found, before, after = see.offset(view.coarse[z], view.coarse[other])
    return found, after - before if after >= view.t.jump_corr else 0.0
