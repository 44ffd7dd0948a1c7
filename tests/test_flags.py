"""Flags: what is accepted, what is refused and in which words, and that search and burning agree with the slow way."""

from __future__ import annotations

import random
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.box import ZYX, Box
from pipeline.errors import FlagError
from pipeline.flagfile import COLUMNS, dump, load, parse, review
from pipeline.flags import CLASSES, Flag, Flags, address, flagged, mask_window, meant, upsample

DATA = Path(__file__).parent / "data" / "flags"
SHAPE = (24, 100, 120)
HEAD = "z_start,z_stop,class\n"
FULL = ",".join(COLUMNS) + "\n"


def mask_shape(uri: str) -> ZYX:
    if uri.endswith("nowhere.zarr"):
        raise FileNotFoundError(f"no array at {uri}")
    return (24, 33, 40) if uri.endswith("other.zarr") else (24, 50, 60)


# file: where (line, column), words of what, words of do
REFUSED = {
    "z_out_of_range": ("line 3, column z_stop", "z 30:31 leaves the volume", "made for this volume"),
    "z_negative": ("line 2, column z_start", "z -1:2 is negative", "use 0 to 24"),
    "z_reversed": ("line 2, column z_stop", "z 9:5 is reversed", "swap them: 5,9"),
    "z_equal": ("line 2, column z_stop", "z 5:5 is empty", "for 5 alone write 5,6"),
    "z_one_based": ("line 3, column z_stop", "z 24:25 leaves", "if it counts from 1, subtract 1"),
    "z_text": ("line 2, column z_start", "'seventeen' is not a whole number", "write digits only"),
    "z_float": ("line 2, column z_start", "'3.5' is not a whole number", "round it"),
    "z_scientific": ("line 2, column z_stop", "'1e1' is not a whole number", "round it"),
    "z_thousands": ("line 2, column z_start", "'1,234' is not a whole number", "write 1234"),
    "z_huge": ("line 2, column z_stop", "is not a whole number", "check the export"),
    "z_empty": ("line 2, column z_start", "'' is not a whole number", "fill it in"),
    "z_date": ("line 2, column z_start", "'17-Jan' is not a whole number", "format the column as plain numbers"),
    "z_iso_date": ("line 2, column z_stop", "'2024-01-04' is not", "format the column as plain numbers"),
    "z_arabic_digits": ("line 2, column z_start", "is not a whole number", "write digits only"),
    "empty": ("empty.csv", "no flag in the file", "write z_start,z_stop,class"),
    "header_only": ("line 1", "no flag in the file", "add one, such as 17,18,missing"),
    "comments_only": ("comments_only.csv", "no flag in the file", "write z_start,z_stop,class"),
    "whitespace_only": ("whitespace_only.csv", "no flag in the file", "write z_start,z_stop,class"),
    "no_header": ("line 1", "there is no header", "begin with the line z_start,z_stop,class"),
    "column_missing": ("line 1", "column 'z_stop' is missing", "add z_stop to the header"),
    "column_unknown": ("line 1", "unknown column 'z_stpo'", "did you mean 'z_stop'?"),
    "column_twice": ("line 1", "column 'z_start' stands there twice", "remove one of them"),
    "class_unknown": ("line 2, column class", "unknown class 'mising'", "did you mean 'missing'?"),
    "class_far": ("line 2, column class", "unknown class 'eaten_by_mice'", "use one of them"),
    "class_empty": ("line 2, column class", "the class is empty", "use one of them"),
    "classes_overlap": ("line 4", "two classes for the same voxels", "cut line 4"),
    "boxes_overlap": ("line 3", "two classes for the same voxels", "or give a mask"),
    "twice": ("line 4", "flagged twice", "remove line 4"),
    "keep_twice": ("line 3", "flagged twice", "remove line 3"),
    "y_half": ("line 2, column y_stop", "half a box", "give both, or neither for all of y"),
    "x_half": ("line 2, column x_start", "half a box", "give both, or neither for all of x"),
    "y_reversed": ("line 2, column y_stop", "y 50:10 is reversed", "swap them: 10,50"),
    "y_out_of_range": ("line 2, column y_stop", "y 50:200 leaves the volume", "at this level"),
    "x_out_of_range": ("line 2, column x_stop", "x 0:4000 leaves the volume", "at this level"),
    "x_one_based": ("line 2, column x_stop", "x 1:121 leaves the volume", "if it counts from 1"),
    "x_float": ("line 2, column x_stop", "'60.0' is not a whole number", "round it"),
    "cells_too_many": ("line 2", "too many cells", 'put a cell that holds a comma in "quotes"'),
    "cells_too_few": ("line 2", "too few cells", "leave cells empty (,,) rather than out"),
    "semicolons": ("line 1", "parted by semicolons", "tr ';' ','"),
    "tabs": ("line 1", "parted by tabs", r"tr '\t' ','"),
    "binary": ("line 1", "not text in UTF-8", "export it as CSV in UTF-8"),
    "nul": ("line 3", "this is not text", "export it as CSV in UTF-8"),
    "utf16": ("utf16.csv", "the file is UTF-16", "iconv -f UTF-16 -t UTF-8"),
    "utf16_no_mark": ("line 1", "this is not text", "export it as CSV in UTF-8"),
    "latin1": ("line 2", "not text in UTF-8", "export it as CSV in UTF-8"),
    "quote_open": ("line 2", "a quote is not closed", "close the quote in the same line"),
    "quote_inside": ("line 2", "or text follows it", "close the quote in the same line"),
    "mask_absent": ("line 2, column mask", "mask 'nowhere.zarr' cannot be opened", "relative to the flags file"),
    "mask_other_shape": ("line 3, column mask", "mask of another shape", "at a coarser level of its pyramid"),
    "list_word": ("line 3", "'seven' is not a whole number", "one section or range 17:19 a line"),
    "list_reversed": ("line 2", "z 9:5 is reversed", "swap them: 5,9"),
    "list_twice": ("line 3", "flagged twice", "remove line 3"),
    "list_one_based": ("line 3", "z 24:25 leaves the volume", "if it counts from 1, subtract 1"),
    "list_out_of_range": ("line 2", "z 70:71 leaves the volume", "made for this volume"),
    "list_negative": ("line 1", "z -3:-2 is negative", "use 0 to 24"),
    "list_commas": ("line 2", "'5,6' is not a whole number", "one section or range 17:19 a line"),
    "list_three": ("line 1", "'5:7' is not a whole number", "one section or range 17:19 a line"),
    "list_semicolons": ("line 1", "there is no header", "begin with the line"),
    "schema_two": ("line 1", "the schema is 'zmend-flags/2'", "convert the file"),
    "many_wrong": ("line 3, column z_start", "'x' is not a whole number", "write digits only"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_place_and_remedy(name: str) -> None:
    where, what, do = REFUSED[name]
    with pytest.raises(FlagError) as caught:
        load(str(DATA / f"{name}.csv"), shape=SHAPE, mask_shape=mask_shape)
    error = caught.value
    assert error.where.endswith(where)
    assert f"{name}.csv" in error.where
    assert what in error.what
    assert do in error.do
    assert error.why
    assert "{" not in str(error)  # no unfilled template


def test_every_file_is_in_a_table() -> None:
    assert {p.stem for p in DATA.glob("*.csv")} == {*REFUSED, *ACCEPTED}
    assert len(REFUSED) >= 30


@pytest.mark.parametrize(
    ("path", "what", "do"),
    [
        ("gone.csv", "cannot be read", "check the path"),
        (".", "is a folder", "column `mask`"),
        ("a\0b", "cannot be", ""),
    ],
)
def test_paths_that_hold_no_file(path: str, what: str, do: str) -> None:
    with pytest.raises(FlagError) as caught:
        load(str(DATA / path), shape=SHAPE)
    assert what in caught.value.what
    assert do in caught.value.do


def test_the_why_tells_more() -> None:
    def why(text: str) -> str:
        with pytest.raises(FlagError) as caught:
            parse(text, shape=SHAPE)
        return caught.value.why

    assert why("3\nx\ny\nz\n").endswith("; and 2 more lines are wrong")
    assert why("3\nx\ny\n").endswith("; and 1 more line is wrong")
    assert why("24\n").endswith("the file may be 1-based")
    assert why(HEAD + "3,5,fold\n4,6,blur\n") == "lines 2 (fold) and 3 (blur) share the voxels [4:5, 0:100, 0:120]"
    assert why(HEAD + "3,5,fold\n3,5,fold\n") == "lines 2 and 3 both say fold of [3:5, 0:100, 0:120]"


TWO = [(3, 4, "missing"), (17, 19, "damaged")]
ACCEPTED = {
    "ok_full": [(3, 4, "fold"), (5, 6, "crack"), (17, 18, "missing")],
    "ok_list": [(3, 4, "missing"), (5, 6, "missing"), (17, 19, "missing")],
    **dict.fromkeys(("ok_plain", "ok_bom_crlf", "ok_mac", "ok_spaces", "ok_quoted", "ok_upper", "ok_order"), TWO),
    **dict.fromkeys(("ok_padded", "ok_no_newline"), TWO),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted(name: str) -> None:
    flags = load(str(DATA / f"{name}.csv"), shape=SHAPE, mask_shape=mask_shape)
    assert [(f.box.start[0], f.box.stop[0], f.kind) for f in flags] == ACCEPTED[name]


def test_every_cell_arrives() -> None:
    fold, crack, missing = load(str(DATA / "ok_full.csv"), shape=SHAPE, mask_shape=mask_shape)
    assert fold == Flag(Box((3, 10, 20), (4, 50, 60)), "fold", whole=False, line=5)
    assert crack == Flag(Box((5, 0, 0), (6, 100, 120)), "crack", mask=str(DATA / "crack.zarr"), line=6)
    assert missing == Flag(Box((17, 0, 0), (18, 100, 120)), "missing", source="scope log", note="lost", line=4)


def test_a_band_needs_no_x() -> None:
    (flag,) = parse("z_start,z_stop,class,y_start,y_stop\n3,4,fold,10,20\n", shape=SHAPE)
    assert flag.box == Box((3, 10, 0), (4, 20, 120))
    assert not flag.whole


@pytest.mark.parametrize("mask", ["s3://bucket/m.zarr", "file:///m.zarr", "/abs/m.zarr"])
def test_absolute_masks_and_urls_stay(mask: str, tmp_path: Path) -> None:
    path = tmp_path / "flags.csv"
    path.write_text(f"z_start,z_stop,class,mask\n3,4,fold,{mask}\n3,4,fold,near/m.zarr\n")
    assert {f.mask for f in load(str(path), shape=SHAPE)} == {mask, str(tmp_path / "near/m.zarr")}


def test_overlaps_that_are_fine() -> None:
    parse(HEAD + "3,6,missing\n5,8,missing\n", shape=SHAPE)  # one class
    parse(HEAD + "3,6,missing\n5,8,do_not_touch\n", shape=SHAPE)
    parse("z_start,z_stop,class,mask\n3,6,missing,\n5,8,fold,m.zarr\n", shape=SHAPE)  # a mask may lie beside it
    parse(FULL + "3,4,fold,0,50,0,60,,,\n3,4,crack,50,80,59,100,,,\n", shape=SHAPE)  # they share an edge only


def test_digest_is_of_what_changes_voxels(tmp_path: Path) -> None:
    def digest(text: str) -> str:
        return parse(text, shape=SHAPE).digest

    one = digest("z_start,z_stop,class,mask,note\n3,4,fold,m,a\n7,8,blur,,b\n")
    assert one == digest("# by hand\nclass,z_stop,z_start,mask,source\nBLUR,8,7,,me\n\nfold,4,3,m,\n")
    assert len(one) == 64
    assert one != digest("z_start,z_stop,class,mask\n3,4,fold,n\n7,8,blur,\n")
    assert digest(HEAD + "3,4,fold\n") != digest(HEAD + "3,5,fold\n")
    # A box over all of the section is labelled otherwise than the section.
    assert digest(FULL + "3,4,fold,,,,,,,\n") != digest(FULL + "3,4,fold,0,100,0,120,,,\n")


def test_digest_survives_a_move_of_the_project(tmp_path: Path) -> None:
    digests = set()
    for home in (tmp_path / "a", tmp_path / "b"):
        home.mkdir()
        (home / "flags.csv").write_text("z_start,z_stop,class,mask\n3,4,fold,m.zarr\n")
        digests.add(load(str(home / "flags.csv"), shape=SHAPE).digest)
    assert len(digests) == 1


@given(st.text() | st.text(alphabet="0123456789:,;\"'\n\r\t #-.ezstarop_clmi") | st.text().map(lambda t: HEAD + t))
@settings(max_examples=400, deadline=None)
def test_any_text_parses_or_raises_a_flag_error(text: str) -> None:
    try:
        flags = parse(text, shape=SHAPE, mask_shape=mask_shape)
    except FlagError as error:
        assert error.what and error.where and error.why and error.do
    else:
        assert len(flags) > 0
        assert all(f.box in Box.of(SHAPE) and f.box.size for f in flags)


@given(st.binary())
@settings(max_examples=100, deadline=None)
def test_any_bytes_load_or_raise_a_flag_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(data)
    try:
        load(str(path), shape=SHAPE)
    except FlagError as error:
        assert "any.csv" in error.where


def spans(extent: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(0, extent - 1), st.integers(1, extent)).map(lambda p: (p[0], min(extent, sum(p))))


SMALL = (12, 9, 7)


def boxes_in(shape: ZYX) -> st.SearchStrategy[Box]:
    return st.tuples(*(spans(n) for n in shape)).map(lambda s: Box(*zip(*s, strict=True)))


boxes = boxes_in(SMALL)


@st.composite
def some_flags(draw: Any) -> list[Flag]:
    flags = []
    for box, kind, mask in draw(st.lists(st.tuples(boxes, st.sampled_from(CLASSES), st.sampled_from(["", "", "m"])))):
        whole = draw(st.booleans())
        flags.append(Flag(Box.of(SMALL).with_z(box.start[0], box.stop[0]) if whole else box, kind, mask, whole))
    return flags


@given(some_flags(), boxes)
@settings(deadline=None)
def test_touching_is_what_a_walk_over_all_finds(raw: list[Flag], box: Box) -> None:
    flags = Flags.of(raw)
    assert flags.touching(box) == tuple(f for f in flags if (f.box & box).size)
    assert flags.touching(Box(box.start, box.start)) == ()


@given(some_flags())
@settings(deadline=None)
def test_runs_are_maximal_and_cover_the_restorable_sections(raw: list[Flag]) -> None:
    flags = Flags.of(raw)
    sections = sorted({z for f in flags.restore() for z in range(f.box.start[0], f.box.stop[0])})
    assert [z for run in flags.runs() for z in range(*run)] == sections
    assert all(one[1] < two[0] for one, two in combinations(flags.runs(), 2))


def read_mask(uri: str, box: Box) -> np.ndarray:
    full = np.add.outer(np.add.outer(np.arange(SMALL[0]), np.arange(SMALL[1])), np.arange(SMALL[2])) % 3 == 0
    return full[box.within(Box.of(SMALL))]


def burn(flags: Flags, at: tuple[int, int, int]) -> int:
    """What `flagged` says of one voxel, spelt out."""
    voxel = Box(at, (at[0] + 1, at[1] + 1, at[2] + 1))
    here = [f for f in flags if voxel in f.box and (not f.mask or read_mask(f.mask, voxel).item())]
    if not here or not all(f.restorable for f in here):
        return 0
    return 1 if any(f.whole and not f.mask for f in here) else 2


@given(some_flags(), boxes)
@settings(max_examples=40, deadline=None)
def test_flagged_is_what_each_voxel_says(raw: list[Flag], box: Box) -> None:
    flags = Flags.of(raw)
    out = flagged(flags, box, read_mask)
    assert (out.dtype, out.shape) == (np.uint8, box.shape)
    by_voxel = [burn(flags, tuple(np.add(box.start, i))) for i in np.ndindex(box.shape)]
    assert out.ravel().tolist() == by_voxel
    assert np.array_equal(out, flagged(reversed(flags.items), box, read_mask))  # in any order


def test_flagged_refuses_a_mask_reader_that_reads_something_else() -> None:
    flag = Flag(Box.of(SMALL), "fold", mask="m.zarr")
    with pytest.raises(FlagError, match="mask of another shape"):
        flagged([flag], Box.of(SMALL), lambda uri, box: np.ones((1, 1, 1), bool))


@given(some_flags())
@settings(deadline=None)
def test_overlaps_are_found_as_by_trying_all_pairs(raw: list[Flag]) -> None:
    raw = [f for f in {(f.box, f.kind, f.mask): f for f in raw}.values() if not f.mask and f.restorable]
    clash = any(a.kind != b.kind and (a.box & b.box).size for a, b in combinations(raw, 2))
    text = dump(row(f) for f in raw)
    try:
        parse(text, shape=SMALL)
    except FlagError as error:
        assert error.what == ("two classes for the same voxels" if raw else "no flag in the file")
        assert clash or not raw
    else:
        assert not clash


def row(flag: Flag) -> dict[str, object]:
    (z0, y0, x0), (z1, y1, x1) = flag.box.start, flag.box.stop
    cells: dict[str, object] = {"z_start": z0, "z_stop": z1, "class": flag.kind, "mask": flag.mask, "note": flag.note}
    return cells if flag.whole else {**cells, "y_start": y0, "y_stop": y1, "x_start": x0, "x_stop": x1}


@given(boxes, st.sampled_from(CLASSES), st.text(alphabet=st.characters(exclude_categories=["C", "Z"])))
def test_dump_is_read_back(box: Box, kind: str, note: str) -> None:
    flag = Flag(box, kind, 'a, "b".zarr', False, note=note, line=3)
    assert parse(dump([row(flag)]), shape=SMALL).items == (flag,)


def test_dump_writes_no_line_break_into_a_cell() -> None:
    text = dump([{"z_start": 3, "z_stop": 4, "class": "fold", "note": "two\nlines"}])
    assert text == f"# zmend-flags/1\n{FULL}3,4,fold,,,,,,,two lines\n"


LARGE = (12, 90, 70)  # large enough that each factor below is the only one that fits


@pytest.mark.parametrize("factors", [(1, 1, 1), (1, 2, 2), (1, 3, 5), (2, 4, 8)])
@given(box=boxes_in(LARGE))
@settings(max_examples=50, deadline=None)
def test_mask_window_and_upsample_are_the_big_repeat(factors: ZYX, box: Box) -> None:
    coarse_shape = tuple(-(-n // f) for n, f in zip(LARGE, factors, strict=True))
    coarse = np.random.default_rng(1).random(coarse_shape) < 0.4
    full = coarse
    for axis, factor in enumerate(factors):
        full = full.repeat(factor, axis)
    window, found = mask_window(coarse.shape, LARGE, box)
    assert found == factors
    got = upsample(coarse[window.within(Box.of(coarse.shape))], factors, box)
    assert np.array_equal(got, full[box.within(Box.of(LARGE))])


@pytest.mark.parametrize("mask", [(12, 9, 8), (24, 9, 7), (12, 9, 0), (0, 9, 7), (12, 9, 6), (13, 9, 7)])
def test_mask_window_refuses_what_is_no_whole_factor(mask: ZYX) -> None:
    with pytest.raises(FlagError, match="mask of another shape") as caught:
        mask_window(mask, SMALL, Box.of(SMALL))
    assert "coarser level" in caught.value.do


def test_a_small_mask_is_taken_as_a_halved_one() -> None:
    # 9 -> 5 -> 3 -> 2 by halving: the factor is 8, though 5, 6 and 7 would also leave 2.
    assert mask_window((2, 2, 2), (9, 9, 9), Box.of((9, 9, 9)))[1] == (8, 8, 8)


@pytest.mark.parametrize("depth", [12, 11, 6, 5, 1])
def test_a_mask_as_fine_as_the_volume_may_end_before_it(depth: int) -> None:
    """Above all half-way: a volume that has doubled has not made its masks coarser."""
    window, factors = mask_window((depth, 90, 70), LARGE, Box((0, 8, 8), (1, 9, 9)))
    assert (window, factors) == (Box((0, 8, 8), (1, 9, 9)), (1, 1, 1))
    assert mask_window((5, 45, 35), LARGE, Box((4, 8, 8), (5, 9, 9))) == (Box((4, 4, 4), (5, 5, 5)), (1, 2, 2))
    rows = dump([{"z_start": 0, "z_stop": depth + 1, "class": "fold", "mask": "m.zarr"}])
    if depth < LARGE[0]:
        with pytest.raises(FlagError, match="the mask ends before its flag") as caught:
            parse(rows, shape=LARGE, mask_shape=lambda _: (depth, 90, 70))
        assert f"cut the flag at {depth}" in caught.value.do


def test_which_values_of_a_mask_are_meant() -> None:
    values = np.array([0, 1, 2, 3, 6, 7, 128, 200], np.uint8)
    said = {"s3://b/prob.zarr >= 128": [128, 200], "a b.zarr>=7": [7, 128, 200], "m.zarr & 2": [2, 3, 6, 7], "m.zarr & 256": [], "R&1": [1, 2, 3, 6, 7, 128, 200]}
    assert {mask: values[meant(mask, values)].tolist() for mask in said} == said
    assert [address(mask) for mask in said] == ["s3://b/prob.zarr", "a b.zarr", "m.zarr", "m.zarr", "R&1"]
    assert address("odd >= name.zarr") == "odd >= name.zarr"
    assert meant("m & 1", np.array([True, False])).tolist() == [True, False]


def test_no_flag_at_all_is_fine_where_that_is_said(tmp_path: Path) -> None:
    for text in (dump([]), "z_start,z_stop,class,verdict\n3,4,fold,reject\n"):
        (tmp_path / "flags.csv").write_text(text)
        assert len(load(str(tmp_path / "flags.csv"), shape=SMALL, none_is_fine=True)) == 0
        with pytest.raises(FlagError, match=r"no flag in the file|every flag of the file is rejected"):
            load(str(tmp_path / "flags.csv"), shape=SMALL)


def test_a_hundred_thousand_flags_and_queries() -> None:
    n, rng = 100_000, random.Random(0)
    long = Flag(Box((0, 0, 0), (n, 10, 10)), "do_not_touch", whole=False)  # must not make every search long
    flags = Flags.of([long, *(Flag(Box((z, 0, 0), (z + 1, 10, 10)), "missing") for z in range(n))])
    for z in (rng.randrange(n) for _ in range(n)):
        assert len(flags.touching(Box((z, 5, 5), (z + 1, 6, 6)))) == 2


def test_pairs_are_walked_along_the_axis_that_parts_them_best() -> None:
    # 20,000 boxes in one section, row by row: 2·10^8 pairs along z, none along y.
    rows = ({"z_start": 0, "z_stop": 1, "class": CLASSES[y % 9], "y_start": y, "y_stop": y + 1} for y in range(20_000))
    assert len(parse(dump(rows), shape=(1, 20_000, 9))) == 20_000


VERDICTS = HEAD.strip() + ",verdict\n"


def test_a_rejected_flag_is_left_out_and_an_accepted_one_is_the_same_as_one_that_nobody_saw() -> None:
    kept = parse(f"{VERDICTS}3,4,fold,accept\n5,6,missing,REJECT\n8,9,crack,\n", shape=SHAPE)
    assert [(f.box.start[0], f.verdict) for f in kept] == [(3, "accept"), (8, "")]
    assert kept.digest == parse(f"{HEAD}3,4,fold\n8,9,crack\n", shape=SHAPE).digest, "a look changes no voxel"


def test_rejecting_one_of_two_classes_for_the_same_voxels_settles_it() -> None:
    with pytest.raises(FlagError, match="two classes for the same voxels"):
        parse(f"{VERDICTS}3,4,fold,accept\n3,4,crack,\n", shape=SHAPE)
    (kept,) = parse(f"{VERDICTS}3,4,fold,accept\n3,4,crack,reject\n", shape=SHAPE)
    assert kept.kind == "fold"


def test_a_mask_that_nobody_needs_any_more_is_not_asked_for() -> None:
    text = "z_start,z_stop,class,mask,verdict\n3,4,fold,nowhere.zarr,reject\n8,9,crack,,\n"
    assert len(parse(text, shape=SHAPE, mask_shape=mask_shape)) == 1


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("3,4,fold,rejct\n", "line 2, column verdict.*there are accept, reject.*did you mean 'reject'"),
        ("3,4,fold,reject\n", "every flag of the file is rejected.*there is nothing to restore"),
        ("3,99,fold,reject\n", "z 3:99 leaves the volume"),
    ],
)
def test_verdicts_that_do_not_say_one_thing(rows: str, words: str) -> None:
    with pytest.raises(FlagError, match=f"(?s){words}"):
        parse(VERDICTS + rows, shape=SHAPE)


def test_a_review_sees_every_flag_as_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "flags.csv"
    path.write_text("z_start,z_stop,class,mask,verdict\n8,9,crack,masks/a.zarr,reject\n3,4,fold,,\n")
    assert [(f.kind, f.mask, f.verdict, f.line) for f in review(str(path), shape=SHAPE)] == [
        ("crack", "masks/a.zarr", "reject", 2), ("fold", "", "", 3)
    ]  # fmt: skip
