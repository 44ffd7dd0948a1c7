"""Look: how a volume is looked at by a scan, and what is seen then: sections in 8 bit, at the size of the scan."""

from __future__ import annotations

import hashlib
from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.box import Box
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
        about = [self.level, self.factor, self.black, self.white, astuple(self.thresholds), "bits"]
        return hashlib.sha256(repr(about).encode()).hexdigest()


def read(source: Volume, look: Look, box: Box) -> tuple[NDArray[np.uint8], list[bool]]:
    """The sections of a box of the scan, 8 bit, and which of them the store does not hold. Read chunk by chunk in z."""
    (z0, y0, x0), (z1, y1, x1), f = box.start, box.stop, look.factor
    stack, absent, deep = np.empty(box.shape, np.uint8), list[bool](), source.chunks[0]
    for a in range(z0 // deep * deep, z1, deep):
        part = Box((max(a, z0), y0 * f, x0 * f), (min(a + deep, z1), y1 * f, x1 * f)) & Box.of(source.shape)
        gone = _gone(source, part)
        absent += gone
        voxels = source.read(part)
        for i in range(len(voxels)):
            grey = (shrink(voxels[i], f) - look.black) * np.float32(255 / (look.white - look.black))
            stack[part.start[0] + i - z0] = np.clip(np.round(grey), 0, 255)
    return stack, absent


def _gone(source: Volume, part: Box) -> list[bool]:
    """Which sections of a box are absent altogether."""
    area = dict.fromkeys(range(part.start[0], part.stop[0]), 0)
    for hole in source.absent(part):
        cut = hole & part
        for z in range(cut.start[0], cut.stop[0]):
            area[z] += cut.shape[1] * cut.shape[2]
    return [n == part.shape[1] * part.shape[2] for n in area.values()]
