"""Scan: a pass over a volume that finds damage. Tiles of blocks of sections go through the crew; out come flags.

A cell is one tile of the scan over BLOCK sections; it is read with the sections around that its findings depend on, one
section at a time, and is made smaller at once: memory does not grow with the volume. Each cell writes the masks of its
own sections, whole chunks of them; nothing else is written before the flags file at the end.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline import flagfile, intensity
from pipeline.attempts import Attempts, OnEvent
from pipeline.box import ZYX, Box
from pipeline.crew import Crew
from pipeline.detect import detect, margin
from pipeline.detectors import shrink
from pipeline.errors import Interrupted, UsageError
from pipeline.plan import Slab
from pipeline.site import Site
from pipeline.thresholds import SCAN_NM, Thresholds
from pipeline.view import Finding
from pipeline.volume import Volume

TILE = 512  # px of the scan
BLOCK = 48  # sections of a cell: the sections around cost half as many again
WHOLE = ("missing", "blank", "duplicate", "contrast", "blur", "noise", "misaligned")  # all tiles alike: one flag
MOST_FACTOR = 16  # of pixels that are averaged, where a volume has no coarser level


@dataclass(frozen=True)
class Look:
    """How a volume is looked at; all that a worker must know."""

    uri: str
    level: int  # that is read
    factor: int  # of its pixels averaged to one of the scan
    black: float
    white: float
    masks: str  # where masks are written
    thresholds: Thresholds

    def open(self) -> Volume:
        return Volume.open(self.uri, level=self.level)


def scan(
    uri: str,
    out: str,
    *,
    level: int | None = None,
    sensitivity: str | float = "medium",
    masks: str | None = None,
    site: Site | None = None,
    tell: OnEvent = lambda _: None,
    stopped: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Find damage in a volume; write a flags file for its level 0, and masks beside it. What was found, as a document.

    level: of the pyramid, to read. Default: the coarsest one whose pixels are at most SCAN_NM wide; finer pixels are
    averaged to that. Raises UsageError where `out` or `masks` is there already, VolumeError, Interrupted.
    """
    thresholds, began = Thresholds.at(sensitivity), time.perf_counter()
    masks = masks or str(Path(out).with_suffix("")) + ".masks.zarr"
    for path in (out, masks):
        if Path(path).exists():
            why = "what it says would be lost"
            raise UsageError(f"{path} is there already", why=why, do="name another, or remove it")
    full, look = _looked_at(uri, level, masks, thresholds)
    source = look.open()
    shape = _scan_shape(source.shape, look.factor)
    Volume.create(masks, shape=shape, dtype=np.uint8, chunks=(1, min(TILE, shape[1]), min(TILE, shape[2])))
    site = site or Site.model_validate({"workers": 0})
    done: list[dict[str, Any]] = []
    cells, attempts = list(_cells(shape)), Attempts(site.attempts, tell)
    tell({"kind": "begin", "run": "scan", "slabs": len(cells), "todo": len(cells), "retired": 0})
    with Crew(site, tell, stopped) as crew:
        for answer in crew.work(cells, Task(look), attempts):
            tell({"kind": "slab", "slab": answer["slab"], "status": "done"})
            done.append(answer)
    attempts.finish(strict=True)
    if len(done) < len(cells):
        what, do = f"stopped with {len(done)} of {len(cells)} cells looked at", f"remove {masks} and scan again"
        raise Interrupted(what, why="asked to", do=do)
    return _written(out, full, look, shape, done, time.perf_counter() - began)


def _looked_at(uri: str, level: int | None, masks: str, thresholds: Thresholds) -> tuple[Volume, Look]:
    """The volume that is mended, and how it is looked at."""
    full = Volume.open(uri)
    levels = full.pyramid()
    if level is None:
        fit = [v for v in levels if v.shape[0] == full.shape[0] and (v.voxel_nm or (0, 1e9, 0))[1] <= SCAN_NM * 1.25]
        level = fit[-1].level if fit else 0
    source = Volume.open(uri, level=level)
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
    black, white = (0.0, 255.0) if source.dtype == np.uint8 else intensity.measure(source)
    return full, Look(uri, level, factor, black, white, masks, thresholds)


