"""Intensity: which values of a volume are black and white to a restorer.

uint8 needs no asking. 16-bit stacks hold 10 to 14 bits somewhere in their range: to a network that was trained on
whole grey scales they would be nearly black. So the window is measured once, and kept in the recipe and the store.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.box import Box
from pipeline.volume import Volume

SAMPLES = 5  # sections
CROP_PX = 1024
TAILS = (0.1, 99.9)  # per cent
MARGIN = 0.05  # of the window, on both sides: restored voxels may go a little beyond what was sampled


def measure(source: Volume) -> tuple[float, float]:
    """The window of a volume, from the middles of a few sections spread over z. Deterministic.

    The lowest and highest values of the dtype do not count: they are padding, missing sections and saturation.
    """
    info = np.iinfo(source.dtype)
    seen = np.concatenate([_crop(source, z).ravel() for z in _spread(source.shape[0])])
    seen = seen[(seen > info.min) & (seen < info.max)]
    if seen.size < 2 or seen.min() == seen.max():
        return float(info.min), float(info.max)
    low, high = np.percentile(seen, TAILS)
    wide = (high - low) * MARGIN + 1
    return float(max(info.min, np.floor(low - wide))), float(min(info.max, np.ceil(high + wide)))


def _spread(depth: int) -> list[int]:
    return sorted({(2 * i + 1) * depth // (2 * SAMPLES) for i in range(SAMPLES)})


def _crop(source: Volume, z: int) -> NDArray[np.generic]:
    _, height, width = source.shape
    y, x = max(0, (height - CROP_PX) // 2), max(0, (width - CROP_PX) // 2)
    return source.read(Box((z, y, x), (z + 1, min(height, y + CROP_PX), min(width, x + CROP_PX))))
