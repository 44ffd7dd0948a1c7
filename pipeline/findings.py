"""Findings: what a scan found in its tiles, as lines of a flags file."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from pipeline.box import ZYX
from pipeline.flagedit import SOURCE
from pipeline.volume import Volume

WHOLE = ("missing", "blank", "duplicate", "contrast", "blur", "noise", "misaligned")  # all tiles alike: one flag


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


def flag_of(row: dict[str, Any], full: Volume, step: Sequence[int], masks: str) -> dict[str, Any]:
    """A line of the flags file, in voxels of level 0. masks: as the file says it, see `beside`."""
    z, nm = row["z"], (full.voxel_nm[1] if full.voxel_nm else 0.0) * step[0]
    note = f"score {row['score']}: {_in_words(row['reason'], z, step[0], nm)}"
    flag = {"z_start": z, "z_stop": z + 1, "class": row["class"], "source": SOURCE, "note": note}
    if row["box"] is not None:
        y0, y1, x0, x1 = row["box"]
        flag |= {
            "y_start": y0 * step[0], "y_stop": min(y1 * step[0], full.shape[1]),
            "x_start": x0 * step[1], "x_stop": min(x1 * step[1], full.shape[2]),
        }  # fmt: skip
    if not row["masked"]:
        return flag
    return flag | {"mask": masks + (f" & {row['bit']}" if row["bit"] else "")}


def jumps(told: Sequence[Sequence[int]], step: Sequence[int], *, tiles: int) -> list[dict[str, Any]]:
    """From which sections on the stack lies elsewhere, and by how many voxels of the mended level: the medians of those
    tiles that see it. told: section, y, x as tiles tell them, px of the scan."""
    seen: dict[int, list[Sequence[int]]] = defaultdict(list)
    for z, *move in told:
        seen[z].append(move)
    found = [
        {"section": z, **{f"{axis}_px": round(median(m[i] for m in moves) * step[i]) for i, axis in enumerate("yx")},
         "tiles": len(moves), "of": tiles} for z, moves in sorted(seen.items())
    ]  # fmt: skip
    return [{**move, "far": _far(move)} for move in found]


def _far(move: dict[str, Any]) -> str:
    """How far a stack jumps, in words."""
    told = f"by {math.hypot(move['y_px'], move['x_px']):.0f} px (y {move['y_px']:+d}, x {move['x_px']:+d})"
    return told + (f" in {move['tiles']} of {move['of']} tiles" if move["of"] > 1 else "")


def beside(masks: str, base: str) -> str:
    """The address of the masks as a flags file in the folder `base` says it: they may move together."""
    if "://" in masks:
        return masks
    path = Path(masks).absolute()
    return str(path.relative_to(base) if path.is_relative_to(base) else path)


def _in_words(reason: str, z: int, step: int, nm: float) -> str:
    """Lengths of the scan as nm where the voxel size is known, else as pixels of level 0; sections by number."""
    def length(found: re.Match[str]) -> str:
        return f"{int(found[1]) * nm:.0f} nm" if nm else f"{int(found[1]) * step} px"

    return re.sub(r"{z([+-]\d+)}", lambda m: str(z + int(m[1])), re.sub(r"{px(\d+)}", length, reason))
