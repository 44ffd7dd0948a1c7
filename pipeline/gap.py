"""Gap: in one tile, a run of sections with unknown voxels between clean ones; and what the restorer is shown of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pipeline import blend
from pipeline.box import Box
from pipeline.lattice import Geometry
from pipeline.outcome import Result, left_out
from pipeline.plan import refusal, runs
from pipeline.restorer import Needs
from pipeline.sight import Job, Mask, Scene

F32: TypeAlias = NDArray[np.float32]
I64: TypeAlias = NDArray[np.int64]
ABSENT = (
    "a neighbouring section has no chunk here in the source, so nothing vouches for its voxels"
    " (if chunks are absent on purpose, as around the tissue, set volume.missing_chunks: background)"
)


@dataclass(frozen=True, slots=True)
class Gap:
    """A run of sections with unknown voxels in one tile, between clean ones. Sections count from the volume's first."""

    tile: Box  # the core, one cell of the global grid
    targets: tuple[int, int]
    window: tuple[int, int]  # targets and the clean sections used


@dataclass(frozen=True, slots=True)
class Batch:
    """Gaps of one shape, and what the restorer sees of them: made while it is busy with those before."""

    gaps: Sequence[Gap]
    window: F32  # (B, D, H, W)
    known: Mask  # (B, D, H, W)
    origin: I64  # (B, 3)

    @property
    def targets(self) -> tuple[int, int]:
        """The sections to restore, along D."""
        first, last = (z - self.gaps[0].window[0] for z in self.gaps[0].targets)
        return first, last


def batched(scene: Scene, job: Job, result: Result) -> list[list[Gap]]:
    """The gaps of a scene in the order and in the batches in which they are restored."""
    groups: dict[tuple[int, int, int], list[Gap]] = defaultdict(list)
    for gap in _gaps(scene, job, result):
        before = gap.targets[0] - gap.window[0]
        groups[before, gap.targets[1] - gap.targets[0], gap.window[1] - gap.targets[1]].append(gap)
    size = job.recipe.batch
    return [gaps[i : i + size] for _, gaps in sorted(groups.items()) for i in range(0, len(gaps), size)]


def shown(gaps: Sequence[Gap], scene: Scene, job: Job) -> Batch:
    """What the restorer sees of them."""
    windows, known = zip(*(_window(g, scene, job) for g in gaps), strict=True)
    origin = np.array([_origin(g, job.needs) for g in gaps], np.int64)
    return Batch(gaps, _stacked(list(windows)), _stacked(list(known)), origin)


def _stacked(parts: list[NDArray[Any]]) -> NDArray[Any]:
    """One array of them all; of a single one a view."""
    return np.stack(parts) if len(parts) > 1 else parts[0][None]


def _gaps(scene: Scene, job: Job, result: Result) -> Iterator[Gap]:
    """The gaps of every tile that has flagged voxels in the write box; notes those that cannot be restored."""
    write, needs = scene.slab.write, job.needs
    for tile in write.cells((write.stop[0], needs.tile, needs.tile)):
        core = tile.with_z(write.start[0], write.stop[0]) & write
        if not (scene.flag[scene.view(core)] > 0).any():
            continue
        flagged, clean = _sections(scene, padded(tile, needs))
        for run in runs(flagged):
            mine = core.with_z(max(run[0], write.start[0]), min(run[1], write.stop[0]))
            wanted = int(np.count_nonzero(scene.flag[scene.view(mine)])) if mine.size else 0
            if not wanted:
                continue
            window = _with_context(run, clean, needs.context)
            why = refusal(run, Geometry(job.source.shape, (1, 1, 1), needs)) or _blind(run, window, needs)
            if why:
                result.left.append(left_out(mine, wanted, why))
            else:
                yield Gap(tile, run, window)


def _sections(scene: Scene, padded: Box) -> tuple[list[int], set[int]]:
    """The sections of the read box with flagged voxels in a tile's window, and those that are clean throughout it.

    Absent chunks make a section neither: it is no gap to restore, and it vouches for nothing. Counting them as gaps
    would let the result depend on how far the read box happens to reach.
    """
    first, last = scene.slab.read.start[0], scene.slab.read.stop[0]
    view = scene.view(padded.with_z(first, last))
    flagged = (scene.flag[view] > 0).any(axis=(1, 2))  # (sections,)
    unclean = flagged if scene.absent is None else flagged | scene.absent[view].any(axis=(1, 2))
    return [first + int(i) for i in np.flatnonzero(flagged)], {first + int(i) for i in np.flatnonzero(~unclean)}


def _with_context(run: tuple[int, int], clean: set[int], context: int) -> tuple[int, int]:
    """As many clean sections on each side as there are without a break, up to `context`."""
    first, last = run
    while first - 1 in clean and run[0] - first < context:
        first -= 1
    while last in clean and last - run[1] < context:
        last += 1
    return first, last


def _blind(run: tuple[int, int], window: tuple[int, int], needs: Needs) -> str:
    """Why a gap has too few clean neighbours, or nothing."""
    sides = (window[0] < run[0]) + (window[1] > run[1])
    return "" if sides == 2 or (sides == 1 and needs.one_sided) else ABSENT


def padded(tile: Box, needs: Needs) -> Box:
    return tile.grow(0, needs.halo, needs.halo)


def _origin(gap: Gap, needs: Needs) -> tuple[int, int, int]:
    return gap.window[0], gap.tile.start[1] - needs.halo, gap.tile.start[2] - needs.halo


def _window(gap: Gap, scene: Scene, job: Job) -> tuple[F32, Mask]:
    """What the restorer sees of one gap: (D, H, W) voxels in [0, 1] and where they are known.

    Beyond the edge of the volume the tissue is mirrored. Only what lies in the tile's own window is mirrored,
    never what the slab happens to hold besides: so the result does not depend on how the volume is cut.
    """
    box = padded(gap.tile, job.needs).with_z(*gap.window)
    inner = box & Box.of(job.source.shape)
    margin = [(a - b, d - c) for b, a, c, d in zip(box.start, inner.start, inner.stop, box.stop, strict=True)]
    voxels = scene.data[scene.view(box)]
    known = scene.known(box)
    known[: gap.targets[0] - gap.window[0]] = True  # clean by construction
    known[gap.targets[1] - gap.window[0] :] = True
    if any(map(any, margin)):
        voxels, known = (np.pad(a, margin, mode="symmetric") for a in (voxels, known))
    return blend.to_unit(voxels, *job.intensity), known
