"""Pictures: arrays as small pictures in the page itself, within a budget of bytes; masks as outlines."""

from __future__ import annotations

import base64
import io
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage.measure import approximate_polygon, find_contours

U8: TypeAlias = NDArray[np.uint8]
QUALITIES = (82, 68, 52, 36, 20)  # of WebP; one whose bytes fit is taken
POINTS = 1500  # of one outline; a mask of dust would make a page of points
CORNER = 0.7  # px that an outline may lie off


def greys(image: NDArray[Any], low: float, high: float) -> U8:
    """Voxels as grey levels of 0..255: low is black, high is white."""
    scaled = np.rint((image.astype(np.float32) - low) * (255 / (high - low)))
    return np.asarray(np.clip(scaled, 0, 255), np.uint8)


def shrunk(image: U8, edge: int) -> U8:
    """At most `edge` px each way, pixels averaged; never larger."""
    height, width = image.shape[:2]
    scale = edge / max(height, width)
    if scale >= 1:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))


def heat(counts: U8, top: float) -> U8:
    """Counts as colours, (Y, X, 3): 0 is black, `top` and more the lightest."""
    from matplotlib import colormaps

    return np.asarray(colormaps["inferno"](np.clip(counts / max(top, 1e-6), 0, 1), bytes=True))[..., :3]


def outline(mask: NDArray[np.bool_]) -> str:
    """A mask's rim as the path of an SVG, in units of its own width and height; empty where it has none."""
    height, width = mask.shape
    padded = np.pad(mask, 1).astype(np.uint8)
    found = sorted(find_contours(padded, 0.5), key=len, reverse=True)
    parts, points = [], 0
    for contour in found:
        corners = approximate_polygon(contour, CORNER) - 0.5  # of the padding, and of voxels' middles
        points += len(corners)
        if points > POINTS:
            break
        xy = np.clip(corners[:, ::-1] / (width, height), 0, 1)
        parts.append("M" + "L".join(f"{x:.4g} {y:.4g}" for x, y in xy) + "Z")
    return "".join(parts)


class Purse:
    """Bytes that a page may still spend on pictures."""

    def __init__(self, total: int) -> None:
        self.left = total
        self._last = 0  # the quality that the last ones took: the next ones are much like them

    def spend(self, images: dict[str, U8], share: int) -> dict[str, str] | None:
        """The pictures as data URIs, of a quality that keeps within `share`; None where the purse is empty."""
        for number in range(max(0, self._last - 1), len(QUALITIES)):
            found = {name: _uri(image, QUALITIES[number]) for name, image in images.items()}
            cost = sum(map(len, found.values()))
            if cost <= share:
                break
        self._last = number
        if cost > self.left:
            return None
        self.left -= cost
        return found


def _uri(image: U8, quality: int) -> str:
    body = io.BytesIO()
    Image.fromarray(image).save(body, "WEBP", quality=quality, method=2)
    return "data:image/webp;base64," + base64.b64encode(body.getvalue()).decode()
