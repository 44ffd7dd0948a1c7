"""Looked: what a scan has looked at, beside its flags file, so that the next one looks at what is new and no more.

A line of JSON for the last scan that ended, and after it one for each cell of a scan that has not. A section was looked
at if its sight is the same: thresholds, pixels, and size and time of all chunks that its findings depend on.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import UsageError
from pipeline.volume import Volume

SCHEMA = "zmend-scan/1"
Row = dict[str, Any]


@dataclass
class Looked:
    """The state of a scan. `rows` are findings by tile, `flags` the lines that were last written of them."""

    path: Path
    volume: str = ""  # identity of what was looked at
    voxel_nm: list[float] | None = None  # (z, y, x) of its voxels, where that was told
    window: tuple[float, float] | None = None  # its black and white: measured once, so that findings do not wander
    sights: list[str] = field(default_factory=list)  # of each section
    rows: list[Row] = field(default_factory=list)
    jumps: list[list[int]] = field(default_factory=list)
    flags: list[Row] = field(default_factory=list)
    cells: dict[str, Row] = field(default_factory=dict)  # answers of the scan that has not ended, by id

    @staticmethod
    def read(path: Path) -> Looked:
        """What the file says; nothing where there is none. A last line that was cut short is left out."""
        self = Looked(path)
        lines = path.read_text().splitlines() if path.exists() else []
        for n, line in enumerate(lines):
            try:
                said = json.loads(line)
            except ValueError:
                if n == len(lines) - 1 and n:
                    break
                raise _spoiled(path) from None
            if n == 0:
                self._begin(said)
            else:
                self.cells[said["slab"]] = said
        return self

    def _begin(self, said: Row) -> None:
        if said.get("schema") != SCHEMA:
            raise _spoiled(self.path)
        self.volume, self.window = said["volume"], (said["window"][0], said["window"][1])
        self.voxel_nm = said.get("voxel_nm")
        self.sights, self.rows, self.jumps, self.flags = said["sights"], said["rows"], said["jumps"], said["flags"]

    @property
    def exists(self) -> bool:
        """Whether a scan has begun here before."""
        return self.window is not None

    def put(self) -> None:
        """Write the state anew, all of it or nothing: what single cells said is part of it by now."""
        said = {k: getattr(self, k) for k in ("volume", "voxel_nm", "window", "sights", "rows", "jumps", "flags")}
        aside = self.path.with_name(f".{self.path.name}.partial")
        aside.write_text(json.dumps({"schema": SCHEMA, **said}) + "\n")
        aside.replace(self.path)
        self.cells = {}

    def note(self, answer: Row) -> None:
        """One more cell is looked at; a scan that is interrupted need not look at it again."""
        with self.path.open("a") as file:
            file.write(json.dumps(answer) + "\n")

    def stale(self, sights: Sequence[str]) -> list[int]:
        """Sections that must be looked at, given the sights of today."""
        return [z for z, sight in enumerate(sights) if z >= len(self.sights) or self.sights[z] != sight]

    def settle(self, sights: Sequence[str], stale: Iterable[int], answers: Iterable[Row]) -> None:
        """Take in what was found in the stale sections."""
        kept = set(range(len(sights))) - set(stale)  # a volume may have fewer sections than it had
        self.rows = [r for r in self.rows if r["z"] in kept]
        self.jumps = [j for j in self.jumps if j[0] in kept]
        for answer in answers:
            self.rows += answer["findings"]
            self.jumps += answer["jumps"]
        self.sights = list(sights)


def sights(volume: Volume, key: str, margin: int) -> list[str]:
    """One short digest a section of all that may change its findings: `key`, and the chunks within `margin` sections.

    Lists the chunk objects; reads none.
    """
    layers: dict[int, Any] = defaultdict(hashlib.sha256)
    for cell, stored in volume.objects():
        layers[cell[0]].update(f"{stored.key}\t{stored.size}\t{stored.mtime_ns}\t{stored.etag}\n".encode())
    known = {n: digest.hexdigest() for n, digest in layers.items()}
    depth, deep = volume.shape[0], volume.grain[0]

    def sight(z: int) -> str:
        low, high = max(0, z - margin), min(depth, z + margin + 1)
        under = [known.get(n, "absent") for n in range(low // deep, -(-high // deep))]
        return hashlib.sha256(json.dumps([key, low, high, under]).encode()).hexdigest()[:16]

    return [sight(z) for z in range(depth)]


def _spoiled(path: Path) -> UsageError:
    return UsageError(
        "what an earlier scan has looked at cannot be read",
        where=str(path),
        why="the file was edited, or another version of zmend wrote it",
        do="move it away, with the flags and the masks beside it, and scan again",
    )
