"""Look: how a volume is looked at by a scan, and what is seen then: sections in 8 bit, at the size of the scan."""

from __future__ import annotations

import hashlib
import math
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import spotter
from pipeline.box import ZYX, Box
from pipeline.detectors import shrink
from pipeline.threads import each
from pipeline.thresholds import Thresholds
from pipeline.volume import Volume

LARGE = 1 << 19  # voxels of a chunk that is worth being read by itself


@dataclass(frozen=True)
class Look:
    """How a volume is looked at; all that a worker must know."""

    uri: str
    level: int  # that is read
    factor: int  # of its pixels averaged to one of the scan
    black: float
    white: float
    masks: str  # where masks are written
    thresholds: Thresholds
    held: frozenset[int] = frozenset()  # sections whose masks people may rely on: they are not written,
    lost: frozenset[int] = frozenset()  # but where they are gone
    threads: int = 1  # of whoever looks

    def open(self) -> Volume:
        return Volume.open(self.uri, level=self.level)

    @property
    def key(self) -> str:
        """What findings depend on, beside the chunks."""
        about = [self.level, self.factor, self.black, self.white, astuple(self.thresholds), spotter.digest()]
        return hashlib.sha256(repr(about).encode()).hexdigest()


def scan_shape(shape: ZYX, factor: int) -> ZYX:
    """Of a volume that is averaged by that factor."""
    return shape[0], -(-shape[1] // factor), -(-shape[2] // factor)


def read(source: Volume, look: Look, box: Box) -> tuple[NDArray[np.uint8], list[bool]]:
    """The sections of a box of the scan, 8 bit, and which of them the store does not hold."""
    (z0, y0, x0), (z1, y1, x1), f = box.start, box.stop, look.factor
    part = Box((z0, y0 * f, x0 * f), (z1, y1 * f, x1 * f)) & Box.of(source.shape)
    seen = np.empty(box.shape, np.uint8)
    each(lambda piece: _put(source, look, piece, box, seen), _pieces(source, part, f))
    return seen, _gone(source, part)


def _pieces(source: Volume, part: Box, factor: int) -> list[Box]:
    """How a box is read: chunk by chunk, each made smaller while it is in the processor's cache; all at once where
    chunks are small, or their edges are not those of pixels of the scan."""
    chunk = source.chunks
    if math.prod(chunk) < LARGE or any(edge % factor for edge in chunk[1:]):
        return [part]
    return [piece & part for piece in part.cells(chunk)]


def _put(source: Volume, look: Look, piece: Box, box: Box, seen: NDArray[np.uint8]) -> None:
    """Read a piece, and lay it, at the size of the scan, where it belongs."""
    voxels, (n, h, w), f = source.read(piece), piece.shape, look.factor
    y, x = (a // f - b for a, b in zip(piece.start[1:], box.start[1:], strict=True))
    z = piece.start[0] - box.start[0]
    if h % f:  # the last row of the volume stands for those beyond it
        small = np.stack([_grey(section, look) for section in voxels])
    else:
        small = _grey(voxels.reshape(n * h, w), look).reshape(n, h // f, -1)
    seen[z : z + n, y : y + small.shape[1], x : x + small.shape[2]] = small


def _grey(section: NDArray[Any], look: Look) -> NDArray[np.uint8]:
    """A section at the size of the scan, in 8 bit."""
    if section.dtype == np.uint8 and (look.black, look.white) == (0.0, 255.0):
        return shrink(section, look.factor)
    grey = (shrink(section.astype(np.float32), look.factor) - look.black) * np.float32(255 / (look.white - look.black))
    return np.asarray(np.clip(np.round(grey), 0, 255), np.uint8)


def _gone(source: Volume, part: Box) -> list[bool]:
    """Which sections of a box are absent altogether."""
    area = dict.fromkeys(range(part.start[0], part.stop[0]), 0)
    for hole in source.absent(part):
        cut = hole & part
        for z in range(cut.start[0], cut.stop[0]):
            area[z] += cut.shape[1] * cut.shape[2]
    return [n == part.shape[1] * part.shape[2] for n in area.values()]
