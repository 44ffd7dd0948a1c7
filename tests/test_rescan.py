"""A scan again: it looks at what is new, goes on where it was stopped, and leaves alone what people have changed."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

from benchmarks.defects import DEFECTS
from pipeline import cell
from pipeline.box import Box
from pipeline.detect import margin
from pipeline.errors import FlagError, Interrupted, UsageError
from pipeline.findings import jumps
from pipeline.flagedit import JUMP, FlagText, renewed
from pipeline.flagfile import COLUMNS, dump, load
from pipeline.flags import address, flagged
from pipeline.job import read_mask
from pipeline.report import contact_sheet
from pipeline.scan import scan
from pipeline.thresholds import Thresholds
from pipeline.volume import Volume
from tests.test_detect import tissue
from tests.test_scan import lines, save

DEPTH, MARGIN = 44, margin(Thresholds())


@pytest.fixture(scope="module")
def stack() -> NDArray[np.uint8]:
    sections = tissue(DEPTH)
    places = {4: "blank", 14: "missing tile", 20: "fold", 31: "blank", 38: "missing tile", 41: "fold"}
    for z, defect in places.items():
        sections[z], _ = DEFECTS[defect][0](sections[z], sections[z - 1], 1, np.random.default_rng(z))
    return sections


def grow(uri: str, stack: NDArray[np.uint8], depth: int) -> None:
    array: Any = zarr.open_array(uri, mode="r+").with_config({"write_empty_chunks": True})
    old = array.shape[0]
    array.resize((depth, *array.shape[1:]))
    array[old:] = stack[old:depth]


def masks(folder: Path) -> NDArray[np.uint8]:
    array = Volume.open(folder / "flags.masks.zarr")
    return array.read(Box.of(array.shape))


def ages(folder: Path) -> dict[Path, int]:
    return {p: p.stat().st_mtime_ns for p in (folder / "flags.masks.zarr/c").rglob("*") if p.is_file()}


def again(folder: Path, **options: Any) -> dict[str, Any]:
    return scan(str(folder / "raw.zarr"), str(folder / "flags.csv"), **options)


def edit(folder: Path, old: str, new: str) -> None:
    text = (folder / "flags.csv").read_text()
    assert old in text
    (folder / "flags.csv").write_text(text.replace(old, new))


def test_nights_of_growth_find_what_one_scan_finds(stack: NDArray[np.uint8], tmp_path: Path) -> None:
    (tmp_path / "nights").mkdir()
    uri = save(tmp_path / "nights/raw.zarr", stack[:22])
    assert again(tmp_path / "nights")["looked_at"] == 22
    first = lines(tmp_path / "nights/flags.csv")
    for depth, looked_at in ((23, 1 + MARGIN), (24, 1 + MARGIN), (DEPTH, DEPTH - 24 + MARGIN), (DEPTH, 0)):
        grow(uri, stack, depth)
        assert again(tmp_path / "nights")["looked_at"] == looked_at
    save(tmp_path / "raw.zarr", stack)
    again(tmp_path)
    one = (tmp_path / "flags.csv").read_text().replace(str(tmp_path), "")
    assert (tmp_path / "nights/flags.csv").read_text().replace(str(tmp_path / "nights"), "") == one
    assert len(lines(tmp_path / "flags.csv")) > len(first) >= 3
    np.testing.assert_array_equal(masks(tmp_path / "nights"), masks(tmp_path))
    assert masks(tmp_path)[[14, 20, 38]].any((1, 2)).all()


def test_what_is_unchanged_is_not_written_again(stack: NDArray[np.uint8], tmp_path: Path) -> None:
    uri = save(tmp_path / "raw.zarr", stack[:24])
    again(tmp_path)
    before, text = ages(tmp_path), (tmp_path / "flags.csv").stat().st_mtime_ns
    for chunk in (tmp_path / "raw.zarr/c/13").rglob("*"):
        chunk.touch()
    assert again(tmp_path)["looked_at"] == 24 - (13 - MARGIN)
    assert (ages(tmp_path), (tmp_path / "flags.csv").stat().st_mtime_ns) == (before, text)
    array: Any = zarr.open_array(uri, mode="r+")
    array[14] = tissue(DEPTH)[14]  # the lost tile was imaged again
    found = again(tmp_path)
    assert (found["added"], found["gone"]) == (0, 1)
    assert not [line for line in lines(tmp_path / "flags.csv") if line.startswith("14,")]
    assert not masks(tmp_path)[14].any()


def test_what_people_did_stays(stack: NDArray[np.uint8], tmp_path: Path) -> None:
    """A verdict, a class put right, a line that was removed, one of their own: even where something else is found now."""
    uri = save(tmp_path / "raw.zarr", stack[:24])
    again(tmp_path)
    rows = list(csv.DictReader((tmp_path / "flags.csv").read_text().splitlines()[1:]))
    assert [r["z_start"] for r in rows] == ["4", "14", "20"]
    mine = [{**rows[0], "class": "missing"}, rows[1] | {"verdict": "reject"}, {"z_start": 10, "z_stop": 11, "class": "blur", "source": "me"}]
    text = dump([{k: v for k, v in r.items() if k != "verdict"} for r in mine]).splitlines()
    text[1:] = [f"{line},{v}" for line, v in zip(text[1:], ("verdict", "", "reject", ""), strict=True)]
    (tmp_path / "flags.csv").write_text("\n".join([*text, "# mine", ""]))
    before, seen = (tmp_path / "flags.csv").read_text(), masks(tmp_path)
    assert seen[20].any()
    again(tmp_path)
    assert (tmp_path / "flags.csv").read_text() == before, "nothing new"
    array: Any = zarr.open_array(uri, mode="r+")
    for z in (4, 14, 20):
        array[z] = tissue(DEPTH)[z]
    array[10], _ = DEFECTS["fold"][0](stack[10], stack[9], 1, np.random.default_rng(0))
    found = again(tmp_path)
    assert found["held"] == [4, 10, 14, 20]
    assert (tmp_path / "flags.csv").read_text() == before
    np.testing.assert_array_equal(masks(tmp_path), seen)
    grow(uri, stack, DEPTH)
    again(tmp_path)
    after = (tmp_path / "flags.csv").read_text()
    assert set(before.splitlines()) <= set(after.splitlines())
    assert [line.split(",")[0] for line in lines(tmp_path / "flags.csv")] == ["4", "14", "10", "31", "38", "41"]
    assert "z_start" in after and all(line.count(",") >= 10 for line in lines(tmp_path / "flags.csv"))


def test_masks_that_were_lost_are_made_anew(stack: NDArray[np.uint8], tmp_path: Path) -> None:
    save(tmp_path / "raw.zarr", stack[:24])
    again(tmp_path)
    edit(tmp_path, "20,21,fold", "20,21,crack")  # whose mask a person relies on
    before, text = masks(tmp_path), (tmp_path / "flags.csv").read_text()
    assert before[[14, 20]].any((1, 2)).all()
    shutil.rmtree(tmp_path / "flags.masks.zarr")
    assert again(tmp_path)["looked_at"] == 2
    np.testing.assert_array_equal(masks(tmp_path), before)
    shutil.rmtree(tmp_path / "flags.masks.zarr/c/14")
    assert again(tmp_path)["looked_at"] == 1
    np.testing.assert_array_equal(masks(tmp_path), before)
    assert (tmp_path / "flags.csv").read_text() == text
    again(tmp_path, masks=str(tmp_path / "other.zarr"))
    np.testing.assert_array_equal(Volume.open(tmp_path / "other.zarr").read(Box.of(before.shape)), before)


def test_masks_that_were_lost_for_good_are_told(stack: NDArray[np.uint8], tmp_path: Path) -> None:
    uri = save(tmp_path / "raw.zarr", stack[:24])
    again(tmp_path)
    edit(tmp_path, "20,21,fold", "20,21,crack")
    shutil.rmtree(tmp_path / "flags.masks.zarr")
    array: Any = zarr.open_array(uri, mode="r+")
    array[20] = tissue(DEPTH)[20]
    for _ in range(2):
        with pytest.raises(UsageError, match="the masks of section 20 are lost") as caught:
            again(tmp_path)
        assert "give them a box and no mask" in str(caught.value)
    edit(tmp_path, "20,21,crack,", "20,21,crack,,,,,,me,\n#")
    assert again(tmp_path)["held"] == [20]


def test_a_scan_that_was_stopped_goes_on(stack: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cell, "DEEP", 3)
    save(tmp_path / "raw.zarr", stack[:24])
    told: list[dict[str, Any]] = []
    with pytest.raises(Interrupted, match="[2-5] of 8 cells looked at"):  # two, and those that were in hand
        again(tmp_path, tell=told.append, stopped=lambda: sum(e["kind"] == "slab" for e in told) >= 2)
    assert not (tmp_path / "flags.csv").exists()
    with (tmp_path / "flags.scan.jsonl").open("a") as file:
        file.write('{"slab": "ab')  # as a kill leaves it
    before = sum(e["kind"] == "slab" for e in told)
    told.clear()
    again(tmp_path, tell=told.append)
    assert before + sum(e["kind"] == "slab" for e in told) == 8
    stopped = (tmp_path / "flags.csv").read_text()
    for name in ("flags.csv", "flags.scan.jsonl"):
        (tmp_path / name).unlink()
    (tmp_path / "flags.masks.zarr").rename(tmp_path / "before.zarr")
    again(tmp_path)
    assert (tmp_path / "flags.csv").read_text() == stopped
    assert np.array_equal(masks(tmp_path), Volume.open(tmp_path / "before.zarr").read(Box.of((24, 192, 192))))


def test_of_two_findings_in_a_section_one_can_be_rejected(tmp_path: Path) -> None:
    stack = tissue(12)
    for seed, defect, severity in ((0, "crack", 1), (7, "contamination", 2)):
        stack[6], _ = DEFECTS[defect][0](stack[6], stack[5], severity, np.random.default_rng(seed))
    save(tmp_path / "raw.zarr", stack)
    again(tmp_path)
    both, wrote = flagged_in(tmp_path, 6), masks(tmp_path)[6]
    text = [line + (",reject" if ",contamination," in line else ",") for line in lines(tmp_path / "flags.csv")]
    (tmp_path / "flags.csv").write_text("\n".join([",".join([*COLUMNS, "verdict"]), *text, ""]))
    again(tmp_path)
    one = flagged_in(tmp_path, 6)
    assert len(text) == 2 and np.array_equal(both, wrote > 0) and np.array_equal(one, wrote & 2 > 0)
    assert one.sum() < both.sum() - 200, "the blob is no longer meant, but where it lies in the crack"
    page = contact_sheet(str(tmp_path / "flags.csv"), str(tmp_path / "raw.zarr"), str(tmp_path / "review.html"))
    assert page["flags"] == 2 and "cannot be shown" not in (tmp_path / "review.html").read_text()


def flagged_in(folder: Path, z: int) -> NDArray[np.bool_]:
    """The voxels of a section that the flags file means."""
    shape = Volume.open(folder / "raw.zarr").shape
    flags = load(str(folder / "flags.csv"), shape=shape, mask_shape=lambda uri: Volume.open(address(uri)).shape)
    return flagged(flags, Box.of(shape).with_z(z, z + 1), lambda uri, box: read_mask(uri, shape, box))[0] > 0


def test_what_cannot_be_read_is_refused_and_left(stack: NDArray[np.uint8], tmp_path: Path) -> None:
    """As spreadsheets save it: semicolons, Latin-1, UTF-16; a list; a range that was mistyped."""
    save(tmp_path / "raw.zarr", stack[:8])
    again(tmp_path)
    file, text = tmp_path / "flags.csv", (tmp_path / "flags.csv").read_text()
    spoiled = {
        "parted by semicolons": text.replace(",", ";").encode(),
        "not text in UTF-8": (text + "6,7,fold,,,,,,me,gel\u00f6st\n").encode("latin-1"),
        "is UTF-16": text.encode("utf-16"),
        "z 5:3000000000 leaves the volume": (text + "5,3000000000,missing,,,,,,me,x\n").encode(),
        "a scan cannot add to this list": b"4\n",
    }
    for words, data in spoiled.items():
        file.write_bytes(data)
        with pytest.raises(FlagError, match=words):
            again(tmp_path)
        assert file.read_bytes() == data


def test_notes_and_comments_as_people_write_them_stay(stack: NDArray[np.uint8], tmp_path: Path) -> None:
    uri = save(tmp_path / "raw.zarr", stack[:8])
    again(tmp_path)
    mine = '"# mine, with a comma",,\n6,7,fold,,,,,,me,a\u2028b\x0bc\x85d\n\n# mine\n'
    (tmp_path / "flags.csv").write_text((tmp_path / "flags.csv").read_text().replace("flags/1", "flags/1,,") + mine, encoding="utf-8")
    grow(uri, stack, 24)
    assert again(tmp_path)["added"] >= 2
    assert mine in (tmp_path / "flags.csv").read_text(encoding="utf-8")
    assert len(load(str(tmp_path / "flags.csv"), shape=(24, 192, 192))) == 4


def test_a_volume_that_lost_sections(stack: NDArray[np.uint8], tmp_path: Path) -> None:
    uri = save(tmp_path / "raw.zarr", stack[:24])
    again(tmp_path)
    whole, full = (tmp_path / "flags.csv").read_text(), masks(tmp_path)
    array: Any = zarr.open_array(uri, mode="r+")
    array.resize((12, 192, 192))
    found = again(tmp_path)
    assert (found["gone"], [line.split(",")[0] for line in lines(tmp_path / "flags.csv")]) == (2, ["4"])
    assert masks(tmp_path).shape == (12, 192, 192) and not list((tmp_path / "flags.masks.zarr/c/20").rglob("*/*"))
    assert len(load(str(tmp_path / "flags.csv"), shape=(12, 192, 192), mask_shape=lambda uri: Volume.open(uri).shape)) == 1
    grow(uri, stack, 24)
    again(tmp_path)
    assert (tmp_path / "flags.csv").read_text() == whole
    np.testing.assert_array_equal(masks(tmp_path), full)
    edit(tmp_path, "20,21,fold", "20,21,crack")  # what people have said is not dropped for them
    text = (tmp_path / "flags.csv").read_text()
    array.resize((12, 192, 192))
    with pytest.raises(FlagError, match="z 20:21 leaves the volume"):
        again(tmp_path)
    assert (tmp_path / "flags.csv").read_text() == text and masks(tmp_path)[20].any()


def test_a_project_moves_with_its_masks(stack: NDArray[np.uint8], tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    save(tmp_path / "here/raw.zarr", stack[:24])
    again(tmp_path / "here")
    meant = flagged_in(tmp_path / "here", 20)
    (tmp_path / "here").rename(tmp_path / "there")
    assert meant.any() and np.array_equal(flagged_in(tmp_path / "there", 20), meant)
    assert again(tmp_path / "there")["looked_at"] == 0
    rows = again(tmp_path / "there", masks=str(tmp_path / "apart.zarr"))["rows"]
    assert {row["mask"] for row in rows if "mask" in row} == {str(tmp_path / "apart.zarr")}


def test_refusals(stack: NDArray[np.uint8], tmp_path: Path) -> None:
    save(tmp_path / "raw.zarr", stack[:13])
    again(tmp_path)
    save(tmp_path / "other.zarr", stack[:13, :-1])
    with pytest.raises(UsageError, match="is of another volume"):
        scan(str(tmp_path / "other.zarr"), str(tmp_path / "flags.csv"))
    (tmp_path / "flags.scan.jsonl").write_text("{}\n")
    with pytest.raises(UsageError, match="what an earlier scan has looked at cannot be read"):
        again(tmp_path)
    (tmp_path / "flags.scan.jsonl").unlink()
    with pytest.raises(UsageError, match="flags.csv is there already"):
        again(tmp_path)


def test_a_voxel_size_that_was_told_once_is_known(stack: NDArray[np.uint8], tmp_path: Path) -> None:
    fine = stack[:13].repeat(2, axis=1).repeat(2, axis=2)
    zarr.save(str(tmp_path / "raw.zarr"), fine)  # does not say its own
    told = again(tmp_path, voxel_nm=(45, 4, 4))  # as a night is, by its configuration
    before = (tmp_path / "flags.csv").read_text()
    found = again(tmp_path)  # by hand
    assert (found["looked_at"], found["voxel_nm"], found["scan_shape"]) == (0, [45, 4, 4], told["scan_shape"])
    assert (tmp_path / "flags.csv").read_text() == before
    assert again(tmp_path, voxel_nm=(40, 4, 4))["voxel_nm"] == [40, 4, 4], "what is told now counts"
    with pytest.raises(UsageError, match=r"(?s)are \(192, 192\) px wide.*voxels of another size.*the --voxel-nm of then"):
        again(tmp_path, voxel_nm=(45, 8, 8))
    by_hand = str(tmp_path / "hand.csv")
    assert scan(str(tmp_path / "raw.zarr"), by_hand)["voxel_nm"] is None
    assert scan(str(tmp_path / "raw.zarr"), by_hand, voxel_nm=(45, 8, 8))["looked_at"] == 0, "8 nm is what it was taken for"


def test_jumps_are_told_once() -> None:
    far, further = ", by 50 px (y +30, x -40)", ", by 90 px (y +0, x -90) in 3 of 4 tiles"
    once = renewed("", [], [{"z_start": 3, "z_stop": 4, "class": "fold", "source": "zmend scan"}], {7: far})
    assert once.text.count("# from section 7 on the stack lies elsewhere, by 50 px (y +30, x -40): align it") == 1
    twice = renewed(once.text, [{"z_start": 3, "z_stop": 4, "class": "fold", "source": "zmend scan"}], [], {7: further, 9: far})
    assert (twice.new, twice.gone, twice.held) == ([], 1, [])
    assert twice.text.count("on the stack lies elsewhere") == 2 and "by 90 px" in twice.text, "and as far as it is now"
    assert FlagText.of(twice.text).flags == []
    mine = [JUMP.format(z=9, by="").replace("# ", "# I saw it: "), JUMP.format(z=7, by=far) + " (done)", f'"{JUMP.format(z=11, by="")}",,']
    noted = renewed("\n".join([*dump([]).splitlines(), *mine, ""]), [], [], {7: further, 9: far, 11: far}).text.splitlines()
    assert noted[2:] == [*mine[:2], JUMP.format(z=11, by=far)], "what a person has noted stays, and is not said again"


def test_how_far_it_jumps_is_what_most_tiles_see() -> None:
    seen = [[7, 4, 8], [3, 0, 12], [7, 8, 8], [7, 40, -8]]
    found = jumps(seen, (2, 2), tiles=4)
    assert found == [
        {"section": 3, "y_px": 0, "x_px": 24, "tiles": 1, "of": 4, "far": "by 24 px (y +0, x +24) in 1 of 4 tiles"},
        {"section": 7, "y_px": 16, "x_px": 16, "tiles": 3, "of": 4, "far": "by 23 px (y +16, x +16) in 3 of 4 tiles"},
    ]  # fmt: skip
    assert jumps([[3, 0, 12]], (2, 2), tiles=1)[0]["far"] == "by 24 px (y +0, x +24)"
