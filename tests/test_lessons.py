"""Lessons: only intact sections are learnt from; the same ones every time; whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from model import data
from pipeline import cli, lessons
from pipeline.blend import to_unit
from pipeline.box import Box
from pipeline.columns import LEAST, Columns, boxes_of, choose, kept, textured
from pipeline.errors import InputError, UnfitError, UsageError
from pipeline.intensity import measure
from pipeline.lessons import Request, take
from pipeline.phantom import phantom
from pipeline.volume import Volume
from tests.jobs import NM, ROOT, command, save, tree, voxels
from tests.stores import KINDS, Kind, kind, noise, serve, write_volume

SHAPE = (40, 192, 200)
POISON, TISSUE = 251, (20, 230)  # a grey that only damaged voxels have; what the tissue is cut to
FLAGS = """z_start,z_stop,class,y_start,y_stop,x_start,x_stop,mask
9,10,missing,,,,,
18,20,missing,,,,,
25,26,fold,0,90,0,40,
30,31,crack,,,,,mask.zarr
39,40,do_not_touch,,,,,
"""


@pytest.fixture(scope="module")
def tissue() -> np.ndarray:
    return phantom(SHAPE, seed=5, voxel_nm=NM).clip(*TISSUE)


@pytest.fixture
def own(tmp_path: Path, tissue: np.ndarray) -> Path:
    """Somebody's volume, raw.zarr, whose flagged voxels are all poison: flags.csv and mask.zarr tell which."""
    raw, mask = tissue.copy(), np.zeros(SHAPE, np.uint8)
    mask[30, 100:140, 150:190] = 1
    raw[9], raw[18:20], raw[25, :90, :40], raw[39] = (POISON,) * 4
    raw[mask > 0] = POISON
    save(tmp_path / "raw.zarr", raw, (8, 64, 64))
    save(tmp_path / "mask.zarr", mask, (8, 64, 64))
    (tmp_path / "flags.csv").write_text(FLAGS)
    return tmp_path


def ask(folder: Path, **changes: Any) -> Request:
    return replace(Request(str(folder / "raw.zarr"), str(folder / "flags.csv"), crop=64), **changes)


def raws(folder: Path | str) -> dict[str, tuple[Box, np.ndarray]]:
    """Every lesson of a folder: where it was taken, and its greys."""
    manifest = json.loads((Path(folder) / "manifest.json").read_text())
    found = {}
    for name, entry in manifest.items():
        with np.load(Path(folder) / entry["file"]) as arrays:
            found[name] = Box(*map(tuple, entry["box"])), arrays["raw"]
    return found


# ---- which boxes


@pytest.mark.parametrize("shape", [(16, 300, 280), (7, 64, 64), (200, 700, 900), (30, 512, 512)])
def test_columns_cover_the_volume_once_and_hold_a_crop(shape: tuple[int, int, int]) -> None:
    columns, seen = Columns.of(shape, 64), np.zeros(shape, np.uint8)
    for i in range(len(columns)):
        seen[columns[i].within(Box.of(shape))] += 1
        assert min(columns[i].shape[1:]) >= 64
    assert (seen == 1).all()


@pytest.mark.parametrize(
    ("sections", "spans"),
    [
        ("......", []),  # one less than a training window needs
        (".......", [(0, 7)]),
        ("...x.......x.", [(4, 11)]),
        (".............", [(0, 13)]),  # 13 would give two boxes, one of them too short
        ("..............", [(0, 7), (7, 14)]),
        (".........................x", [(0, 8), (8, 16), (16, 25)]),
        ("xxxxxxxxx", []),
    ],
)
def test_runs_of_intact_sections_become_boxes(sections: str, spans: list[tuple[int, int]]) -> None:
    column = Box((100, 5, 6), (100 + len(sections), 70, 80))
    found = boxes_of(column, np.array([c == "." for c in sections]))
    assert found == [column.with_z(100 + a, 100 + b) for a, b in spans]


def all_of(shape: tuple[int, int, int], seed: int = 0) -> list[Box]:
    return list(choose(shape, 64, seed, 1, lambda column: np.ones(column.shape[0], bool)))


