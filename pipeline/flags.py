"""Flags: which sections, boxes or masks of a volume are missing or damaged, and which must never change."""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.box import ZYX, Box
from pipeline.errors import FlagError

SCHEMA = "zmend-flags/1"
KEEP = "do_not_touch"
CLASSES = (
    *("missing", "damaged", "fold", "crack", "contamination", "contrast"),
    *("misaligned", "blur", "noise", "blank", "duplicate", KEEP),
)

MaskReader = Callable[[str, Box], NDArray[Any]]  # (mask uri, box in level voxels) -> bool (z, y, x) of box.shape
MaskShape = Callable[[str], ZYX]  # mask uri -> shape of that array


@dataclass(frozen=True, slots=True)
class Flag:
    """One statement: these voxels are damaged in this way, or (`do_not_touch`) must never change."""

    box: Box  # half-open, in level voxels
    kind: str  # one of CLASSES; "class" in the file
    mask: str = ""  # path or URL of a Zarr array; of the box, only its nonzero voxels (see `meant`) are meant
    whole: bool = True  # no y or x box was given
    source: str = ""  # who says so
    note: str = ""
    line: int = 0  # in the flags file, from 1; 0: not from a file
    verdict: str = ""  # accept, or nothing: nobody looked. Of those that `Flags` hold none is rejected

    @property
    def restorable(self) -> bool:
        """Whether its voxels are to be restored, rather than kept."""
        return self.kind != KEEP


@dataclass(frozen=True)
class Flags:
    """Every flag of a volume, sorted by place; iterable."""

    items: tuple[Flag, ...]
    digest: str  # sha256 of all that can change a voxel: not order, comments, source or note

    @staticmethod
    def of(flags: Iterable[Flag], *, base: str | None = None) -> Flags:
        """Sort and digest flags; mask paths are then taken as relative to the folder `base`, if given."""
        items = sorted(flags, key=lambda f: (f.box, f.kind, f.mask, f.whole))
        text = "".join(f"{f.box} {f.kind} {f.whole} {f.mask!r}\n" for f in items)
        digest = hashlib.sha256(f"{SCHEMA}\n{text}".encode(errors="surrogatepass")).hexdigest()
        # The digest is of the mask path as written: a project may move as a whole.
        return Flags(tuple(replace(f, mask=resolve(f.mask, base)) for f in items), digest)

    def __iter__(self) -> Iterator[Flag]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)

    @cached_property
    def _by_length(self) -> tuple[tuple[int, list[int], list[int]], ...]:
        # (longest, z starts, item numbers) for each power of two of section counts: one search per group,
        # and a single flag over all of z does not make every search long.
        groups: dict[int, list[int]] = defaultdict(list)
        for i, flag in enumerate(self.items):
            groups[(flag.box.shape[0] - 1).bit_length()].append(i)
        return tuple((1 << k, [self.items[i].box.start[0] for i in ids], ids) for k, ids in groups.items())

    def touching(self, box: Box) -> tuple[Flag, ...]:
        """The flags that share a voxel with `box`, in order."""
        found: list[int] = []
        for longest, starts, ids in self._by_length:
            found += ids[bisect_right(starts, box.start[0] - longest) : bisect_left(starts, box.stop[0])]
        return tuple(self.items[i] for i in sorted(found) if meet(self.items[i].box, box)) if box.size else ()

    def restore(self) -> tuple[Flag, ...]:
        """The flags other than do_not_touch."""
        return tuple(f for f in self.items if f.restorable)

    def runs(self) -> tuple[tuple[int, int], ...]:
        """Maximal runs [z0, z1) of sections that each have a restorable flag."""
        runs: list[tuple[int, int]] = []
        for start, stop in ((f.box.start[0], f.box.stop[0]) for f in self.restore()):
            joins = bool(runs) and start <= runs[-1][1]
            first, last = runs.pop() if joins else (start, stop)
            runs.append((first, max(last, stop)))
        return tuple(runs)


def flagged(flags: Iterable[Flag], box: Box, read_mask: MaskReader) -> NDArray[np.uint8]:
    """What to do with each voxel of `box`, uint8 (z, y, x): 0 leave, 1 in a flag of whole sections, 2 in a region.

    A region is a box or a mask. Where both say something 1 holds, for the whole section is restored anyway.
    do_not_touch wins over all.
    """
    out = np.zeros(box.shape, np.uint8)
    for flag in sorted(flags, key=lambda f: not f.restorable):  # do_not_touch last
        part = flag.box & box
        if part.size:
            window = out[part.within(box)]
            here: Any = _masked(flag, part, read_mask) if flag.mask else True
            if not flag.restorable:
                np.copyto(window, 0, where=here)
            elif flag.whole and not flag.mask:
                window[...] = 1
            else:
                np.copyto(window, 2, where=here & (window == 0))
    return out


