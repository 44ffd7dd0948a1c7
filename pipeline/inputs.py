"""Inputs: `Volume.inputs` of many boxes of one volume: those of a plan overlap, and each object is looked at once."""

from __future__ import annotations

from hashlib import sha256
from itertools import product
from json import dumps

from pipeline.box import ZYX, Box
from pipeline.volume import Volume

MOST = 1 << 17  # objects that are remembered, some 200 bytes each


class Inputs:
    """For one pass over a volume: what is written meanwhile may be told as it was."""

    def __init__(self, volume: Volume) -> None:
        self._volume, self._told = volume, dict[ZYX, str]()  # of an object: key, and what is known of it, as JSON
        self._last = tuple[range, ...](), ""  # cells, and their fingerprint

    def __call__(self, box: Box) -> str:
        """sha256 of names, sizes and ages of the objects under a box. Raises VolumeError as `Volume.inputs`."""
        if not box.size or box not in Box.of(self._volume.shape):
            return self._volume.inputs(box)  # which refuses it
        spans = zip(box.start, box.stop, self._volume.grain, strict=True)
        cells = tuple(range(a // g, -(-b // g)) for a, b, g in spans)
        if cells != self._last[0]:
            self._last = cells, self._of(list(product(*cells)))  # type: ignore[arg-type]
        return self._last[1]

    def _of(self, cells: list[ZYX]) -> str:
        if len(self._told) > MOST:
            self._told.clear()
        new = [c for c in cells if c not in self._told]
        keys = [self._volume.key(c) for c in new]
        for cell, key, stored in zip(new, keys, self._volume.files.stats(keys), strict=True):
            self._told[cell] = dumps([key, list(stored) if stored else "absent"])
        return sha256(f"[{', '.join([self._told[c] for c in cells])}]".encode()).hexdigest()