def test_the_choice_is_a_function_of_its_arguments_and_uses_a_volume_up_once() -> None:
    shape = (100, 700, 600)
    boxes = all_of(shape)
    assert boxes == all_of(shape)
    assert boxes != all_of(shape, seed=1)
    seen = np.zeros(shape, np.uint8)
    for box in boxes:
        seen[box.within(Box.of(shape))] += 1
    assert (seen == 1).all()


def test_a_petabyte_is_chosen_from_in_a_moment() -> None:
    shape = (25_000, 200_000, 200_000)
    boxes = list(islice(choose(shape, 128, 0, 81, lambda column: np.ones(column.shape[0], bool)), 81))
    assert all(box in Box.of(shape) and min(box.shape[1:]) >= 256 for box in boxes)
    starts = np.array([box.start for box in boxes]) / shape
    assert (starts.std(0) > 0.2).all(), "they come from all over"


def test_background_and_blank_sections_are_seen() -> None:
    rng = np.random.default_rng(0)
    grey = rng.integers(60, 200, (12, 32, 32), dtype=np.uint8)
    assert textured(grey) == (0, 12)
    grey[2] = 0  # a missing section that nobody flagged
    grey[11, :20] = 128  # mostly resin
    assert textured(grey) == (3, 11)
    assert textured(np.full((9, 32, 32), 7, np.uint8)) == (0, 0)


@pytest.mark.parametrize(("count", "expected"), [(1, 0), (3, 0), (4, 1), (8, 1), (16, 2), (81, 10)])
def test_an_eighth_is_kept_for_validation(count: int, expected: int) -> None:
    assert kept(count) == expected


def test_every_lesson_is_deep_enough_for_every_window_of_training() -> None:
    raw = np.zeros((LEAST, 64, 64), np.uint8)
    stacks = [data.Stack(data.Part("shortest", (0, None)), raw, NM, "none")]
    for step in range(60):
        data.batch(stacks, seed=0, step=step, size=2, crop=64)


# ---- what is in them


def test_no_flagged_voxel_is_learnt_from(own: Path) -> None:
    found = take(ask(own), own / "s")
    source = Volume.open(own / "raw.zarr")
    taken = raws(found["folder"])
    assert len(taken) == found["boxes"] >= 4
    for box, raw in taken.values():
        assert raw.dtype == np.uint8 and not (raw == POISON).any()
        assert np.array_equal(raw, source.read(box)), "uint8 is taken as it is"
        assert raw.shape[0] >= LEAST
    sections = {z for box, _ in taken.values() for z in range(box.start[0], box.stop[0])}
    assert sections.isdisjoint({9, 18, 19, 39})
    assert {25, 30} <= sections, "beside a fold and a mask the section is intact"


def test_without_flags_everything_that_is_no_background_is_learnt_from(own: Path) -> None:
    boxes = [box for box, _ in raws(take(ask(own, flags=""), own / "s")["folder"]).values()]
    assert {25, 30} <= {z for box in boxes for z in range(box.start[0], box.stop[0])}
    assert all(9 not in range(box.start[0], box.stop[0]) for box in boxes), "a section of one grey teaches nothing"


@pytest.mark.parametrize("sharded", [False, True])
def test_an_absent_chunk_is_never_intact(tmp_path: Path, tissue: np.ndarray, sharded: bool) -> None:
    shards: dict[str, Any] = {"shards": (8, 64, 64)} if sharded else {}
    raw = save(tmp_path / "raw.zarr", tissue, (8, 32, 32), **shards)
    hole = Box((16, 0, 0), (24, 64, 64))
    raw.erase(hole)
    taken = raws(take(ask(tmp_path, flags=""), tmp_path / "s")["folder"]).values()
    assert all((box & hole).size == 0 and raw.min() >= TISSUE[0] for box, raw in taken)
    assert any(box.start[0] < 24 and box.stop[0] > 16 for box, _ in taken), "the tissue beside it is"


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.name)
def test_every_layout_of_a_volume_gives_the_same_lessons(kind: Kind, tmp_path: Path) -> None:
    grey = noise((16, 96, 80), kind.dtype)
    uri = write_volume(tmp_path / "raw.zarr", kind, [grey])
    voxel_nm = None if kind.ome else (40.0, 8.0, 8.0)
    found = take(Request(uri, voxel_nm=voxel_nm, crop=32), tmp_path / "s")
    window = (0.0, 255.0) if grey.dtype == np.uint8 else measure(Volume.open(uri))
    expected = np.rint(to_unit(grey, *window) * np.float32(255)).astype(np.uint8)
    taken = raws(found["folder"])
    assert sum(raw.size for _, raw in taken.values()) == grey.size == found["voxels"]
    for box, raw in taken.values():
        assert np.array_equal(raw, expected[box.within(Box.of(grey.shape))])
    manifest = json.loads((Path(found["folder"]) / "manifest.json").read_text())
    assert all(entry["voxel_zyx_nm"] == [40, 8, 8] for entry in manifest.values())