def _scan_shape(shape: ZYX, factor: int) -> ZYX:
    return shape[0], -(-shape[1] // factor), -(-shape[2] // factor)


def _cells(shape: ZYX) -> Iterator[Slab]:
    """Tiles of the scan over blocks of sections, as slabs: their write boxes are in pixels of the scan."""
    for cell in Box.of(shape).cells((BLOCK, TILE, TILE)):
        write = cell & Box.of(shape)
        yield Slab(hashlib.sha256(str(write).encode()).hexdigest()[:32], write, write)


@dataclass(frozen=True)
class Task:
    """Looks at one cell; travels to workers."""

    look: Look

    def __call__(self, row: list[Any]) -> dict[str, Any]:
        cv2.setNumThreads(1)  # the site says how many work at once
        cell = Slab.of(row)
        source, t = self.look.open(), self.look.thresholds
        box = cell.write
        deep = box.grow(margin(t), 0, 0) & Box.of(_scan_shape(source.shape, self.look.factor))
        answer: dict[str, Any] = {"slab": cell.id, "findings": [], "jumps": [], "bytes_read": 0}
        if min(box.shape[1:]) < t.least_px:
            return answer
        stack, absent = read(source, self.look, deep)
        found, jumps = detect(stack, absent, t)
        first, core = deep.start[0], range(box.start[0], box.stop[0])
        here = [replace(f, z=f.z + first) for f in found if f.z + first in core]
        _write_masks(self.look.masks, here, box)
        answer["findings"] = [_row(f, box) for f in here]
        answer["jumps"] = [[j.z + first, *j.move] for j in jumps if j.z + first in core]
        answer["bytes_read"] = source.bytes_read
        return answer


def read(source: Volume, look: Look, box: Box) -> tuple[NDArray[np.uint8], list[bool]]:
    """The sections of a box of the scan, 8 bit, and which of them the store does not hold. Read chunk by chunk in z."""
    (z0, y0, x0), (z1, y1, x1), f = box.start, box.stop, look.factor
    stack, absent, deep = np.empty(box.shape, np.uint8), list[bool](), source.chunks[0]
    for a in range(z0 // deep * deep, z1, deep):
        part = Box((max(a, z0), y0 * f, x0 * f), (min(a + deep, z1), y1 * f, x1 * f)) & Box.of(source.shape)
        gone = _gone(source, part)
        absent += gone
        voxels = source.read(part)
        for i in range(len(voxels)):
            grey = (shrink(voxels[i], f) - look.black) * np.float32(255 / (look.white - look.black))
            stack[part.start[0] + i - z0] = np.clip(np.round(grey), 0, 255)
    return stack, absent


def _gone(source: Volume, part: Box) -> list[bool]:
    """Which sections of a box are absent altogether."""
    area = dict.fromkeys(range(part.start[0], part.stop[0]), 0)
    for hole in source.absent(part):
        cut = hole & part
        for z in range(cut.start[0], cut.stop[0]):
            area[z] += cut.shape[1] * cut.shape[2]
    return [n == part.shape[1] * part.shape[2] for n in area.values()]


def _write_masks(uri: str, found: Sequence[Finding], box: Box) -> None:
    """The masks of each section of a cell, as one chunk; the numbers in it are those of the section's findings."""
    sections: dict[int, NDArray[np.uint8]] = defaultdict(lambda: np.zeros(box.shape[1:], np.uint8))
    for number, finding in enumerate(found, 1):
        if finding.mask is not None:
            sections[finding.z][finding.mask] = min(number, 255)
    if sections:
        masks = Volume.open(uri, writable=True)
        for z, mask in sections.items():
            masks.write(box.with_z(z, z + 1), mask[None])


def _row(finding: Finding, box: Box) -> dict[str, Any]:
    """A finding as it travels; the box (y0, y1, x0, x1) in pixels of the scan, of the mask where there is one."""
    y0, x0 = box.start[1:]
    part = [y0, box.stop[1], x0, box.stop[2]]
    if finding.mask is not None:
        ys, xs = np.flatnonzero(finding.mask.any(1)), np.flatnonzero(finding.mask.any(0))
        part = [y0 + ys[0], y0 + ys[-1] + 1, x0 + xs[0], x0 + xs[-1] + 1]
    return {
        "z": finding.z, "class": finding.kind, "score": round(finding.score, 2), "reason": finding.reason,
        "masked": finding.mask is not None, "box": [int(v) for v in part],
    }  # fmt: skip


# --- flags of all tiles


def joined(rows: Sequence[dict[str, Any]], shape: ZYX) -> list[dict[str, Any]]:
    """One row where all of a section is damaged alike: of every tile, or of those that are not background.

    shape: of the scan. Rows of parts of a section that is flagged as a whole are left out.
    """
    sections: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        sections[row["z"]].append(row)
    return [r for z in sorted(sections) for r in _section(sections[z], shape)]


def _section(rows: list[dict[str, Any]], shape: ZYX) -> list[dict[str, Any]]:
    whole: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if not row["masked"] and row["class"] in WHOLE:
            whole[row["class"]].append(row)
    for same in whole.values():
        covered = sum((r["box"][1] - r["box"][0]) * (r["box"][3] - r["box"][2]) for r in same)
        if covered == shape[1] * shape[2]:
            return [{**max(same, key=lambda r: float(r["score"])), "box": None}]
    return sorted(rows, key=lambda r: (r["box"], r["class"]))


def _written(
    out: str, full: Volume, look: Look, shape: ZYX, done: Sequence[dict[str, Any]], seconds: float
) -> dict[str, Any]:
    rows = joined([f for answer in done for f in answer["findings"]], shape)
    step = [round(n / s) for n, s in zip(full.shape[1:], shape[1:], strict=True)]
    flags = [_flag(row, full, step, look) for row in rows]
    jumps = sorted({j[0] for answer in done for j in answer["jumps"]})
    text = flagfile.dump(flags)
    notes = "".join(f"# from section {z} on the stack lies elsewhere: align it; nothing to restore\n" for z in jumps)
    Path(out).write_text(text + notes)
    counts: dict[str, int] = defaultdict(int)
    for flag in flags:
        counts[str(flag["class"])] += 1
    return {
        "flags": out, "masks": look.masks, "volume": look.uri, "level": look.level, "scan_shape": list(shape),
        "found": len(flags), "classes": dict(sorted(counts.items())), "jumps": jumps, "cells": len(done),
        "bytes_read": sum(answer["bytes_read"] for answer in done), "seconds": round(seconds, 2),
        "rows": flags,
    }  # fmt: skip


def _flag(row: dict[str, Any], full: Volume, step: Sequence[int], look: Look) -> dict[str, Any]:
    """A line of the flags file, in voxels of level 0."""
    z, nm = row["z"], (full.voxel_nm[1] if full.voxel_nm else 0.0) * step[0]
    note = f"score {row['score']}: {_in_words(row['reason'], z, step[0], nm)}"
    flag = {"z_start": z, "z_stop": z + 1, "class": row["class"], "source": "zmend scan", "note": note}
    if row["box"] is not None:
        y0, y1, x0, x1 = row["box"]
        flag |= {
            "y_start": y0 * step[0], "y_stop": min(y1 * step[0], full.shape[1]),
            "x_start": x0 * step[1], "x_stop": min(x1 * step[1], full.shape[2]),
        }  # fmt: skip
    return flag | ({"mask": _beside(look.masks)} if row["masked"] else {})


def _beside(path: str) -> str:
    """The address of the masks as the flags file says it: absolute, so that it may be moved."""
    return path if "://" in path else str(Path(path).absolute())


def _in_words(reason: str, z: int, step: int, nm: float) -> str:
    """Lengths of the scan as nm where the voxel size is known, else as pixels of level 0; sections by number."""
    def length(found: re.Match[str]) -> str:
        return f"{int(found[1]) * nm:.0f} nm" if nm else f"{int(found[1]) * step} px"

    return re.sub(r"{z([+-]\d+)}", lambda m: str(z + int(m[1])), re.sub(r"{px(\d+)}", length, reason))
