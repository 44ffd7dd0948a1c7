"""Walk: the order in which slabs are worked off, so that what they share of the source is read once. See `shelf`.

Sections that share chunks come together, and of a wide volume one band after another: a row of a band is so short that
what it leaves to the row below is still on the shelf when that is read.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.box import ZYX
from pipeline.slabs import Slabs

PART = 2  # of the shelf a row may fill one in so many: the rest is for what comes between


def walk(slabs: Slabs, chunk: ZYX, itemsize: int, room: int) -> Slabs:
    """The same slabs. chunk: of the source (z, y, x), of voxels of so many bytes; room: bytes of the shelf."""
    if len(slabs) < 2 or not room:
        return slabs
    z, y, x = (slabs.boxes[:, axis] for axis in range(3))  # where they begin to write
    band = x // _band(slabs, chunk, itemsize, room)
    return slabs[np.lexsort((z, x, y, band, _layers(slabs, chunk[0])))]


def _layers(slabs: Slabs, deep: int) -> NDArray[np.int64]:
    """(n,) the same number for slabs that see the same chunks, if they lie beside each other; and for those between."""
    spans = np.unique(np.stack([slabs.boxes[:, 6] // deep, -(-slabs.boxes[:, 9] // deep)], 1), axis=0)
    apart = spans[1:, 0] >= np.maximum.accumulate(spans[:, 1])[:-1]
    starts = spans[np.flatnonzero(np.append(True, apart)), 0]
    return np.searchsorted(starts, slabs.boxes[:, 6] // deep, "right")


def _band(slabs: Slabs, chunk: ZYX, itemsize: int, room: int) -> int:
    """How wide a band is, px: whole slabs."""
    wide = int((slabs.boxes[:, 5] - slabs.boxes[:, 2]).max())
    deep = int((slabs.boxes[:, 9] - slabs.boxes[:, 6]).max())
    above, below = slabs.boxes[:, 1] - slabs.boxes[:, 7], slabs.boxes[:, 10] - slabs.boxes[:, 4]
    shared = int(max(above.max(), below.max())) * 2 // chunk[1] * chunk[1] + 2 * chunk[1]  # rows that two slabs see
    return max(1, room // PART // (shared * deep * itemsize) // wide) * wide