def test_16_bits_are_seen_through_the_window_of_a_run(tmp_path: Path, tissue: np.ndarray) -> None:
    """12 bits somewhere in 16: measured, they fill the grey scale; a window that is given is used."""
    save(tmp_path / "raw.zarr", tissue.astype(np.uint16) * 8 + 1000, (8, 64, 64))
    measured = raws(take(ask(tmp_path, flags=""), tmp_path / "s")["folder"])
    assert all(raw.std() > 30 for _, raw in measured.values())
    given = raws(take(ask(tmp_path, flags="", intensity=(1000.0, 3040.0)), tmp_path / "t")["folder"])
    for box, raw in given.values():
        assert np.array_equal(raw, tissue[box.within(Box.of(SHAPE))])


def test_a_volume_on_the_web_is_learnt_from(own: Path) -> None:
    here = take(ask(own), own / "s")["folder"]
    with serve(own) as address:
        there = take(ask(own, volume=f"{address}/raw.zarr"), own / "t")["folder"]
    for (box, raw), (other, same) in zip(raws(here).values(), raws(there).values(), strict=True):
        assert box == other and np.array_equal(raw, same)


def test_the_budget_ends_it(own: Path) -> None:
    few = take(ask(own, megavoxels=0.2), own / "s")
    assert few["boxes"] < take(ask(own), own / "t")["boxes"]
    assert 0.2e6 <= few["voxels"] < 0.6e6


def test_the_manifest_says_use_terms_and_size_and_training_reads_it(own: Path) -> None:
    folder = Path(take(ask(own, licence="CC0, ours", voxel_nm=(50.0, 5.0, 5.0)), own / "s")["folder"])
    manifest = json.loads((folder / "manifest.json").read_text())
    uses, starts = [e["use"] for e in manifest.values()], [e["box"][0] for e in manifest.values()]
    assert uses == sorted(uses) and starts == sorted(starts), "the last along z are kept for validation"
    assert uses.count("validation") == kept(len(uses)) >= 1
    stacks = data.load(folder)
    assert [s.part.name for s in stacks] == [name for name, e in manifest.items() if e["use"] == "train"]
    assert {s.licence for s in stacks} == {"CC0, ours"}
    assert {s.voxel_nm for s in stacks} == {(50.0, 5.0, 5.0)}
    assert {e["licence"] for e in raws_manifest(take(ask(own), own / "t")["folder"])} == {
        "the owner's own data; not stated"
    }


def raws_manifest(folder: str) -> list[dict[str, Any]]:
    return list(json.loads((Path(folder) / "manifest.json").read_text()).values())


# ---- the same ones every time, whole or not at all


def content(folder: Path) -> dict[str, str]:
    return {name: digest for name, (digest, _) in tree(folder).items()}


