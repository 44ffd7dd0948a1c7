"""Plan: the ordered slabs of one job, by arithmetic alone, bound by hashes to everything that could change a voxel.

A slab is one cell of a lateral grid over one run of flagged sections:

        halo, context: read only            write boxes of two slabs never share a chunk of the overlay;
      ┌───────────────────────────┐         their read boxes do overlap. No slab reads what another writes.
      │   ┌───────────────────┐   │
      │   │    write box      │   │         read = write, out to whole tiles, + halo (y, x), + context (z)
      │   └───────────────────┘   │
      └───────────────────────────┘
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from hashlib import sha256
from typing import Any

from pipeline.box import ZYX, Box
from pipeline.flags import Flag, Flags, meet
from pipeline.lattice import Axis, Geometry, Lattice, Part, Piece, Span, Stretch
from pipeline.recipe import canonical, digest
from pipeline.restorer import Needs
from pipeline.slabs import Columns, Slabs
from pipeline.slabs import Slab as Slab
from pipeline.totals import totals

Fingerprint = Callable[[Box, Sequence[Flag]], str]


@dataclass(frozen=True)
class Plan:
    """A job, ready to be reviewed and run. `hash` binds volume, flags, recipe, weights and every slab."""

    header: dict[str, Any]
    slabs: Slabs
    hash: str = field(default="")

    def __post_init__(self) -> None:
        if not self.hash:
            object.__setattr__(self, "hash", hashed(self.header, map(str.encode, self.slabs.blocks("", ","))))


def hashed(header: dict[str, Any], rows: Iterable[bytes]) -> str:
    """sha256 of a plan, as `recipe.digest` would make it of header and rows in one document, without making that.

    rows: of the slabs as JSON without spaces; those that come in one text are joined by commas.
    """
    # Where the files lie is not what they are: a moved volume is the same plan.
    strip = {k: {n: v for n, v in header[k].items() if n not in ("uri", "path")} for k in ("source", "flags")}
    before, after = canonical({**header, **strip, "slabs": []}).split('"slabs":[]')  # inside a text it has backslashes
    found = sha256(f'{before}"slabs":['.encode())
    for n, row in enumerate(rows):
        found.update(b"," * bool(n))
        found.update(row)
    found.update(f"]{after}".encode())
    return found.hexdigest()


def cut(flags: Flags, geometry: Geometry) -> Iterator[Piece]:
    """Yield the pieces of a job in (z, y, x) order. Lazy; memory grows with one run of flagged sections only."""
    for part in parts(flags, geometry):
        yield from part.pieces() if isinstance(part, Lattice) else (part,)


def parts(flags: Flags, geometry: Geometry) -> Iterator[Part]:
    """`cut`, but all pieces of a run of sections that are flagged all over come as one."""
    edge = (1, geometry.cell[1], geometry.cell[2])
    whole = Box.of(geometry.shape)
    for z0, z1 in flags.runs():
        deep = geometry.reach[0]
        around = flags.touching((whole.with_z(z0 - deep, z1 + deep)) & whole)  # all that a slab of this run can see
        members = [f for f in around if f.restorable and f.box.start[0] < z1 and z0 < f.box.stop[0]]
        if all(_all_over(f, whole) for f in around):
            yield Lattice(*_axes(geometry), tuple(_stretches(members, around, geometry)))
            continue
        for at in sorted(_cells(members, edge, geometry)):
            lateral = Box((0, at[0], at[1]), (geometry.shape[0], at[0] + edge[1], at[1] + edge[2])) & whole
            yield from _pieces(lateral, members, around, geometry)


def _all_over(flag: Flag, whole: Box) -> bool:
    return flag.whole and not flag.mask and (flag.box.start[1:], flag.box.stop[1:]) == ((0, 0), whole.stop[1:])


@lru_cache(maxsize=8)
def _axes(geometry: Geometry) -> tuple[Axis, Axis]:
    (_, y, x), (_, cy, cx), needs = geometry.shape, geometry.cell, geometry.needs
    return Axis.of(y, cy, needs.tile, needs.halo), Axis.of(x, cx, needs.tile, needs.halo)


def _stretches(members: list[Flag], seen: Sequence[Flag], geometry: Geometry) -> Iterator[Stretch]:
    for chain in runs(sections(members)):
        for start, stop in _lengths(*chain, geometry.cell[0]):
            r0, r1 = geometry.read_z(start, stop, chain)
            near = tuple(f for f in seen if f.box.start[0] < r1 and r0 < f.box.stop[0])
            yield Stretch(Span(start, stop, r0, r1), near)


def _lengths(z0: int, z1: int, most: int) -> Iterator[tuple[int, int]]:
    return ((start, min(z1, start + most)) for start in range(z0, z1, most))


def _cells(members: Iterable[Flag], edge: ZYX, geometry: Geometry) -> set[tuple[int, int]]:
    """Lateral corners of the cells that hold flagged voxels."""
    flat = {(f.box.start[1:], f.box.stop[1:]) for f in members}  # one look per distinct window, not per flag
    return {(c.start[1], c.start[2]) for (y0, x0), (y1, x1) in flat for c in Box((0, y0, x0), (1, y1, x1)).cells(edge)}


def _pieces(lateral: Box, members: list[Flag], seen: Sequence[Flag], geometry: Geometry) -> Iterator[Piece]:
    _, ry, rx = geometry.reach
    around = lateral.grow(0, ry, rx)
    near = [f for f in members if f.whole or meet(f.box, around)]
    inside = sections(f for f in near if f.whole or meet(f.box, lateral))
    for chain in runs(sections(near)):
        for z0, z1 in runs([z for z in inside if chain[0] <= z < chain[1]]):
            for start, stop in _lengths(z0, z1, geometry.cell[0]):
                write = lateral.with_z(start, stop)
                read = geometry.read_box(write, chain)
                yield Piece(write, read, tuple(f for f in seen if meet(f.box, read)))


def sections(flags: Iterable[Flag]) -> list[int]:
    """The distinct sections of these flags, ascending."""
    return sorted({z for f in flags for z in range(f.box.start[0], f.box.stop[0])})


def runs(ascending: Sequence[int]) -> list[tuple[int, int]]:
    """Maximal half-open runs of consecutive numbers."""
    found: list[tuple[int, int]] = []
    for z in ascending:
        if found and found[-1][1] == z:
            found[-1] = (found[-1][0], z + 1)
        else:
            found.append((z, z + 1))
    return found


def name(piece: Piece, key: str, inputs: str) -> Slab:
    """Give a piece its content id: the key of the job, its boxes, the flags it sees and its inputs' fingerprint."""
    seen = [
        [(f.box & piece.read).start, (f.box & piece.read).stop, not f.restorable, f.whole, f.mask] for f in piece.flags
    ]
    body = [key, piece.write.start, piece.write.stop, piece.read.start, piece.read.stop, seen, inputs]
    return Slab(digest(body)[:32], piece.write, piece.read)


