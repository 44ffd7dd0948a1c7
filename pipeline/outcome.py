"""Outcome: what a slab decides, voxel by voxel, before anything is written, and the chunks that it makes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline import blend
from pipeline.box import Box
from pipeline.plan import Slab
from pipeline.sight import U8, Job, Voxels
from pipeline.volume import voxels_sha256


@dataclass(frozen=True, slots=True)
class Content:
    """What one chunk of the overlay, the labels and the uncertainty is to hold. All (z, y, x) of the box."""

    box: Box
    sections: Voxels
    labels: U8
    counts: U8 | None  # None: no spread is asked for, or nothing was restored here

    def digests(self) -> list[str]:
        """What a record says of the chunk once it is written."""
        return [voxels_sha256(a) for a in (self.sections, self.labels, self.counts) if a is not None]


@dataclass
class Result:
    """Every voxel that a slab decides, before anything is written."""

    sections: Voxels  # (z, y, x) of the write box: restored where labelled synthetic, else the source
    labels: U8
    counts: U8  # spread of the ensemble as blend.to_counts has it: 0 where not restored, or where none was drawn
    inputs_sha256: str
    left: list[dict[str, Any]] = field(default_factory=list)  # flagged voxels that could not be restored, and why
    quarantined: str = ""


def chunks(slab: Slab, job: Job, result: Result) -> Iterator[Content]:
    """The overlay's chunks that hold labelled voxels. All others are not written."""
    for cell in slab.write.cells(job.overlay.grain):
        box = cell & slab.write
        here = box.within(slab.write)
        labels = result.labels[here]
        if labels.any():
            spread = job.uncertainty is not None and blend.synthetic(labels).any()
            yield Content(box, result.sections[here], labels, result.counts[here] if spread else None)


def left_out(box: Box, voxels: int, why: str) -> dict[str, Any]:
    return {"z": [box.start[0], box.stop[0]], "box": [box.start[1:], box.stop[1:]], "voxels": voxels, "why": why}


def grouped(left: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One entry a run of sections and reason, rather than one a tile."""
    groups: dict[tuple[int, int, str], dict[str, Any]] = {}
    for part in left:
        key = (*part["z"], part["why"])
        whole = groups.setdefault(key, {**part, "voxels": 0})
        (y0, x0), (y1, x1) = whole["box"]
        (v0, u0), (v1, u1) = part["box"]
        whole["box"] = [(min(y0, v0), min(x0, u0)), (max(y1, v1), max(x1, u1))]
        whole["voxels"] += part["voxels"]
    return list(groups.values())


def counted(labels: U8) -> dict[str, int]:
    """Voxels by label; once all are found there is no looking for the others."""
    found, left = {}, labels.size
    for label in range(1, 6):
        found[str(label)] = int(np.count_nonzero(labels == label)) if left else 0
        left -= found[str(label)]
    return found