def test_the_same_request_gives_the_same_bytes_and_is_not_taken_twice(own: Path) -> None:
    one, events = take(ask(own), own / "s"), list[Any]()
    assert content(own / "s") == content(Path(take(ask(own), own / "t")["folder"]).parent)
    before = tree(own / "s")
    shutil.rmtree(own / "raw.zarr" / "c")  # what was taken is there: no voxel is read again
    assert take(ask(own), own / "s", events.append) == one
    assert tree(own / "s") == before and not events


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"flags": ""}, "changed since: flags"),
        ({"megavoxels": 1.0}, "changed since: megavoxels"),
        ({"crop": 96, "seed": 3}, "changed since: crop, seed"),
        ({"licence": "CC0"}, "changed since: licence"),
        ({"intensity": (1.0, 200.0)}, "changed since: intensity"),
        ({"voxel_nm": (40.0, 4.0, 4.0)}, "changed since: shape, type or voxel size"),
    ],
)
def test_lessons_that_were_taken_otherwise_are_refused(own: Path, change: dict[str, Any], words: str) -> None:
    take(ask(own), own / "s")
    before = tree(own / "s")
    with pytest.raises(InputError, match="the lessons there were taken otherwise") as error:
        take(ask(own, **change), own / "s")
    assert words in str(error.value)
    assert f"zmend train --data {own}/s/lessons --state {own}/s" in str(error.value)
    assert tree(own / "s") == before


def test_a_moved_volume_is_refused(own: Path) -> None:
    take(ask(own), own / "s")
    shutil.copytree(own / "raw.zarr", own / "other.zarr")
    with pytest.raises(InputError, match="changed since: volume"):
        take(ask(own, volume=str(own / "other.zarr")), own / "s")


@pytest.mark.parametrize("spoil", ["cut", "remove"])
def test_a_spoilt_lesson_is_found(own: Path, spoil: str) -> None:
    folder = Path(take(ask(own), own / "s")["folder"])
    first = min(folder.glob("*.npz"))
    if spoil == "cut":
        first.write_bytes(first.read_bytes()[:-1])
    else:
        first.unlink()
    with pytest.raises(InputError, match=rf"lesson {first.name} is not what was taken(.|\n)*rm -r {folder}"):
        take(ask(own), own / "s")


def test_a_folder_that_is_in_the_way_is_left_alone(own: Path) -> None:
    (own / "s" / "lessons").mkdir(parents=True)
    (own / "s" / "lessons" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="the folder is in the way of the lessons"):
        take(ask(own), own / "s")
    assert (own / "s" / "lessons" / "notes.txt").read_text() == "mine"


KILLED = """
import os, sys
from pathlib import Path
from pipeline import files, lessons
from pipeline.lessons import Request, take
put, count = files.Files.put, 0
def deadly(self, key, data):
    global count
    count += 1
    if count == int(sys.argv[2]):
        Path(self.uri).mkdir(parents=True, exist_ok=True)
        Path(self.uri, key).write_bytes(data[:100])
        os.kill(os.getpid(), 9)
    put(self, key, data)
files.Files.put = deadly
folder = Path(sys.argv[1])
take(Request(str(folder / "raw.zarr"), str(folder / "flags.csv"), crop=64), folder / "s")
"""


@pytest.mark.parametrize("number", [1, 3, "manifest", "made_of"])
def test_a_kill_leaves_nothing_half_made(own: Path, number: int | str) -> None:
    boxes = take(ask(own), own / "t")["boxes"]
    last = {"manifest": boxes + 1, "made_of": boxes + 2}
    killed = subprocess.run([sys.executable, "-c", KILLED, str(own), str(last.get(str(number), number))], cwd=ROOT,
                            env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)  # fmt: skip
    assert killed.returncode == -signal.SIGKILL
    assert not (own / "s" / "lessons").exists()
    take(ask(own), own / "s")
    assert content(own / "s") == content(own / "t")


def test_a_full_disk_leaves_nothing_behind(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(lessons.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1000))  # type: ignore[attr-defined]
        with pytest.raises(UnfitError, match=r"no room for 2 MB of lessons(.|\n)*--megavoxels 64"):
            take(ask(own), own / "s")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(lessons.Files, "put", full)
    with pytest.raises(OSError, match="No space left"):
        take(ask(own), own / "s")
    assert not (own / "s").exists() or not list((own / "s").iterdir())


# ---- what cannot be learnt from


