"""Patch: what was made of a gap, judged, and put into the slab where it is fit."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline import blend
from pipeline.gap import F32, Batch, Gap, padded
from pipeline.outcome import Result, left_out
from pipeline.sight import Job, Mask, Scene


def keep(batch: Batch, made: tuple[F32, F32], scene: Scene, job: Job, result: Result) -> None:
    """Put what is fit of a batch into the result."""
    for gap, window, known, prediction, spread in zip(batch.gaps, batch.window, batch.known, *made, strict=True):
        why = _fault(gap, window, known, prediction) or (job.recipe.uncertainty and _unsure(gap, spread))
        if why:
            _quarantine(gap, scene, why, result)
        else:
            _paste(gap, scene, job, window, known, prediction, spread, result)


def _fault(gap: Gap, window: F32, known: Mask, prediction: F32) -> str:
    """Why a gap's prediction is not fit to be written, or nothing. Looks at the tile's whole window, never at the
    slab's part of it: the verdict must not depend on how the volume is cut."""
    first, last = (z - gap.window[0] for z in gap.targets)
    neighbours = [window[d] for d in (first - 1, last) if 0 <= d < len(window)]
    faults = (blend.fault(prediction[d], ~known[d], neighbours) for d in range(first, last))
    return next(filter(None, faults), "")


def _unsure(gap: Gap, spread: F32) -> str:
    """Why the spread of a gap's ensemble is not fit to be written, or nothing."""
    return blend.spread_fault(spread[gap.targets[0] - gap.window[0] : gap.targets[1] - gap.window[0]])


def _quarantine(gap: Gap, scene: Scene, why: str, result: Result) -> None:
    """Leave the tile's flagged voxels as they were, and say so."""
    write = scene.slab.write
    mine = gap.tile.with_z(max(gap.targets[0], write.start[0]), min(gap.targets[1], write.stop[0])) & write
    result.left.append(left_out(mine, int((scene.flag[scene.view(mine)] > 0).sum()), f"quarantined: {why}"))
    result.quarantined = result.quarantined or f"{mine}: {why}"


def _paste(
    gap: Gap, scene: Scene, job: Job, window: F32, known: Mask, prediction: F32, spread: F32, result: Result
) -> None:
    """Seat and cast the prediction, and put the tile's flagged voxels in their place, with the ensemble's spread."""
    write = scene.slab.write
    box = padded(gap.tile, job.needs).with_z(*gap.window)
    for z in range(max(gap.targets[0], write.start[0]), min(gap.targets[1], write.stop[0])):
        d = z - gap.window[0]
        core = gap.tile.with_z(z, z + 1) & write
        inside = core.within(box.with_z(z, z + 1))[1:]
        wanted = scene.flag[scene.view(core)][0]
        unknown = ~known[d]
        seated, band = blend.seat(prediction[d], window[d], unknown, job.recipe.feather_px)
        made = blend.to_dtype(seated[inside], *job.intensity, job.source.dtype)
        label = wanted.copy()  # flags are told in the words of labels: 1 a whole section, 2 a region
        if band.any():
            label[(wanted == 2) & band[inside]] = blend.FEATHER
        here, asked = core.within(write), wanted > 0
        if job.recipe.uncertainty:
            counts = blend.to_counts(spread[d][inside])
            label[blend.refused(counts, job.recipe.refuse_above)] = blend.UNCERTAIN
            np.copyto(result.counts[here][0], counts, where=asked)
        everywhere: Any = True if asked.all() else asked  # a plain copy is several times quicker
        np.copyto(result.sections[here][0], made, where=everywhere)
        np.copyto(result.labels[here][0], label, where=everywhere)


assert (blend.SYNTHESISED, blend.REPAIRED) == (1, 2)