def job_key(recipe_digest: str, needs: Needs, source: dict[str, Any]) -> str:
    """What all slabs of a job share. The number of sections is left out: a volume that grows in z keeps its slabs."""
    declared = {k: v for k, v in asdict(needs).items() if k not in ("mpx_s", "memory_bytes", "spread", "draw_cost")}
    return digest([recipe_digest, declared, source["dtype"], source["shape"][1:], source["missing_chunks"]])


def make(
    *,
    flags: Flags,
    geometry: Geometry,
    source: dict[str, Any],
    flags_about: dict[str, Any],
    recipe: dict[str, Any],
    recipe_digest: str,
    chunk: ZYX,
    inputs: Fingerprint,
    grain: ZYX = (1, 1, 1),
    seen: Callable[[Part], object] = lambda _: None,
    piece: int = 0,
    merged: Callable[[], int] = lambda: 0,
) -> Plan:
    """Cut, name and add up. `source` describes the volume; `chunk` is its chunk; `inputs` fingerprints a read box;
    `seen` is shown every part. grain: of boxes that touch the same cells of it the fingerprints are equal. piece: as
    `totals` has it. merged: bytes that a merge moves, asked for once all parts were shown."""
    key = job_key(recipe_digest, geometry.needs, source)
    columns = Columns()

    def named() -> Iterator[Part]:
        for part in parts(flags, geometry):
            if isinstance(part, Lattice):
                columns.extend(part.ids(key, grain[1:], lambda box: inputs(box, ())), part.boxes())
            else:
                columns.add(name(part, key, inputs(part.read, part.flags)))
            seen(part)
            yield part

    sums = totals(named(), geometry, chunk, source["itemsize"], recipe.get("uncertainty", 0), piece)
    header = {
        "schema": "zmend-plan/1",
        "source": source,
        "flags": flags_about,
        "recipe": recipe,
        "recipe_digest": recipe_digest,
        "restorer": {k: v for k, v in asdict(geometry.needs).items() if k != "spread"},
        "slab_cell": geometry.cell,
        "totals": {**sums, "bytes_to_merge": merged()},
        "not_restorable": not_restorable(flags, geometry),
    }
    return Plan(header, columns.slabs())


def not_restorable(flags: Flags, geometry: Geometry) -> list[dict[str, Any]]:
    """What cannot be restored, and why, as far as boxes tell (a mask may leave parts of such a run restorable)."""
    found: list[dict[str, Any]] = []
    for z0, z1 in flags.runs():
        members = [f for f in flags.touching(Box.of(geometry.shape).with_z(z0, z1)) if f.restorable]
        for flag, chain in _chains(members, geometry):
            why = refusal(chain, geometry)
            if why:
                found.append(
                    {"z": list(chain), "box": [flag.box.start[1:], flag.box.stop[1:]], "class": flag.kind, "why": why}
                )
    return _distinct(found)


def _chains(members: list[Flag], geometry: Geometry) -> Iterator[tuple[Flag, tuple[int, int]]]:
    """Each flag with the run of flagged sections that it is part of where it lies."""
    _, ry, rx = geometry.reach
    if all(f.whole for f in members):  # the ordinary case, and at petascale the only affordable one
        yield from ((members[0], r) for r in runs(sections(members)))
        return
    for f in members:
        near = sections(m for m in members if (m.box & f.box.grow(len(members) + 1, ry, rx)).size or m is f)
        yield from ((f, r) for r in runs(near) if r[0] <= f.box.start[0] < r[1])


def refusal(chain: tuple[int, int], geometry: Geometry) -> str:
    """Why a run of sections cannot be restored, or nothing."""
    needs, depth = geometry.needs, geometry.shape[0]
    length = chain[1] - chain[0]
    if length > needs.max_gap:
        return f"more than {needs.max_gap} sections in a row; {needs.name} restores up to that many"
    open_sides = (chain[0] == 0) + (chain[1] == depth)
    if open_sides == 2 or (open_sides and not needs.one_sided):
        return "no clean section on " + ("either side" if open_sides == 2 else "one side: the volume ends here")
    return ""


def _distinct(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    seen: dict[str, dict[str, Any]] = {digest(f): f for f in found}
    return list(seen.values())