@pytest.mark.parametrize(
    ("flags", "changes", "what", "do"),
    [
        ("z_start,z_stop,class\n" + "".join(f"{z},{z + 1},missing\n" for z in range(5, 40, 6)), {},
         r"no run of 7 intact sections anywhere(.|\n)*touches has 5", "flag a box or a mask"),
        (FLAGS, {"crop": 256}, r"smaller than the crop of 256 px(.|\n)*192 × 200 px", "give --crop 192"),
        (FLAGS.replace("39,40,do", "39,41,do"), {}, r"z 39:41 leaves the volume(.|\n)*flags.csv, line 6", "1-based"),
        (FLAGS, {"voxel_nm": (8.0, 8.0, 8.0)}, "the voxels are cubes of 8 nm", "--data"),
        (FLAGS, {"intensity": (200.0, 100.0)}, "intensity window 200 to 100 is not one of uint8", "black, then white"),
        (FLAGS, {"intensity": (0.0, 4095.0)}, "intensity window 0 to 4095 is not one of uint8", "between 0 and 255"),
        (FLAGS, {"flags": "nowhere.csv"}, r"there is no such flags file(.|\n)*nowhere.csv", "--flags"),
        (FLAGS, {"volume": "nowhere.zarr"}, "there is no Zarr volume here", "check the path"),
        (FLAGS, {"level": 3}, "level 3 of an array that has no levels", "leave level out"),
    ],
)  # fmt: skip
def test_what_cannot_be_learnt_from_is_refused_in_words(
    own: Path, flags: str, changes: dict[str, Any], what: str, do: str
) -> None:
    (own / "flags.csv").write_text(flags)
    with pytest.raises(InputError, match=what) as error:
        take(ask(own, **changes), own / "s")
    assert do in str(error.value)
    assert not (own / "s").exists() or not list((own / "s").iterdir())


def test_a_crop_that_no_smaller_one_mends_points_elsewhere(tmp_path: Path) -> None:
    save(tmp_path / "raw.zarr", noise((9, 48, 48)), (8, 48, 48))
    with pytest.raises(InputError, match=r"smaller than the crop(.|\n)*a finer level"):
        take(ask(tmp_path, flags="", crop=128), tmp_path / "s")


def test_a_volume_that_does_not_say_its_voxel_size_is_asked_for_it(tmp_path: Path) -> None:
    uri = write_volume(tmp_path / "raw.zarr", kind("v3"), [noise((9, 64, 64))])
    with pytest.raises(InputError, match=r"the voxel size is not known(.|\n)*--voxel-size 45 4.6 4.6"):
        take(Request(uri, crop=64), tmp_path / "s")


def test_a_volume_of_background_teaches_nothing(tmp_path: Path) -> None:
    save(tmp_path / "raw.zarr", np.full((16, 96, 96), 90, np.uint8), (8, 96, 96))
    with pytest.raises(InputError, match=r"mostly one grey(.|\n)*background(.|\n)*--intensity"):
        take(ask(tmp_path, flags=""), tmp_path / "s")


# ---- the command


