"""Merge: blend the overlay back into a full volume. Touched chunks are rewritten once, all others linked or copied.

A merged voxel is the overlay's where its label is 1, 2, 3 or 5, and the source's bit for bit everywhere else. Coarser
levels change only where a voxel's footprint holds a changed voxel. Nothing is written in place: a chunk that is a hard
link to the source never changes the source. Killed anywhere and run again, the bytes are the same. Of a source that is
not Zarr all chunks count as touched: they become Zarr by being rewritten.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

from pipeline.clone import Clone
from pipeline.cost import MERGING
from pipeline.errors import VolumeError
from pipeline.files import PROBES, Files
from pipeline.foundation import adopt
from pipeline.journal import Fence, Journal
from pipeline.pyramid import open_levels, step_between
from pipeline.rest import bring_rest, erase_stale
from pipeline.rewrite import Progress, Work
from pipeline.store import open_labels, open_overlay
from pipeline.target import targets_of, touch_all
from pipeline.volume import Volume


@dataclass(frozen=True, slots=True)
class Merged:
    """What a merge did. Counts are over all levels; voxels are those of the mended level, labelled as restored."""

    chunks_rewritten: int
    chunks_linked: int
    chunks_copied: int  # reflinked ones included
    voxels_changed: int
    bytes_read: int
    bytes_written: int
    levels: int


def merge(
    source: Volume,
    out: str,
    *,
    clone: Clone = "auto",
    progress: Progress | None = None,
    threads: int = MERGING,
    fence: Fence = lambda: None,
    anew: bool = False,
) -> Merged:
    """Bring the merged volume in `out` up to date with its overlay, labels and source.

    clone: how untouched chunks come over: "link" hard-links, "copy" copies, "auto" takes the first that works of link,
    reflink, copy. progress: called with (touched chunks done, of). threads: reading and writing at once. fence: called
    before whatever is written; raises where the store is another run's by now. anew: nothing that is there is believed,
    all chunks are written or brought again.
    Raises VolumeError (store of another source, levels that are not whole multiples, links that do not work) and
    MissingChunkError (labels that tell of restored voxels which the overlay lacks), both before any chunk is written.
    """
    fence()
    check_mergeable(source, clone)
    adopt(out, source, mode="volume")
    levels = open_levels(source, out)
    targets = list(targets_of(levels, out))
    work = Work(open_overlay(out), open_labels(out), targets, progress or (lambda done, of: None), fence)
    volumes = [work.overlay, work.labels, *(v.source for v in levels), *(t.out for t in targets)]
    read, written = _moved(volumes)
    manifests, tally, local = [], work.tally, Files(out).local is not None
    with ThreadPoolExecutor(threads if local else max(threads, PROBES)) as pool:
        work.find_touched(pool)
        for target in targets if source.foreign else ():
            touch_all(target)
        journal = Journal(out, targets, fence, anew)
        journal.put()  # from here to the end the store says that it is not merged
        for target in targets:
            work.rewrite(target, pool, threads, journal)
            if target.is_image:
                manifests.append(bring_rest(target, clone, pool, tally, fence, anew))
            else:
                fence()
                erase_stale(target)
    if (tally["linked"] or tally["copied"]) and local:
        os.sync()  # they are not synced one by one; the journal must not be ahead of them
    journal.manifest = manifests[0]
    journal.put()
    now_read, now_written = _moved(volumes)
    return Merged(
        chunks_rewritten=tally["rewritten"],
        chunks_linked=tally["linked"],
        chunks_copied=tally["copied"],
        voxels_changed=tally["changed"],
        bytes_read=now_read - read + tally["bytes"],
        bytes_written=now_written - written + tally["bytes"],
        levels=len(levels),
    )


def check_mergeable(source: Volume, clone: Clone = "auto") -> None:
    """Raises VolumeError where no merged volume can be made: better said before anything is restored.

    That is of a source whose coarser levels are not whole multiples, and links to chunks that are not Zarr.
    """
    if source.foreign and clone == "link":
        raise VolumeError(
            f"no links can be made to a source that is {source.foreign}",
            where=source.uri,
            why="its chunks are not Zarr: a merged volume holds all of them, written anew",
            do="set  output: {clone: auto}, or  output: {mode: overlay}, which needs no copy of the source",
        )
    levels = source.pyramid()
    for fine, coarse in pairwise(levels):
        step_between(fine, coarse)


def _moved(volumes: Sequence[Volume]) -> tuple[int, int]:
    return sum(v.bytes_read for v in volumes), sum(v.bytes_written for v in volumes)