def mask_window(mask_shape: ZYX, shape: ZYX, box: Box) -> tuple[Box, ZYX]:
    """The box of a coarser mask that covers `box` of a volume of `shape`, and the factor of each axis.

    A factor f fits an axis of n voxels if the mask has ceil(n / f). Raises FlagError if none does. A mask as fine as
    the volume in y and x has its sections, from the first on: it may end before the volume, which may have grown.
    What of `box` lies beyond the mask's end has no place in the box that is returned.
    """
    y, x = (_factor(m, n) for m, n in zip(mask_shape[1:], shape[1:], strict=True))
    short = 0 < mask_shape[0] <= shape[0]
    z = int(short) if y == x == 1 else _factor(mask_shape[0], shape[0]) or int(short)
    if not (z and y and x):
        raise FlagError(
            "mask of another shape",
            why=f"the mask is {mask_shape}, the volume {shape}: not smaller by whole factors",
            do="make the mask (z, y, x) at the volume's level or at a coarser level of its pyramid",
        )
    coarse = box.aligned((z, y, x))
    start, stop = ((p[0] // z, p[1] // y, p[2] // x) for p in (coarse.start, coarse.stop))
    return Box(start, stop) & Box.of(mask_shape), (z, y, x)


def upsample(coarse: NDArray[Any], factors: ZYX, box: Box) -> NDArray[np.bool_]:
    """Nearest neighbour, exact: the mask voxels that `mask_window` names for `box` -> bool of box.shape."""
    index = [np.arange(a, b) // f - a // f for a, b, f in zip(box.start, box.stop, factors, strict=True)]
    nearest: NDArray[Any] = coarse[np.ix_(*index)]  # (z, y, x)
    return nearest.astype(np.bool_)


def _factor(mask: int, full: int) -> int:
    """The whole factor from `full` voxels to `mask`, or 0."""
    if not 0 < mask <= full:
        return 0
    least = -(-full // mask)
    # 9 -> 2 voxels may be a factor of 5 to 8: pyramids halve, so the power of two is meant.
    halving: int = 1 << (least - 1).bit_length()
    return next((f for f in (halving, least) if -(-full // f) == mask), 0)


def _masked(flag: Flag, part: Box, read_mask: MaskReader) -> NDArray[np.bool_]:
    here = np.asarray(read_mask(flag.mask, part)).astype(np.bool_)
    if here.shape != part.shape:
        raise FlagError("mask of another shape", where=flag.mask, why=f"{here.shape} was read for {part.shape} voxels")
    return here


def address(mask: str) -> str:
    """A mask's address, without what says which of its voxels are meant."""
    return _parted(mask)[0]


def meant(mask: str, values: NDArray[Any]) -> NDArray[np.bool_]:
    """Which values of a mask are meant: of `prob.zarr >= 128` those from 128 on, of `m.zarr & 2` those with this bit;
    where it says neither, all that are not 0."""
    _, sign, number = _parted(mask)
    if sign == ">=":
        return values >= number
    if sign == "&":
        wide = np.result_type(values.dtype, np.min_scalar_type(number))
        values = np.bitwise_and(values, number, dtype=wide)
    return values.astype(np.bool_)


def _parted(mask: str) -> tuple[str, str, int]:
    found = re.fullmatch(r"(.*\S)(?:\s*(>=)\s*([0-9]{1,18})| (&) ([0-9]{1,9}))", mask)
    return (found[1], found[2] or found[4], int(found[3] or found[5])) if found else (mask, "", 0)


def resolve(mask: str, base: str | None) -> str:
    """A mask's address as seen from the flags file's folder; URLs and absolute paths stay as they are."""
    if not mask or not base or "://" in mask:
        return mask
    return f"{base}/{mask}" if "://" in base and not mask.startswith("/") else str(Path(base) / mask)


def meet(one: Box, two: Box) -> bool:
    """Whether two boxes share a voxel; quicker than building what they share."""
    # Neither is empty here. Spelt out, as it is several times as fast as (one & two).size, and asked 10^7 times.
    (z0, y0, x0), (z1, y1, x1) = one.start, one.stop
    (c0, b0, a0), (c1, b1, a1) = two.start, two.stop
    return z0 < c1 and c0 < z1 and y0 < b1 and b0 < y1 and x0 < a1 and a0 < x1
