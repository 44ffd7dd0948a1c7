"""Boxes and grids, written out by hand and checked against sets of voxels."""

from __future__ import annotations

from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from pipeline.box import ZYX, Box

edges = st.integers(-6, 9)
lengths = st.integers(0, 7)


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    start = tuple(draw(edges) for _ in range(3))
    return Box(start, tuple(a + draw(lengths) for a in start))  # type: ignore[arg-type]


def voxels(box: Box) -> set[ZYX]:
    return set(product(*(range(a, b) for a, b in zip(box.start, box.stop, strict=True))))  # type: ignore[arg-type]


@given(boxes(), boxes())
def test_and_is_the_common_voxels(a: Box, b: Box) -> None:
    assert (a & b).size == len(voxels(a) & voxels(b))


@given(boxes(), st.tuples(*[st.integers(1, 5)] * 3))
def test_cells_cover_a_box_once_and_align(box: Box, grain: ZYX) -> None:
    cells = list(box.cells(grain))
    covered = [v for c in cells for v in voxels(c)]
    assert len(covered) == len(set(covered))
    assert voxels(box) <= set(covered)
    assert all((c & box).size for c in cells)
    assert all(a % g == 0 for c in cells for a, g in zip(c.start, grain, strict=True))
    if cells:
        assert voxels(box.aligned(grain)) == set(covered)


def test_the_last_cell_may_be_cut_by_the_edge_of_the_volume() -> None:
    shape = (10, 100, 100)
    assert Box((4, 64, 64), (5, 100, 100)).aligned_in((1, 64, 64), shape)
    assert not Box((4, 64, 64), (5, 99, 100)).aligned_in((1, 64, 64), shape)
    assert not Box((4, 32, 64), (5, 100, 100)).aligned_in((1, 64, 64), shape)
    assert not Box((4, 64, 64), (4, 100, 100)).aligned_in((1, 64, 64), shape)


def test_a_box_prints_as_slices_and_grows_beyond_the_volume() -> None:
    box = Box((3, 0, 10), (4, 5, 20))
    assert str(box) == "[3:4, 0:5, 10:20]"
    assert str(box.grow(1, 2, 3)) == "[2:5, -2:7, 7:23]"
    assert box.within(box.grow(1, 2, 3)) == (slice(1, 2), slice(2, 7), slice(3, 13))