def run(*args: str) -> int:
    try:
        cli.cli.main(["train", *args], standalone_mode=False)
    except SystemExit as end:
        return int(end.code or 0)
    raise AssertionError("a verb of the model ends with its code")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "give --data or --volume, one of the two"),
        (["--data", "d", "--volume", "v"], "give --data or --volume, one of the two"),
        (["--volume", "v"], "--volume needs --state"),
        (["--data", "d", "--flags", "f"], "--flags goes with --volume"),
        (["--data", "d", "--voxel-size", "1", "2", "3"], "--voxel-size goes with --volume"),
    ],
)
def test_the_command_line_must_say_one_thing(args: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        run(*args)


def test_training_is_handed_the_lessons_and_every_other_option(
    own: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr(cli.train, "hand_over", lambda verb, module, args: seen.append([verb, module, *args]) or 75)
    state = str(own / "s")
    own_options = ["--volume", f"{own}/raw.zarr", "--flags", f"{own}/flags.csv", "--megavoxels", "9"]
    assert run(*own_options, "--steps", "7", "--state", state, "--crop", "64", "--export", "w.safetensors") == 75
    options = ["--state", state, "--crop", "64", "--seed", "0", "--steps", "7", "--export", "w.safetensors"]
    assert seen == [
        ["train", "model.train", "--data", "", *options, "--check"],
        ["train", "model.train", "--data", f"{state}/lessons", *options],
    ]
    said = capsys.readouterr().err
    assert "boxes of intact sections" in said and f"kept for validation: {state}/lessons" in said
    seen.clear()
    assert run("--data", "stacks", "--minutes", "3", "--only", "a", "b") == 75
    options = ["--crop", "128", "--seed", "0", "--minutes", "3", "--only", "a", "b"]
    assert seen == [["train", "model.train", "--data", "stacks", *options]]


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (["--preset", "foo"], 2, "argument --preset: invalid choice: 'foo'"),
        (["--stepz", "3"], 2, "unrecognized arguments: --stepz 3"),
        (["--crop", "100"], 3, "--crop 100 must be a multiple of 16 and at least 64"),
        (["--rate", "2"], 3, "--rate 2 must be above 0"),
        (["--device", "foo"], 3, "device 'foo' is unknown; the devices are cpu, cuda"),
        (["--from", "defalt"], 3, "weights 'defalt': no such file, and no shipped weights of that name (shipped: default"),
    ],
)
def test_options_of_training_are_looked_at_before_lessons_are_taken(
    own: Path, capsys: pytest.CaptureFixture[str], change: list[str], code: int, words: str
) -> None:
    state = own / "s"
    try:
        found = run("--volume", f"{own}/raw.zarr", "--state", str(state), *change)
        said = capsys.readouterr().err
    except InputError as e:
        found, said = e.exit_code, str(e)
    assert found == code and words in said
    assert not state.exists()


def test_help_shows_commands_that_run_and_the_options_of_training(tmp_path: Path) -> None:
    process = command("train", "--help", cwd=tmp_path)
    text = process.communicate(timeout=120)[0]
    assert process.returncode == 0
    assert "zmend train --volume raw.zarr --flags flags.csv --state trained" in text
    assert "recipe: {weights: mine.safetensors}" in text
    assert "--megavoxels" in text.split("The options of the training itself:")[0]
    assert "--export" in text.split("The options of the training itself:")[1]


@pytest.mark.slow
@pytest.mark.parametrize("start", [[], ["--from", "default"]], ids=["scratch", "tuned"])
def test_weights_learnt_from_a_volume_mend_it(start: list[str], tmp_path: Path, tissue: np.ndarray) -> None:
    """The user's whole way: train on what is intact, resume, export, and restore the missing section with it."""
    raw = tissue[:24].copy()
    raw[16] = 0
    save(tmp_path / "raw.zarr", raw, (8, 64, 64))
    (tmp_path / "flags.csv").write_text("z_start,z_stop,class\n16,17,missing\n")
    train = ["train", "--volume", "raw.zarr", "--flags", "flags.csv", "--state", "s", "--crop", "64", "--batch", "2",
             "--steps", "2", "--threads", "1", "--licence", "CC0", *start]  # fmt: skip
    body = {
        "volume": {"path": "raw.zarr"}, "flags": "flags.csv", "output": {"path": "mended.zarr", "chunk_px": 128},
        "recipe": {"weights": "mine.safetensors", "steps": 2}, "site": {"workers": 0, "threads": 1, "slab_px": 256},
    }  # fmt: skip
    (tmp_path / "zmend.yaml").write_text(yaml.safe_dump(body))
    for args in (
        [*train, "--minutes", "5"],
        [*train, "--minutes", "0", "--export", "mine.safetensors"],
        ["run", "zmend.yaml", "--json"],
    ):
        process = command(*args, cwd=tmp_path)
        out, err = process.communicate(timeout=250)
        assert process.returncode == 0, f"{args}\n{out}{err}"
    assert json.loads(out)["voxels_restored"] == raw[16].size
    card = json.loads((tmp_path / "mine.json").read_text())
    assert "CC0" in card["licence"] and ("CC BY-NC-SA" in card["licence"]) == bool(start), "the parent's terms bind"
    made = voxels(tmp_path / "mended.zarr")
    assert made[16].std() > 0 and np.array_equal(np.delete(made, 16, 0), np.delete(raw, 16, 0))
