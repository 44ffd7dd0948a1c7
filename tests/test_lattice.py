"""Slabs of sections that are flagged all over, as one thing: what each of them makes one by one is the oracle."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.box import ZYX, Box
from pipeline.flags import Flag, Flags
from pipeline.lattice import Geometry, Lattice, Part, Piece
from pipeline.plan import cut, name, parts
from pipeline.restorer import Needs
from pipeline.slabs import Columns, Slabs
from pipeline.totals import totals
from pipeline.workload import Workload

SHAPE = (40, 100, 90)


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    stride = draw(st.sampled_from([8, 16]))
    context, gap, halo = draw(st.integers(1, 2)), draw(st.integers(1, 3)), draw(st.sampled_from([0, stride]))
    needs = Needs(name="toy", digest="0" * 64, context=context, max_gap=gap, tile=stride * 2, halo=halo, batch=3)
    return Geometry(SHAPE, (draw(st.integers(1, 4)), draw(st.sampled_from([16, 32, 128])), 32), needs)


@st.composite
def flags(draw: st.DrawFn) -> Flags:
    """Some of whole sections, some to be kept, some of a part; mostly the first."""
    found = []
    for _ in range(draw(st.integers(1, 9))):
        z = draw(st.integers(0, SHAPE[0] - 1))
        stop = min(SHAPE[0], z + draw(st.integers(1, 6)))
        kind = draw(st.sampled_from(["missing", "missing", "damaged", "do_not_touch"]))
        whole = draw(st.sampled_from([True, True, True, False]))
        box = Box((z, 0, 0), (stop, *SHAPE[1:])) if whole else Box((z, 5, 7), (stop, 60, 41))
        found.append(Flag(box, kind, whole=whole, mask=draw(st.sampled_from(["", "", "", "m.zarr"]))))
    return Flags.of(found)


CHUNKS = st.tuples(st.integers(1, 7), st.sampled_from([8, 30, 64]), st.sampled_from([8, 25, 64]))


def prints(grain: ZYX) -> Callable[[Box], str]:
    """Fingerprints that differ just where they may."""
    return lambda box: f"{box.start[0]}:{box.stop[0]}:{box.aligned((1, *grain[1:]))}"


def one_by_one(found: list[Part]) -> list[Piece]:
    return [p for part in found for p in (part.pieces() if isinstance(part, Lattice) else (part,))]


@settings(deadline=None, max_examples=200)
@given(geometries(), flags(), CHUNKS, st.integers(0, 4))
def test_a_lattice_is_its_pieces(geometry: Geometry, marked: Flags, chunk: ZYX, draws: int) -> None:
    found = list(parts(marked, geometry))
    pieces = one_by_one(found)
    assert pieces == list(cut(marked, geometry))
    inputs, columns = prints(chunk), Columns()
    for part in found:
        if isinstance(part, Lattice):
            columns.extend(part.ids("ab" * 32, chunk[1:], inputs), part.boxes())
            assert len(part) == len(list(part.pieces()))
        else:
            columns.add(name(part, "ab" * 32, inputs(part.read)))
    assert columns.slabs() == Slabs.of(name(p, "ab" * 32, inputs(p.read)) for p in pieces)
    assert totals(found, geometry, chunk, 2, draws) == totals(pieces, geometry, chunk, 2, draws)
    runs = marked.runs()
    assert load(found, geometry, runs, chunk, draws) == load(pieces, geometry, runs, chunk, draws)


def load(
    found: list[Part] | list[Piece], geometry: Geometry, runs: tuple[tuple[int, int], ...], chunk: ZYX, draws: int
) -> object:
    work = Workload(geometry, runs, batch=3, chunk=chunk, cell=(1, 16, 16), grain=(1, 16, 16), itemsize=2, draws=draws)
    for part in found:
        work.add(part)
    return work.load(levels=[(SHAPE, (1, 16, 16))], sections=2)


def test_whole_sections_come_as_one_and_parts_of_sections_do_not() -> None:
    geometry = Geometry(SHAPE, (8, 32, 32), Needs("toy", "0" * 64, context=1, max_gap=3, tile=16, halo=8))
    part = Flag(Box((20, 0, 0), (21, 50, 50)), "missing", whole=False)
    far, near = (Flags.of([part, Flag(Box((z, 0, 0), (z + 1, *SHAPE[1:])), "missing")]) for z in (4, 18))
    assert [type(p) for p in parts(far, geometry)] == [Lattice, *[Piece] * 4], "a row and a column of cells"
    assert {type(p) for p in parts(near, geometry)} == {Piece}, "it is in sight"


def test_a_box_beyond_what_a_plan_can_hold_is_refused() -> None:
    wide = (3, 16, 1 << 31)
    geometry = Geometry(wide, (1, 16, 1 << 30), Needs("toy", "0" * 64, context=1, max_gap=1, tile=16, halo=0))
    (found,) = parts(Flags.of([Flag(Box((1, 0, 0), (2, *wide[1:])), "missing")]), geometry)
    assert isinstance(found, Lattice)
    with pytest.raises(OverflowError, match="beyond 2"):
        found.boxes()


def test_boxes_are_columns_of_int32() -> None:
    geometry = Geometry(SHAPE, (8, 64, 64), Needs("toy", "0" * 64, context=2, max_gap=3, tile=16, halo=8))
    (found,) = parts(Flags.of([Flag(Box((7, 0, 0), (8, *SHAPE[1:])), "missing")]), geometry)
    assert isinstance(found, Lattice) and found.boxes().dtype == np.int32
    assert found.boxes()[3].tolist() == [7, 64, 64, 8, 100, 90, 5, 56, 56, 10, 100, 90]
