"""zmend scan: volumes in, flags files out that `zmend run` reads; the same through workers; lists of other programs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from numpy.typing import NDArray

from benchmarks.defects import DEFECTS
from pipeline import cell, look, maskfile
from pipeline import scan as module
from pipeline.box import Box
from pipeline.cli import cli
from pipeline.config import load as load_config
from pipeline.errors import FlagError, UsageError
from pipeline.findings import joined
from pipeline.flagfile import load
from pipeline.job import propose
from pipeline.run import run
from pipeline.scan import scan
from pipeline.site import Site
from pipeline.thresholds import Thresholds
from pipeline.verify import verify
from pipeline.volume import Volume
from tests.test_detect import tissue

NM = (45.0, 8.0, 8.0)


def save(path: Path, voxels: NDArray[np.generic], chunks: tuple[int, int, int] = (1, 96, 96), nm: tuple[float, ...] = NM) -> str:
    array = zarr.create_array(
        str(path), shape=voxels.shape, dtype=voxels.dtype, chunks=chunks, dimension_names=("z", "y", "x"),
        attributes={"zmend": {"voxel_nm": list(nm)}}, config={"write_empty_chunks": True},
    )  # fmt: skip
    array[...] = voxels
    return str(path)


@pytest.fixture
def damaged() -> NDArray[np.uint8]:
    stack = tissue(16)
    for z, defect in ((4, "blank"), (8, "missing tile"), (12, "fold")):
        stack[z], _ = DEFECTS[defect][0](stack[z], stack[z - 1], 1, np.random.default_rng(z))
    return stack


def lines(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if line[:1].isdigit()]


def test_what_a_scan_finds_is_planned_run_and_verified(damaged: NDArray[np.uint8], tmp_path: Path) -> None:
    save(tmp_path / "raw.zarr", damaged)
    result = CliRunner().invoke(cli, ["scan", str(tmp_path / "raw.zarr"), "--out", str(tmp_path / "flags.csv"), "--json"], catch_exceptions=False)
    found = json.loads(result.stdout)
    assert found["classes"] == {"blank": 1, "fold": 1, "missing": 1}
    assert {row["z_start"] for row in found["rows"]} == {4, 8, 12}
    assert all(row["note"].startswith("score ") for row in found["rows"])
    assert "nm long" in found["rows"][-1]["note"]
    body = {"volume": {"path": "raw.zarr"}, "flags": "flags.csv", "output": {"path": "out.zarr"}, "recipe": {"restorer": "linear"}, "site": {"workers": 0}}
    (tmp_path / "zmend.yaml").write_text(json.dumps(body))  # which is YAML, too
    run(propose(load_config(tmp_path / "zmend.yaml")))
    assert verify(str(tmp_path / "out.zarr"))["ok"]
    mended = zarr.open_array(str(tmp_path / "out.zarr" / "0"), mode="r")[...]
    assert (mended[4] != damaged[4]).mean() > 0.9
    kept = [z for z in range(16) if z not in (4, 8, 12)]
    assert np.array_equal(mended[kept], damaged[kept])


def test_workers_find_what_this_process_finds(damaged: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[int] = []
    enough = module._enough
    monkeypatch.setattr(module, "_enough", lambda site, voxels: begun.append(enough(site, voxels).workers) or enough(site, voxels))
    uri = save(tmp_path / "raw.zarr", damaged)
    scan(uri, str(tmp_path / "here.csv"), masks=str(tmp_path / "masks.zarr"))
    here = Volume.open(tmp_path / "masks.zarr").read(Box.of(damaged.shape))
    (tmp_path / "masks.zarr").rename(tmp_path / "before.zarr")
    scan(uri, str(tmp_path / "little.csv"), masks=str(tmp_path / "masks.zarr"), site=Site.model_validate({"workers": 2}))
    (tmp_path / "masks.zarr").rename(tmp_path / "little.zarr")
    monkeypatch.setattr(module, "LITTLE", damaged.size - 1)
    scan(uri, str(tmp_path / "there.csv"), masks=str(tmp_path / "masks.zarr"), site=Site.model_validate({"workers": 2}))
    assert begun == [0, 0, 2], "few data are looked at in this process"
    assert (tmp_path / "here.csv").read_text() == (tmp_path / "there.csv").read_text()
    assert np.array_equal(Volume.open(tmp_path / "masks.zarr").read(Box.of(damaged.shape)), here)
    assert here.any()


def test_a_scan_without_the_workers_that_were_asked_for_says_so(tmp_path: Path) -> None:
    uri = save(tmp_path / "raw.zarr", tissue(3))

    def said(*more: str) -> str:
        result = CliRunner().invoke(cli, ["scan", uri, "--out", str(tmp_path / f"flags{len(more)}{more[-1:]}.csv"), *more])
        assert result.exit_code == 0, result.output
        return result.output

    words = "in this process: {} would take longer to start than it to look"
    assert words.format("3 workers") in said("--workers", "3") and words.format("a worker") in said("--workers", "1")
    assert "in this process" not in said()


def test_how_the_sections_are_cut_does_not_matter(damaged: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = np.concatenate([damaged, tissue(40, seed=0)[16:]])
    uri = save(tmp_path / "raw.zarr", long)
    scan(uri, str(tmp_path / "one.csv"), masks=str(tmp_path / "masks.zarr"))
    (tmp_path / "masks.zarr").rename(tmp_path / "before.zarr")
    monkeypatch.setattr(cell, "DEEP", 7)
    monkeypatch.setattr(cell, "BLOCK", 3)
    found = scan(uri, str(tmp_path / "many.csv"), masks=str(tmp_path / "masks.zarr"))
    assert found["cells"] == 6
    assert (tmp_path / "one.csv").read_text() == (tmp_path / "many.csv").read_text()
    assert len(lines(tmp_path / "one.csv")) >= 3


def test_absent_chunks_are_missing_sections_and_black_ones_are_blank(tmp_path: Path) -> None:
    stack = tissue(12)
    stack[8] = 0
    save(tmp_path / "raw.zarr", stack)
    for chunk in (tmp_path / "raw.zarr" / "c" / "5").rglob("*"):
        if chunk.is_file():
            chunk.unlink()
    scan(str(tmp_path / "raw.zarr"), str(tmp_path / "flags.csv"))
    assert [line.split(",")[:3] for line in lines(tmp_path / "flags.csv")] == [["5", "6", "missing"], ["8", "9", "blank"]]


def test_finer_pixels_are_averaged_and_flags_are_in_voxels_of_level_0(damaged: NDArray[np.uint8], tmp_path: Path) -> None:
    fine = damaged.repeat(2, 1).repeat(2, 2)[:, :-1, :-1]
    uri = save(tmp_path / "raw.zarr", fine, nm=(45.0, 4.0, 4.0))
    found = scan(uri, str(tmp_path / "flags.csv"))
    assert found["scan_shape"] == [16, 192, 192]
    assert found["classes"] == {"blank": 1, "fold": 1, "missing": 1}
    flags = load(str(tmp_path / "flags.csv"), shape=fine.shape, mask_shape=lambda m: Volume.open(m, mask=True).shape)
    tile = next(f for f in flags if f.kind == "missing")
    ys, xs = np.nonzero(fine[8] == np.bincount(fine[8].ravel()).argmax())
    assert abs(tile.box.start[1] - ys.min()) <= 4 and abs(tile.box.stop[2] - 1 - xs.max()) <= 4


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(10, 331, 350), (10, 320, 352)], ids=str)
def test_chunk_by_chunk_a_scan_sees_what_it_sees_at_once(
    shape: tuple[int, int, int], dtype: type[np.generic], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    voxels = np.random.default_rng(5).integers(0, 250, shape).astype(dtype)
    uri = save(tmp_path / "raw.zarr", voxels, (4, 160, 64))
    (tmp_path / "raw.zarr" / "c" / "1" / "1" / "2").unlink()
    source = Volume.open(uri)
    eye = look.Look(uri, 0, 2, 0.0, 255.0, "", Thresholds())
    reads: list[Box] = []
    read = source.read
    monkeypatch.setattr(source, "read", lambda box: reads.append(box) or read(box))
    for box in (Box((0, 0, 0), look.scan_shape(shape, 2)), Box((3, 5, 17), (7, 97, 160)), Box((4, 80, 0), (5, 160, 33))):
        monkeypatch.setattr(look, "LARGE", 10**9)
        reads.clear()
        once, absent = look.read(source, eye, box)
        assert len(reads) == 1
        monkeypatch.setattr(look, "LARGE", 1)
        reads.clear()
        pieces, gone = look.read(source, eye, box)
        assert len(reads) > 1 and gone == absent
        assert np.array_equal(pieces, once) and once.dtype == np.uint8
    assert len(look._pieces(source, Box.of(shape), 128)) == 1, "chunks that pixels of the scan straddle are not read alone"


def test_a_voxel_size_that_nobody_told_is_asked_for(damaged: NDArray[np.uint8], tmp_path: Path) -> None:
    fine = damaged[:6].repeat(2, axis=1).repeat(2, axis=2)
    zarr.save(str(tmp_path / "raw.zarr"), fine)  # what people have

    def run_it(*more: str) -> tuple[int, str]:
        result = CliRunner().invoke(cli, ["scan", str(tmp_path / "raw.zarr"), "--out", str(tmp_path / f"flags{len(more)}.csv"), *more])
        return result.exit_code, result.output

    code, said = run_it()
    assert code == 0 and "does not say its voxel size: its pixels were taken for 8 nm. Say it with --voxel-nm Z,Y,X" in said
    code, said = run_it("--voxel-nm", "45,4,4")
    assert code == 0 and "voxel size" not in said
    rows = [set(lines(tmp_path / f"flags{n}.csv")) for n in (0, 2)]
    assert any(row.startswith("4,5,blank,") for row in rows[1]) and rows[0] != rows[1]
    with pytest.raises(UsageError, match="'45,4' is not three numbers"):
        CliRunner().invoke(cli, ["scan", str(tmp_path / "raw.zarr"), "--voxel-nm", "45,4"], catch_exceptions=False)


def test_sixteen_bits_are_scanned_in_the_window_that_they_use(damaged: NDArray[np.uint8], tmp_path: Path) -> None:
    uri = save(tmp_path / "raw.zarr", damaged.astype(np.uint16) * 16 + 20000)
    assert set(scan(uri, str(tmp_path / "flags.csv"))["classes"]) >= {"blank", "fold", "missing"}


def test_a_volume_too_narrow_to_tell_anything_is_refused(tmp_path: Path) -> None:
    uri = save(tmp_path / "raw.zarr", tissue(12)[:, :, :30])
    with pytest.raises(UsageError, match="the volume is 30 px wide at the size of the scan") as refused:
        scan(uri, str(tmp_path / "flags.csv"))
    assert "by hand" in str(refused.value) and sorted(p.name for p in tmp_path.iterdir()) == ["raw.zarr"]


def test_what_is_left_at_an_edge_belongs_to_the_tile_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cell, "TILE", 96)
    assert cell._tiles(96, 32) == [(0, 96)] and cell._tiles(127, 32) == [(0, 127)]
    assert cell._tiles(128, 32) == [(0, 96), (96, 128)] and cell._tiles(223, 32) == [(0, 96), (96, 223)]
    monkeypatch.setattr(maskfile, "TILE", 96)
    stack = tissue(13)[:, :, :120]
    stack[6, 40:90, 98:] = 0  # in the strip alone
    found = scan(save(tmp_path / "raw.zarr", stack), str(tmp_path / "flags.csv"))
    assert (found["cells"], found["classes"]) == (2, {"missing": 1})
    again = scan(str(tmp_path / "raw.zarr"), str(tmp_path / "flags.csv"))
    assert again["looked_at"] == 0, "its mask is where one looks for it"
    (row,) = found["rows"]
    assert (row["x_start"], row["x_stop"], row["y_start"], row["y_stop"]) == (98, 120, 40, 90)


def test_an_intact_volume_gives_a_file_without_flags(tmp_path: Path) -> None:
    found = scan(save(tmp_path / "raw.zarr", tissue(12)), str(tmp_path / "flags.csv"))
    assert found["found"] == 0 and lines(tmp_path / "flags.csv") == []


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "flags.csv").write_text("17\n")
    with pytest.raises(UsageError, match=r"flags.csv is there already"):
        scan(save(tmp_path / "raw.zarr", tissue(12)), str(tmp_path / "flags.csv"))
    assert (tmp_path / "flags.csv").read_text() == "17\n"


@pytest.mark.parametrize("command", [
    "scan raw.zarr --out s3://b/found.csv", "nightly zmend.yaml", "report out.zarr --out s3://b/r.html",
    "report raw.zarr --flags mine.csv --out s3://b/r.html", "view out.zarr --link s3://b/v.json --base-url https://h/m.zarr",
])  # fmt: skip
def test_files_for_people_are_not_written_to_a_folder_called_s3(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    stack = tissue(6, 64)
    stack[3] = 0
    save(tmp_path / "raw.zarr", stack, (1, 64, 64))
    body = {"volume": {"path": "raw.zarr"}, "flags": "mine.csv", "output": {"path": "out.zarr"}, "recipe": {"restorer": "linear"}, "site": {"workers": 0}, "certificate": 0}
    (tmp_path / "zmend.yaml").write_text(json.dumps(body))
    (tmp_path / "mine.csv").write_text("3\n")
    if "out.zarr" in command:
        run(propose(load_config(tmp_path / "zmend.yaml")))
    (tmp_path / "zmend.yaml").write_text(json.dumps({**body, "flags": "s3://b/found.csv"}))
    result = CliRunner().invoke(cli, command.split())
    assert isinstance(result.exception, UsageError) and result.exception.exit_code == 2
    assert "s3://b/" in result.exception.what and "is not on a disk" in result.exception.what
    assert not (tmp_path / "s3:").exists()


def _tile(kind: str, x: int, masked: bool = False) -> dict[str, object]:
    return {"z": 3, "class": kind, "score": 1.0 + x, "reason": "", "masked": masked, "box": [0, 10, x, x + 10]}


def test_a_section_is_flagged_whole_where_all_its_tiles_are() -> None:
    both = joined([_tile("blur", 0), _tile("blur", 10), _tile("fold", 0, True)], (5, 10, 20))
    assert [(r["class"], r["box"], r["score"]) for r in both] == [("blur", None, 11.0)]
    one = joined([_tile("blur", 10)], (5, 10, 20))
    assert [r["box"] for r in one] == [[0, 10, 10, 20]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"sid": 1, "broken_slices": [3, 7]}', [(3, 4), (7, 8)]),
        ('{"broken_slices": {"7": 1, "3": -1}}', [(3, 4), (7, 8)]),
        ('{"4": 1}', [(4, 5)]),
        ("[2, [5, 8]]", [(2, 3), (5, 8)]),
    ],
)
def test_lists_of_other_programs_are_read_as_flags(text: str, expected: list[tuple[int, int]], tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text(text)
    flags = load(str(tmp_path / "broken.json"), shape=(10, 4, 4))
    assert [(f.box.start[0], f.box.stop[0]) for f in flags] == expected
    assert {f.kind for f in flags} == {"missing"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"broken_slices": [3,', "this is not JSON"),
        ('{"sid": 3, "title": "x"}', "this JSON is no list of sections"),
        ('["seven"]', "'seven' is no section"),
        ("[true]", "True is no section"),
        ("[]", "no flag in the file"),
        ("[3, 99]", "leaves the volume"),
    ],
)
def test_other_json_is_refused(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text(text)
    with pytest.raises(FlagError, match=words):
        load(str(tmp_path / "broken.json"), shape=(10, 4, 4))
