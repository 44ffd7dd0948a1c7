"""Sight: what all slabs of a run share (the job), and what one of them sees of the volume and its flags."""

from __future__ import annotations

import hashlib
import threading
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pipeline.box import Box
from pipeline.failpoint import reach
from pipeline.flags import Flags, MaskReader, flagged
from pipeline.lattice import Geometry
from pipeline.ledger import Ledger
from pipeline.plan import Slab
from pipeline.recipe import Recipe
from pipeline.restorer import Needs, Restorer
from pipeline.shelf import Shelf
from pipeline.volume import Volume

U8: TypeAlias = NDArray[np.uint8]
Mask: TypeAlias = NDArray[np.bool_]
Voxels: TypeAlias = NDArray[Any]


@dataclass(frozen=True)
class Job:
    """What all slabs of a run share. Opened once in each worker."""

    source: Volume
    overlay: Volume
    labels: Volume
    ledger: Ledger
    flags: Flags
    read_mask: MaskReader
    restorer: Restorer
    needs: Needs
    recipe: Recipe
    bound: dict[str, Any]  # that every record carries: digests of plan, recipe, weights, flags; seed, attempt
    uncertainty: Volume | None = None  # where the spread goes, if the recipe asks for it
    absent_is_unknown: bool = True
    shelf: Shelf | None = None  # what slabs share of what they read, if anything
    # One computation at a time in a process, so that reading and writing of other slabs overlap with it.
    compute_lock: AbstractContextManager[Any] = field(default_factory=threading.Lock)

    @property
    def intensity(self) -> tuple[float, float]:
        """The values that are 0 and 1 for the restorer."""
        info = np.iinfo(self.source.dtype)
        return self.recipe.intensity or (float(info.min), float(info.max))


@dataclass(frozen=True)
class Scene:
    """What a slab sees of its read box: voxels, flags (0, 1 whole section, 2 region) and where chunks are absent."""

    slab: Slab
    data: Voxels
    flag: U8
    absent: Mask | None  # None: no chunk is

    @property
    def inputs_sha256(self) -> str:
        """Of everything that was read. Part by part: a slab's voxels are hundreds of megabytes, not to be copied."""
        seen = hashlib.sha256()
        holes = np.zeros(-(-self.flag.size // 8), np.uint8) if self.absent is None else np.packbits(self.absent)
        for part in (self.data, self.flag, holes):
            seen.update(np.ascontiguousarray(part).data)
        return seen.hexdigest()

    def known(self, box: Box) -> Mask:
        """Where voxels of the part of `box` that lies in the read box count: an absent chunk that nobody flagged stays
        as it is, but vouches for nothing."""
        here = self.view(box)
        known: Mask = self.flag[here] == 0
        if self.absent is not None:
            known &= ~self.absent[here]
        return known

    def view(self, box: Box) -> tuple[slice, slice, slice]:
        """Slices of the part of `box` that lies in the read box."""
        return (box & self.slab.read).within(self.slab.read)


def look(slab: Slab, job: Job) -> Scene:
    """Read the slab's read box, and what the flags say of it."""
    reach("read", slab.id)
    data = _read(slab, job)
    flag = flagged(job.flags.touching(slab.read), slab.read, job.read_mask)
    return Scene(slab, data, flag, _absent(slab.read, job))


def _read(slab: Slab, job: Job) -> Voxels:
    if job.shelf is None:
        return job.source.read(slab.read)
    own = Geometry(job.source.shape, (1, 1, 1), job.needs).own_box(slab.write)
    return job.shelf.read(slab.read, own, _wanted_besides(slab, job))


def _wanted_besides(slab: Slab, job: Job) -> set[int]:
    """Sections that slabs of other sections want of the chunks that this one reads: a hint, that may well be wrong."""
    context, (first, *_), (last, *_) = job.needs.context, slab.write.start, slab.write.stop
    layers = slab.read.aligned((job.source.chunks[0], 1, 1)) & Box.of(job.source.shape)
    near = (f.box for f in job.flags.touching(layers.grow(context, 0, 0)) if f.restorable)
    others = [(b.start[0], b.stop[0]) for b in near if b.start[0] < first or b.stop[0] > last]
    seen = ((max(a - context, layers.start[0]), min(b + context, layers.stop[0])) for a, b in others)
    return {z for a, b in seen for z in range(a, b)}


def _absent(box: Box, job: Job) -> Mask | None:
    holes = job.source.absent(box) if job.absent_is_unknown else ()
    if not holes:
        return None
    mask = np.zeros(box.shape, bool)
    for hole in holes:
        mask[(hole & box).within(box)] = True
    return mask
