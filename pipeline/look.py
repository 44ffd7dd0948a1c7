"""Look: how a volume is looked at by a scan, and what is seen then: sections in 8 bit, at the size of the scan."""

from __future__ import annotations

import hashlib
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import spotter
from pipeline.box import ZYX, Box
from pipeline.detectors import shrink
from pipeline.thresholds import Thresholds
from pipeline.volume import Volume


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
    absent, voxels = _gone(source, part), source.read(part)
    return np.stack([_grey(section, look) for section in voxels]), absent


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
