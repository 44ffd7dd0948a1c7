"""Scan: a pass over a volume that finds damage. Cells go through the crew; out come flags.

What each cell has found is noted at once (`looked`); the flags file is renewed last (`flagedit`).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import intensity
from pipeline.attempts import Attempts, OnEvent
from pipeline.box import ZYX
from pipeline.cell import Task, cells
from pipeline.cluster import threads_per_worker
from pipeline.crew import Crew
from pipeline.detect import margin
from pipeline.errors import Interrupted, UsageError
from pipeline.files import Files, on_disk
from pipeline.findings import beside, flag_of, joined, jumps
from pipeline.flagedit import beyond, held, masked, renewed
from pipeline.flagfile import folder, table
from pipeline.flags import address, resolve
from pipeline.look import Look, scan_shape
from pipeline.looked import Looked, sights
from pipeline.maskfile import is_there, lost, open_masks
from pipeline.plan import Slab
from pipeline.site import Site
from pipeline.threads import CORES
from pipeline.thresholds import SCAN_NM, Thresholds
from pipeline.volume import Volume

LITTLE = 2 << 30  # voxels that this process has seen before workers of its own would have begun
MOST_FACTOR = 16  # of pixels that are averaged, where a volume has no coarser level


def scan(
    uri: str,
    out: str,
    *,
    level: int | None = None,
    mended: int = 0,
    voxel_nm: Sequence[float] | None = None,
    sensitivity: str | float = "medium",
    masks: str | None = None,
    site: Site | None = None,
    tell: OnEvent = lambda _: None,
    stopped: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Find damage in a volume; write a flags file for it, and masks beside it. What was found, as a document.

    Where a scan wrote that flags file before, only sections that are new, or whose chunks or whose neighbours' chunks
    are, are looked at; what people have changed in the file stays. A scan that was interrupted goes on.

    level: of the pyramid, to read. Default: the coarsest one whose pixels are at most SCAN_NM wide; finer pixels are
    averaged to that. mended: the level whose voxels the flags speak of. voxel_nm: of that level, where it does not say;
    default: what an earlier scan was told.
    Raises UsageError where `out` is no path, or it or `masks` is there already and no scan's, VolumeError, Interrupted.
    """
    on_disk(out, "--out")
    thresholds, began = Thresholds.at(sensitivity), time.perf_counter()
    stem = str(Path(out).with_suffix(""))
    masks, looked = masks or f"{stem}.masks.zarr", Looked.read(Path(f"{stem}.scan.jsonl"))
    own = Volume.open(uri, level=mended).identity()  # without what it was told: it is the same volume
    _check_place(out, masks, looked, uri, mended, own)
    looked.voxel_nm = list(voxel_nm) if voxel_nm else looked.voxel_nm
    full = Volume.open(uri, level=mended, voxel_nm=looked.voxel_nm)
    look = _looked_at(full, level, masks, thresholds, looked)
    source = look.open()
    shape = scan_shape(source.shape, look.factor)
    if min(shape[1:]) < thresholds.least_px:
        raise UsageError(
            f"the volume is {min(shape[1:])} px wide at the size of the scan",
            where=uri,
            why=f"so little tells nothing: a scan needs {thresholds.least_px} px of about {SCAN_NM:.0f} nm",
            do="list its damage by hand in a flags file, or scan the whole that it was cut from",
        )
    text = _text(out, full, looked)
    array = open_masks(masks, shape, full)
    if not looked.exists:
        looked.volume, looked.window = own, (look.black, look.white)
        looked.put()
    theirs = frozenset(held(text, looked.flags)) if text else frozenset()
    gone = lost(array, looked.rows)
    look = replace(look, held=theirs, lost=frozenset(gone))
    today = sights(source, look.key, margin(thresholds))
    stale = sorted({*looked.stale(today), *(z for z in gone if z < len(today))})
    todo = list(cells(shape, stale, today, thresholds.least_px))
    known = {c.id for c in todo if c.id in looked.cells and not lost(array, looked.cells[c.id]["findings"])}
    done = [looked.cells[c.id] for c in todo if c.id in known]
    _work(look, [c for c in todo if c.id not in known], done, looked, site, tell, stopped, len(todo))
    _refuse_lost(text, theirs & lost(array, (r for r in looked.rows if r["z"] in gone)), masks, out)
    looked.settle(today, stale, done)
    found = _written(out, full, look, shape, looked)
    seconds = round(time.perf_counter() - began, 2)
    spent = {"cells": len(done), "bytes_read": sum(answer["bytes_read"] for answer in done), "seconds": seconds}
    return {**found, "sections": len(today), "looked_at": len(stale), **spent}


