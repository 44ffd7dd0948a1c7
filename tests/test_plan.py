"""A plan is arithmetic: small cases written out, the rest by properties."""

from __future__ import annotations

import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.box import Box
from pipeline.errors import UsageError
from pipeline.flagfile import parse
from pipeline.flags import Flag, Flags
from pipeline.lattice import Geometry, Piece
from pipeline.paper import paper_plan
from pipeline.plan import cut, name, not_restorable, parts, runs
from pipeline.restorer import Needs
from pipeline.totals import totals
from pipeline.touched import Touched

SHAPE = (20, 100, 100)
NEEDS = Needs(name="toy", digest="0" * 64, context=2, max_gap=3, tile=16, halo=8)
GEOMETRY = Geometry(SHAPE, (8, 64, 64), NEEDS)


def flags(text: str) -> Flags:
    return parse(text, shape=SHAPE)


def test_one_missing_section_is_cut_into_cells_with_context_and_halo() -> None:
    pieces = list(cut(flags("7\n"), GEOMETRY))
    assert [str(p.write) for p in pieces] == [
        "[7:8, 0:64, 0:64]", "[7:8, 0:64, 64:100]", "[7:8, 64:100, 0:64]", "[7:8, 64:100, 64:100]",
    ]  # fmt: skip
    assert str(pieces[0].read) == "[5:10, 0:72, 0:72]"
    assert str(pieces[3].read) == "[5:10, 56:100, 56:100]"


def test_neighbouring_flags_share_a_slab_and_long_runs_are_split() -> None:
    pieces = list(cut(flags("4:14\n"), Geometry(SHAPE, (8, 128, 128), NEEDS)))
    assert [str(p.write) for p in pieces] == ["[4:12, 0:100, 0:100]", "[12:14, 0:100, 0:100]"]
    # A gap of up to three sections that reaches out of the slab, and its context, are in the read box.
    assert [(p.read.start[0], p.read.stop[0]) for p in pieces] == [(2, 16), (8, 16)]


def test_cells_without_flags_are_no_slabs() -> None:
    text = "z_start,z_stop,class,y_start,y_stop,x_start,x_stop\n3,4,fold,0,10,70,90\n"
    assert [str(p.write) for p in cut(flags(text), GEOMETRY)] == ["[3:4, 0:64, 64:100]"]


def test_do_not_touch_alone_makes_no_slab() -> None:
    assert not list(cut(flags("z_start,z_stop,class\n3,4,do_not_touch\n"), GEOMETRY))


@st.composite
def random_flags(draw: st.DrawFn) -> Flags:
    items = []
    for _ in range(draw(st.integers(1, 6))):
        z = draw(st.integers(0, 19))
        y, x = draw(st.integers(0, 90)), draw(st.integers(0, 90))
        box = Box((z, y, x), (min(20, z + draw(st.integers(1, 4))), min(100, y + draw(st.integers(1, 60))), min(100, x + 30)))
        items.append(Flag(box, "missing", whole=False))
    return Flags.of(items)


@settings(deadline=None)
@given(random_flags(), st.sampled_from([16, 32, 64, 128]), st.integers(1, 9))
def test_slabs_cover_every_flag_once_on_whole_chunks(marked: Flags, edge: int, depth: int) -> None:
    pieces = list(cut(marked, Geometry(SHAPE, (depth, edge, edge), NEEDS)))
    seen = np.zeros(SHAPE, int)
    for p in pieces:
        seen[p.write.within(Box.of(SHAPE))] += 1
        assert p.write.aligned_in((1, edge, edge), SHAPE)
        assert p.write in p.read
        assert p.read in Box.of(SHAPE)
        assert p.write.shape[0] <= depth
    assert seen.max() == 1, "write boxes are disjoint"
    for f in marked:
        assert (seen[f.box.within(Box.of(SHAPE))] == 1).all()


@settings(deadline=None)
@given(random_flags())
def test_a_slab_keeps_its_name_when_the_volume_grows_or_far_flags_change(marked: Flags) -> None:
    grown = Geometry((30, 100, 100), GEOMETRY.cell, NEEDS)
    far = Flags.of([*marked.items, Flag(Box((28, 0, 0), (29, 100, 100)), "missing")])
    low = [p for p in cut(marked, GEOMETRY) if p.read.stop[0] < 18]
    before = {name(p, "key", "inputs").id for p in low}
    after = {name(p, "key", "inputs").id for p in cut(far, grown)}
    assert before <= after


def test_a_slab_changes_its_name_with_anything_that_could_change_a_voxel() -> None:
    piece = next(cut(flags("7\n"), GEOMETRY))
    with_neighbour = next(cut(flags("7\n9\n"), GEOMETRY))  # section 9 is context of section 7: now it is flagged
    names = {name(piece, "key", "a").id, name(piece, "key", "b").id, name(piece, "other", "a").id, name(with_neighbour, "key", "a").id}
    assert len(names) == 4


@pytest.mark.parametrize(
    ("text", "z", "words"),
    [
        ("4:8\n", [4, 8], "more than 3 sections in a row; toy restores up to that many"),
        ("0\n", [0, 1], "the volume ends here"),
        ("18:20\n", [18, 20], "the volume ends here"),
        ("3\n4:8\n", [3, 8], "more than 3 sections in a row"),
    ],
)
def test_what_cannot_be_restored_is_listed_with_its_reason(text: str, z: list[int], words: str) -> None:
    (entry,) = not_restorable(flags(text), GEOMETRY)
    assert entry["z"] == z
    assert words in entry["why"]


