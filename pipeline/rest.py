"""Rest: the chunks that a merge does not touch: linked or copied as they lie, and removed where the source has none."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from pipeline.clone import Clone, bring
from pipeline.failpoint import reach
from pipeline.journal import Fence, manifest_line
from pipeline.objects import Stored
from pipeline.pyramid import Level
from pipeline.target import Target
from pipeline.threads import as_done

BATCH = 64  # links per task: a link is cheaper than handing it to a thread


def bring_rest(
    target: Target, clone: Clone, pool: ThreadPoolExecutor, tally: Counter[str], fence: Fence, anew: bool
) -> str:
    """Link or copy every chunk that is not touched, remove what the source lacks; returns the source's manifest."""
    level, digest, kept = target.level, hashlib.sha256(), 0

    def untouched() -> Iterator[Stored]:
        nonlocal kept
        for cell, stored in level.source.objects():
            digest.update(manifest_line(stored))
            if cell not in target.touched:
                kept += 1
                yield stored

    rest = untouched()
    size = BATCH if level.out.files.local is not None else 1
    batches = iter(lambda: list(islice(rest, size)), [])
    for counts in as_done(pool, lambda batch: _clone_batch(level, batch, clone, fence, anew), batches):
        tally.update(counts)
    fence()
    _sweep(target, kept)
    return digest.hexdigest()


def _clone_batch(level: Level, batch: list[Stored], clone: Clone, fence: Fence, anew: bool) -> Counter[str]:
    counts: Counter[str] = Counter()
    reach("merge", f"{len(batch)} chunks of level {level.out.level}")
    fence()
    for stored, how in bring(level.source.files, level.out.files, batch, clone, anew=anew):
        counts[how] += 1
        counts["bytes"] += stored.size if how == "copied" else 0
    return counts


def _sweep(target: Target, kept: int) -> None:
    """Remove what killed writers left, and chunks that neither the source has nor the overlay touches."""
    source, files, mine = target.level.source, target.out.files, 0
    for stored in files.walk():
        if stored.key.endswith(".partial"):
            files.delete(stored.key)
        cell = target.out.cell(stored.key)
        mine += cell is not None and cell not in target.touched
    if mine == kept:
        return
    for cell, stored in target.out.objects():
        if cell not in target.touched and source.files.stat(source.key(cell)) is None:
            files.delete(stored.key)


def erase_stale(target: Target) -> None:
    """Remove coarser label chunks under which no label is left, and what killed writers left."""
    target.out.files.sweep()
    for cell, stored in target.out.objects():
        if cell not in target.touched:
            target.out.files.delete(stored.key)