def _work(
    look: Look, todo: list[Slab], done: list[dict[str, Any]], looked: Looked, site: Site | None, tell: OnEvent,
    stopped: Callable[[], bool], of: int,
) -> None:
    """Look at the cells; each answer is noted at once."""
    asked = site or Site.model_validate({"workers": 0})
    site = _enough(asked, sum(c.write.size for c in todo) * look.factor**2)
    own = site.threads or CORES // max(1, len(todo))  # several cells are looked at at once, here as on workers
    look = replace(look, threads=threads_per_worker(site) if site.workers else own)
    attempts = Attempts(site.attempts, tell)
    spared = asked.workers - site.workers
    tell({"kind": "begin", "run": "scan", "slabs": of, "todo": len(todo), "retired": 0, "spared": spared})
    with Crew(site, tell, stopped) as crew:
        for answer in crew.work(todo, Task(look), attempts) if todo else ():
            tell({"kind": "slab", "slab": answer["slab"], "status": "done"})
            looked.note(answer)
            done.append(answer)
    attempts.finish(strict=True)
    if len(done) < of:
        what = f"stopped with {len(done)} of {of} cells looked at"
        raise Interrupted(what, why="asked to", do="scan again: it goes on where it stopped")


def _enough(site: Site, voxels: int) -> Site:
    """The site; or this process alone, where workers of this host would take longer to start than it to look."""
    little = site.kind == "local" and site.workers > 0 and voxels <= LITTLE
    return site.model_copy(update={"workers": 0}) if little else site


def _check_place(out: str, masks: str, looked: Looked, uri: str, level: int, identity: str) -> None:
    """Raises UsageError where what lies there is not an earlier scan's of this volume."""
    if looked.exists and looked.volume != identity:
        raise UsageError(
            f"{out} is of another volume",
            where=str(looked.path),
            why=f"an earlier scan wrote it, and not of {uri}, level {level}",
            do="name another --out",
        )
    for path, there in () if looked.exists else ((out, Path(out).exists()), (masks, is_there(masks))):
        if there:
            why = "what it says would be lost, and no scan has left a note beside it that it may be renewed"
            raise UsageError(f"{path} is there already", why=why, do="name another, or remove it")


def _refuse_lost(text: str, sections: set[int] | frozenset[int], masks: str, out: str) -> None:
    """Raises UsageError where a flag that people rely on has lost its mask, and nothing is found there any more."""
    base = folder(out)
    here = {z for z, mask in masked(text) if Files(resolve(address(mask), base)).uri == Files(masks).uri}
    if relied := sorted(sections & here):
        raise UsageError(
            f"the masks of section {', '.join(map(str, relied))} are lost",
            where=masks,
            why=f"people have changed these flags in {out}, and nothing is found there now",
            do="bring the masks back, or remove these lines, or give them a box and no mask",
        )


def _looked_at(full: Volume, level: int | None, masks: str, thresholds: Thresholds, looked: Looked) -> Look:
    """How the volume that is mended is looked at."""
    levels = full.pyramid()
    if level is None:
        fit = [v for v in levels if v.shape[0] == full.shape[0] and (v.voxel_nm or (0, 1e9, 0))[1] <= SCAN_NM * 1.25]
        level = fit[-1].level if fit else full.level
    source = full if level == full.level else Volume.open(full.uri, level=level)
    if source.shape[0] != full.shape[0]:
        raise UsageError(
            f"level {level} has {source.shape[0]} sections, the volume {full.shape[0]}",
            why="sections were averaged there: damage to one can no longer be told from its neighbours",
            do="scan a finer --level",
        )
    nm = source.voxel_nm[1] if source.voxel_nm else SCAN_NM
    factor = 1
    while factor < MOST_FACTOR and nm * factor * 2 <= SCAN_NM * 1.25:
        factor *= 2
    grey = (0.0, 255.0) if source.dtype == np.uint8 else looked.window or intensity.measure(source)
    return Look(full.uri, level, factor, *grey, masks, thresholds)


def _written(out: str, full: Volume, look: Look, shape: ZYX, looked: Looked) -> dict[str, Any]:
    """Renew the flags file, then the note of what was looked at."""
    step = [round(n / s) for n, s in zip(full.shape[1:], shape[1:], strict=True)]
    said = beside(look.masks, folder(out))
    flags = [flag_of(row, full, step, said) for row in joined(looked.rows, shape)]
    tiles = sum(1 for _ in cells(shape, [0], [""], look.thresholds.least_px))
    moves = jumps(looked.jumps, step, tiles=tiles)
    text = _text(out, full, looked)
    after = renewed(text, looked.flags, flags, {m["section"]: f", {m['far']}" for m in moves})
    if after.text != text:
        _put(Path(out), after.text)
    looked.flags = flags
    looked.put()
    classes = Counter(str(flag["class"]) for flag in flags)
    return {
        "flags": out, "masks": look.masks, "volume": look.uri, "level": look.level, "scan_shape": list(shape),
        "voxel_nm": full.voxel_nm and list(full.voxel_nm),
        "found": len(flags), "added": len(after.new), "gone": after.gone, "held": after.held,
        "classes": dict(sorted(classes.items())), "jumps": [m["section"] for m in moves], "moves": moves,
        "rows": flags, "new": after.new,
    }  # fmt: skip


def _text(out: str, full: Volume, looked: Looked) -> str:
    """What the flags file says now; empty where there is none. Raises FlagError where it is no table, and leaves it."""
    passed = partial(beyond, before=looked.flags, depth=full.shape[0])  # the volume has shrunk: they are dropped
    return table(out, shape=full.shape, passed=passed) if Path(out).exists() else ""


def _put(path: Path, text: str) -> None:
    """Whole or not at all."""
    aside = path.with_name(f".{path.name}.partial")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)