def test_three_in_a_row_between_clean_sections_are_restorable() -> None:
    assert not not_restorable(flags("4:7\n9\n"), GEOMETRY)


def test_far_apart_damage_in_neighbouring_sections_is_no_long_gap() -> None:
    rows = "".join(f"{z},{z + 1},fold,{y},{y + 4},0,4\n" for z, y in zip(range(3, 9), [0, 90] * 3, strict=True))
    marked = flags("z_start,z_stop,class,y_start,y_stop,x_start,x_stop\n" + rows)
    assert not not_restorable(marked, Geometry(SHAPE, (8, 64, 64), NEEDS))


def test_totals_count_flagged_voxels_and_whole_chunks() -> None:
    sums = totals(cut(flags("7\n"), GEOMETRY), GEOMETRY, (10, 50, 50), 1)
    assert sums["slabs"] == 4
    assert sums["voxels"] == 100 * 100
    assert sums["bytes_to_write"] == 2 * 100 * 100
    # Sections 5..9 lie in one chunk of ten; 0:72 is two chunks of 50 laterally, 56:100 is one.
    assert sums["bytes_to_read"] == 10 * (100 + 50) * (100 + 50)


def test_runs() -> None:
    assert runs([]) == []
    assert runs([1, 2, 5, 6, 7, 9]) == [(1, 3), (5, 8), (9, 10)]


def test_a_petabyte_is_planned_in_seconds_and_megabytes() -> None:
    began = time.process_time()
    found = paper_plan((25_000, 200_000, 200_000), 0.02, 8192, 60.0)
    spent = time.process_time() - began
    assert found["slabs"] == 500 * 25 * 25
    assert found["voxels"] == 500 * 200_000**2
    assert found["gpu_hours"] == pytest.approx(93, abs=1)  # DESIGN.md, section 8
    assert spent < 30, "10 s of a processor, whatever else the machine does"


def test_planning_a_petabyte_takes_less_than_300_mib() -> None:
    code = "from pipeline.paper import paper_plan as p; print(p((25_000, 200_000, 200_000), 0.02, 8192, 60.0)['planning_peak_mib'])"
    found = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True)
    assert int(found.stdout) < 300


@settings(deadline=None)
@given(random_flags(), st.integers(1, 8), st.sampled_from([16, 32, 64, 128]), st.integers(1, 3))
def test_each_chunk_that_a_slab_touches_counts_once_also_where_slabs_are_narrower(
    items: Flags, depth: int, wide: int, most: int
) -> None:
    chunk, geometry = (depth, wide, wide), Geometry(SHAPE, (most, 32, 32), NEEDS)
    touched, as_they_come, seen = (Touched(SHAPE, chunk, items.runs()) for _ in range(2)), [], set()
    one_by_one, together = touched
    for part in parts(items, geometry):
        together.add(part)
    for piece in cut(items, geometry):
        one_by_one.add(piece)
        marks = np.zeros(SHAPE, bool)
        for flag in piece.flags:
            marks[flag.box.within(Box.of(SHAPE))] |= flag.restorable
        for box in Box.of(SHAPE).cells(chunk):
            if marks[(box & piece.write).within(Box.of(SHAPE))].any() and (box & piece.write).size:
                seen.add(box & Box.of(SHAPE))
        as_they_come.append(one_by_one.count)
    assert as_they_come == sorted(as_they_come)
    for found in (one_by_one, together):
        assert (found.count, found.voxels) == (len(seen), sum(box.size for box in seen))


def test_a_million_slabs_are_added_up_in_the_memory_of_one_section() -> None:
    def pieces(sections: int) -> Iterator[Piece]:
        for z in range(1, 2 * sections, 2):
            for y in range(0, 1280, 64):
                yield Piece(box := Box((z, y, 0), (z + 1, y + 64, 64)), box, ())

    def shown(touched: Touched, found: Iterator[Piece]) -> Iterator[Piece]:
        for piece in found:
            touched.add(piece)
            yield piece

    most = []
    for sections in (50, 1000):
        tracemalloc.start()
        touched = Touched((3000, 1280, 64), (1, 64, 64), [(z, z + 1) for z in range(1, 3000, 2)])
        totals(shown(touched, pieces(sections)), Geometry((3000, 1280, 64), (1, 64, 64), NEEDS), (1, 64, 64), 1)
        assert touched.voxels == 1280 * 64 * sections
        most.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert most[1] < most[0] + 20_000, most


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (["--shape", "99999999999999,99999999999,9999999999"], "has more than 100,000,000,000,000,000 voxels"),
        (["--shape", "100,100,100", "--calibrate"], "--calibrate needs a configuration"),
        (["zmend.yaml", "--rates", "bad.json"], "--rates is of plans on paper"),
    ],
)
def test_what_a_plan_would_not_heed_is_refused(asked: list[str], words: str) -> None:
    from click.testing import CliRunner

    from pipeline.cli.plan import plan as verb

    refused = CliRunner().invoke(verb, asked)
    assert isinstance(refused.exception, UsageError) and words in str(refused.exception)
