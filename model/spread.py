"""The spread of an ensemble at every pixel, as it is stored beside restored voxels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Floats = npt.NDArray[np.floating]
SMOOTH = 9  # pixels: the window over which the variance is averaged, because few draws tell little about one pixel


def spread(members: Floats, inside: npt.NDArray[np.bool_]) -> Floats:
    """members (k, ..., H, W), k >= 2, and where they were drawn (..., H, W) -> standard deviation (..., H, W).

    Known pixels have none: they do not count in their neighbours' windows, and stay 0.
    """
    window = (0,) * (inside.ndim - 2) + (SMOOTH, SMOOTH)
    drawn = ndimage.uniform_filter(inside.astype(np.float32), window, mode="nearest")
    variance = ndimage.uniform_filter(members.var(0, ddof=1) * inside, window, mode="nearest")
    variance = variance / np.maximum(drawn, 1 / SMOOTH**2)
    return np.asarray(np.sqrt(variance.clip(0)) * inside)
