"""Mask file: the array beside a flags file into which a scan writes its masks, one chunk a section and tile."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.box import ZYX, Box
from pipeline.errors import UsageError
from pipeline.files import Files
from pipeline.locate import node_at
from pipeline.look import Look
from pipeline.view import Finding
from pipeline.volume import Volume

TILE = 512  # px of the scan


def is_there(masks: str) -> bool:
    """Whether an array, or anything else, lies at that address."""
    files = Files(masks)
    return node_at(files) is not None or bool(files.names())


def open_masks(masks: str, shape: ZYX, full: Volume) -> Volume:
    """The masks, as long as the volume is now. Raises UsageError where they are of another level."""
    if not is_there(masks):
        nm = full.voxel_nm and tuple(
            v * round(n / s) for v, n, s in zip(full.voxel_nm, full.shape, shape, strict=True)
        )
        edges = (1, min(TILE, shape[1]), min(TILE, shape[2]))
        return Volume.create(masks, shape=shape, dtype=np.uint8, chunks=edges, voxel_nm=nm or None)  # type: ignore[arg-type]
    there = Volume.open(masks, writable=True)
    if there.shape[1:] != shape[1:]:
        raise UsageError(
            f"the masks are {there.shape[1:]} px wide, and the scan is {shape[1:]}",
            where=masks,
            why="they were written for another level, or for voxels of another size",
            do="scan with the --level and the --voxel-nm of then, or name another --out",
        )
    if there.shape[0] > shape[0]:  # what comes back there later is looked at anew
        for cell in [cell for cell, _ in there.objects() if cell[0] >= shape[0]]:
            there.erase(there.box(cell))
    if there.shape[0] != shape[0]:
        there.resize(shape, fewer=True)
    return there


def lost(masks: Volume, rows: Iterable[Mapping[str, Any]]) -> set[int]:
    """Sections whose findings `rows` have a mask that is not there: somebody removed it, or it lies elsewhere."""
    wanted = [(r["z"], r["box"][0] // TILE, r["box"][2] // TILE) for r in rows if r["masked"]]
    there = {cell for cell, _ in masks.objects()} if wanted else set()
    return {cell[0] for cell in wanted if cell not in there}


def bits(found: Iterable[Finding]) -> list[int]:
    """The bit of each finding of a cell in the mask of its section, so that one can be rejected and another not; 0
    where it needs none, being alone or without a mask. From the eighth on they share one."""
    found = list(found)
    masked = Counter(f.z for f in found if f.mask is not None)
    numbers: Counter[int] = Counter()
    given = []
    for finding in found:
        several = finding.mask is not None and masked[finding.z] > 1
        given.append(1 << min(numbers[finding.z], 7) if several else 0)
        numbers[finding.z] += several
    return given


def write_masks(masks: Volume, look: Look, found: Sequence[Finding], box: Box) -> None:
    """The masks of each section of a cell, as one chunk.

    What is there and right is not written again, for its time tells whether a slab must be done again.
    """
    sections: dict[int, NDArray[np.uint8]] = {}
    for finding, bit in zip(found, bits(found), strict=True):
        if finding.mask is not None:
            mask = sections.setdefault(finding.z, np.zeros(box.shape[1:], np.uint8))
            mask[finding.mask] |= bit or 1
    for z in range(box.start[0], box.stop[0]):
        one = box.with_z(z, z + 1)
        if z in look.held and not (z in look.lost and masks.absent(one)):
            continue
        if z not in sections:
            masks.erase(one)
        elif not np.array_equal(masks.read(one)[0], sections[z]):
            masks.write(one, sections[z][None])
