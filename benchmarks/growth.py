"""What a run costs as the volume grows (the same two sections damaged: it should be flat), and as the damage grows (linear).

The volume is as deep as is asked for, its sections hard links to a few that were written: the store looks like any other.
A merged output has every chunk of its source, by name: each link takes its time, which is told by itself.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks import tissue
from benchmarks.end_to_end import OURS, TINY, TINY_FLAGGED
from benchmarks.meter import child, markdown, measured, medians

EDGE = int(os.environ.get("GROWTH_EDGE", "1024"))
DEPTHS = (100, 400, 1600, 6400)
DAMAGE = (2, 8, 32, 64)  # sections, of a volume DEPTHS[1] deep
ROUNDS = int(os.environ.get("GROWTH_ROUNDS", "2"))
WAYS = ("zmend overlay", "zmend")
TOLD = ("wall_s", "cpu_s", "read_mb", "written_mb", "peak_mb")


def measure() -> dict[str, Any]:
    """Both, overlay and merged."""
    return {
        "edge": EDGE,
        "tissue": tissue.what(),
        "rounds": ROUNDS,
        "size": [_row(depth, (24, 72)) for depth in DEPTHS],
        "damage": [_row(DEPTHS[1], tuple(range(4, 4 + 6 * n, 6))) for n in DAMAGE],
    }


def _row(depth: int, flagged: tuple[int, ...]) -> dict[str, Any]:
    with TemporaryDirectory() as name:
        folder = Path(name)
        _make(folder / "raw.zarr", depth, flagged)
        tissue.make(f"{folder}/tiny.zarr", TINY, tissue.LAYOUTS[0], TINY_FLAGGED)
        rounds: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
        for _ in range(ROUNDS):
            for way, found in rounds.items():
                found.append(_one(way, folder, flagged))
    row = {"depth": depth, "flagged": len(flagged), "ways": {way: medians(found) for way, found in rounds.items()}}
    sys.stderr.write(f"{row}\n")
    return row


def _make(path: Path, depth: int, flagged: tuple[int, ...]) -> None:
    """A volume with chunks one section deep: a few sections, and links to them."""
    few = 20
    tissue.make(str(path), (few, EDGE, EDGE), tissue.LAYOUTS[0])
    document = path / "zarr.json"
    document.write_text(document.read_text().replace(f"{few},", f"{depth},", 1))
    for z in range(few, depth):
        for chunk in (path / "c" / str(z % few)).rglob("*"):
            if chunk.is_file():
                to = path / "c" / str(z) / chunk.relative_to(path / "c" / str(z % few))
                to.parent.mkdir(parents=True, exist_ok=True)
                to.hardlink_to(chunk)


def _one(way: str, folder: Path, flagged: tuple[int, ...]) -> dict[str, float]:
    jobs = {}
    for name, sections in (("tiny", TINY_FLAGGED), ("raw", flagged)):
        shutil.rmtree(out := folder / f"{name}-out.zarr", ignore_errors=True)
        jobs[name] = (str(folder / f"{name}.zarr"), str(out), sections)
    return measured([sys.executable, "-m", "benchmarks.growth"], way=way, tiny=jobs["tiny"], job=jobs["raw"])


def slope(row: list[dict[str, Any]], way: str, by: str, what: str) -> tuple[float, float]:
    """Of a straight line through a quantity: its value at nothing, and what one more of `by` adds."""
    line = np.polyfit([r[by] for r in row], [r["ways"][way][what] for r in row], 1)
    return float(line[1]), float(line[0])


def table(found: dict[str, Any]) -> str:
    """Markdown."""
    chunks = (-(-found["edge"] // 1024)) ** 2
    parts = [f"Sections of {found['edge']}² ({found['tissue']}), chunks 1 deep; medians of {found['rounds']}.\n"]
    for name, head in (("size", "The volume grows, 2 sections damaged"), ("damage", f"The damage grows, {DEPTHS[1]} sections")):
        rows = [[r["depth"], r["flagged"], way, *(v[k] for k in TOLD)] for r in found[name] for way, v in r["ways"].items()]
        parts.append(f"## {head}\n\n" + markdown(["sections", "damaged", "way", *TOLD], rows))
    for way in WAYS:
        _, more = slope(found["size"], way, "depth", "cpu_s")
        fixed, each = slope(found["damage"], way, "flagged", "cpu_s")
        parts.append(
            f"{way}: {more / chunks * 1e6:.0f} µs of CPU for each chunk more of the volume; {fixed:.2f} s for a run, and "
            f"{each / (found['edge'] ** 2 / 1e6) * 1e3:.0f} ms a damaged megapixel.\n"
        )
    return "\n".join(parts)


if __name__ == "__main__":
    child(OURS)
