"""What a report decides before anybody sees it: which defects, which voxels of them, which scores, how many bytes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from pipeline.blend import LEFT, SYNTHESISED, UNCERTAIN
from pipeline.box import Box
from pipeline.errors import FlagError, PlanChangedError, UsageError, VolumeError, ZmendError
from pipeline.flags import Flag, Flags
from pipeline.plan import Plan, Slab
from pipeline.report import cards, contact_sheet, mended, report, sheet
from pipeline.report.charts import timeline
from pipeline.report.defects import DONE, PENDING, QUARANTINED, Defect, Tally, defects, sections
from pipeline.report.history import Run, runs
from pipeline.report.page import render
from pipeline.report.pictures import Purse, greys, outline, shrunk
from pipeline.report.scores import score, seam
from pipeline.report.window import Store, densest, lateral
from pipeline.slabs import Slabs
from tests.jobs import SHAPE, Job, build, save, tissue
from tests.stores import noise


def slab(z: int, y: int, number: int, deep: int = 1) -> Slab:
    box = Box((z, y, 0), (z + deep, y + 10, 10))
    return Slab(f"{number:032x}", box, box)


def plan_of(*slabs: Slab) -> Plan:
    return Plan({"source": {}, "flags": {}}, Slabs.of(slabs), "0" * 64)


# --- which defects


def test_every_defect_names_just_the_slabs_that_share_a_voxel_with_it() -> None:
    rng = np.random.default_rng(0)
    slabs = [slab(int(z), int(y) * 10, n, int(d)) for n, (z, y, d) in enumerate(rng.integers((0, 0, 1), (60, 5, 6), (80, 3)))]
    tally = Tally(np.zeros(80, np.uint8), np.zeros((80, 6), np.int64), np.zeros(80))
    flags = Flags.of(Flag(Box((z, y, 0), (z + d, y + 15, 5)), "fold", whole=False) for z, y, d in [(0, 0, 1), (7, 20, 30), (30, 3, 2), (59, 35, 6)])
    for defect in defects(flags, plan_of(*slabs), tally):
        assert defect.rows.tolist() == [n for n, s in enumerate(slabs) if (s.write & defect.flag.box).size]


def test_what_is_not_done_left_or_doubted_comes_first() -> None:
    slabs = [slab(10 * n, 0, n) for n in range(5)]
    tally = Tally(np.full(5, DONE, np.uint8), np.zeros((5, 6), np.int64), np.zeros(5))
    tally.voxels[:, SYNTHESISED] = (100, 100, 50, 100, 9000)
    tally.voxels[1, UNCERTAIN], tally.voxels[2, LEFT] = 100, 50
    tally.status[3], tally.status[2] = PENDING, QUARANTINED
    flags = [Flag(Box((10 * n, 0, 0), (10 * n + 1, 10, 10)), "missing") for n in range(5)]
    keep = Flag(Box((5, 0, 0), (6, 10, 10)), "do_not_touch")
    found = defects(Flags.of([*flags, keep]), plan_of(*slabs), tally)
    assert [d.flag.box.start[0] // 10 for d in found] == [3, 2, 1, 4, 0]
    assert [(d.pending, d.quarantined) for d in found][:2] == [(1, 0), (0, 1)]
    assert {d.number for d in found} == {1, 3, 4, 5, 6}, "numbers count all flags: they stay when one is kept from harm"


def test_sections_as_people_write_them() -> None:
    assert sections([(7, 8)]) == "7"
    assert sections([(10, 13), (20, 21)]) == "10–12, 20"


# --- which voxels


def test_a_small_defect_is_shown_whole_and_a_large_one_in_part() -> None:
    shape = (9, 5000, 4000)
    small = lateral(Box((3, 400, 10), (4, 500, 60)), (0, 0), shape, 256)
    assert small in Box.of(shape) and small.shape == (1, 256, 256)
    assert Box((3, 400, 10), (4, 500, 60)) in small
    large = lateral(Box((3, 0, 0), (4, 5000, 4000)), (4990, 2000), shape, 256)
    assert large.shape == (1, 512, 512)
    assert large.start[1] == 5000 - 512 and large.start[2] == 2000 - 256
    assert lateral(Box((3, 0, 0), (4, 90, 80)), (0, 0), (9, 90, 80), 256).shape == (1, 90, 80)


def test_the_window_of_a_masked_flag_lies_where_its_voxels_are(tmp_path: Path) -> None:
    labels = np.zeros((3, 512, 512), np.uint8)
    labels[1, 300:340, 420:460] = 2
    labels[1, 5, 5] = 2
    volume = save(tmp_path / "labels.zarr", labels, (1, 128, 128))
    chunks = list(Box((1, 0, 0), (2, 512, 512)).cells((1, 128, 128)))
    flag = Flag(Box((0, 0, 0), (3, 512, 512)), "fold", mask="m.zarr")
    z, y, x = densest(flag, chunks, volume)
    assert z == 1 and 300 <= y < 340 and 420 <= x < 460
    assert densest(flag, [], volume) == (1, 256, 256), "no record tells: the middle"


def test_the_sections_beside_a_defect_are_the_nearest_intact_ones(tmp_path: Path) -> None:
    data = noise((12, 64, 64))
    labels = np.zeros(data.shape, np.uint8)
    labels[5:7] = 1
    labels[4, 10, 10] = 2
    source = save(tmp_path / "raw.zarr", data, (1, 32, 32))
    source.erase(Box((8, 0, 0), (9, 64, 64)))
    overlay = save(tmp_path / "overlay.zarr", 255 - data, (1, 32, 32))
    store = Store(source, overlay, save(tmp_path / "labels.zarr", labels, (1, 32, 32)), None)
    view = store.view(Flag(Box((5, 0, 0), (7, 64, 64)), "missing"), [], 64)
    before, after = ([s and s.z for s in pair] for pair in (view.before, view.after))
    assert before == [3, 2], "4 is damaged by another flag"
    assert after == [7, None], "8 is not in the store"
    np.testing.assert_array_equal(view.damaged, data[6])
    np.testing.assert_array_equal(view.restored, 255 - data[6])
    row = view.cut.start[1]
    np.testing.assert_array_equal(view.cut_damaged[:8], data[:8, row])
    np.testing.assert_array_equal(view.cut_restored[[5, 6]], 255 - data[[5, 6], row])


# --- which scores


def test_scores_tell_tissue_from_what_is_none() -> None:
    stack = tissue(SHAPE).astype(float)[4:9, :200, :200]
    mask = np.ones((200, 200), bool)
    sides = [(stack[1], stack[0]), (stack[3], stack[4])]
    real = score(stack[2], mask, sides)
    assert real.ncc == pytest.approx(real.ncc_intact, abs=0.05)
    assert 0.9 < real.detail < 1.1
    assert abs(real.grey_shift) < 4
    assert real.seam is None, "a whole section has no rim"
    other = score(np.random.default_rng(0).permutation(stack[2].ravel()).reshape(200, 200), mask, sides)
    assert other.ncc < 0.1 and other.shortfall > 0.2 and other.ssim < real.ssim
    mean = score((stack[1] + stack[3]) / 2, mask, sides)
    assert mean.ncc > real.ncc and mean.detail < 0.7
    assert score(stack[2] + 30, mask, sides).grey_shift == pytest.approx(real.grey_shift + 30)


def test_a_step_at_the_rim_is_seen_and_none_where_there_is_none() -> None:
    image = tissue(SHAPE).astype(float)[5, :200, :200]
    mask = np.zeros(image.shape, bool)
    mask[60:120, 50:140] = True
    assert 0.8 < seam(image, mask)[0] < 1.2
    assert seam(np.where(mask, image + 40, image), mask)[0] > 2
    flat, _ = seam(np.full(image.shape, 7.0), mask)
    assert flat is None
    assert score(image, mask & False, [(image, image)]).ncc is None


def test_a_neighbour_that_is_constant_or_damaged_says_nothing() -> None:
    image = tissue(SHAPE).astype(float)[5, :100, :100]
    mask = np.ones(image.shape, bool)
    assert score(image, mask, [(np.zeros_like(image), None), (None, None)]).ncc is None
    assert score(image, mask, []).ssim is None


# --- how many bytes


def test_greys_and_sizes() -> None:
    assert greys(np.array([[0, 1000, 3000, 9000]], np.uint16), 1000, 3000).tolist() == [[0, 0, 255, 255]]
    assert shrunk(np.zeros((600, 300), np.uint8), 200).shape == (200, 100)
    assert shrunk(np.arange(4, dtype=np.uint8)[None], 9).tolist() == [[0, 1, 2, 3]], "never larger"


def test_pictures_keep_within_their_share_and_stop_when_the_purse_is_empty() -> None:
    images = {"a": noise((256, 256))}
    purse = Purse(400_000)
    rich = purse.spend(images, 10**9)
    poor = Purse(10**9).spend(images, 60_000)
    assert len(rich["a"]) > 80_000 > 60_000 >= len(poor["a"])
    assert purse.left == 400_000 - len(rich["a"])
    while (found := purse.spend(images, 60_000)) is not None:
        assert found["a"].startswith("data:image/webp;base64,")
    assert 0 <= purse.left < 60_000


def test_an_outline_surrounds_its_mask_and_is_short() -> None:
    mask = np.zeros((100, 200), bool)
    mask[20:40, 50:150] = True
    numbers = [float(v) for v in re.findall(r"[\d.]+", outline(mask))]
    assert (min(numbers[::2]), max(numbers[::2])) == pytest.approx((0.25, 0.75), abs=0.003)
    assert (min(numbers[1::2]), max(numbers[1::2])) == pytest.approx((0.2, 0.4), abs=0.006)
    dust = np.random.default_rng(0).random((400, 400)) > 0.5
    assert len(outline(dust)) < 40_000
    assert outline(np.zeros((9, 9), bool)) == ""


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    job = build(tmp_path_factory.mktemp("report"))
    job.run(recipe={"restorer": "linear"}, certificate=0, site={"workers": 0, "slab_px": "whole"})
    return job


def test_a_page_has_bounds_and_says_what_it_leaves_out(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = str(job.folder / "out.zarr")
    whole = report(out, str(tmp_path / "whole.html"))
    assert (whole["defects"], whole["pictured"]) == (4, 4)
    monkeypatch.setattr(mended, "PICTURE_BYTES", 60_000)
    monkeypatch.setattr(mended, "ROWS", 3)
    monkeypatch.setattr(mended, "JUDGED", 2)
    small = report(out, str(tmp_path / "small.html"))
    assert 0 < small["pictured"] < 4 and small["bytes"] < 300_000 < whole["bytes"]
    text = (tmp_path / "small.html").read_text()
    assert f"{small['pictured']} of 4 have pictures" in text
    assert "The first 3 are listed." in text
    assert "2 can be judged here" in text
    assert text.count("<tr data-id=") == 3
    (data,) = re.findall(r'id="data">(.*?)</script>', text)
    assert [len(json.loads(data)[k]) for k in ("items", "rest")] == [2, 0], "no slab is shared here"


def test_a_slab_that_is_judged_in_part_is_not_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(slab(1, 0, 1), slab(1, 10, 2))
    flags = Flags.of(Flag(Box((1, y, 0), (2, y + high, 10)), "fold", whole=False) for y, high in [(0, 5), (5, 4), (12, 3)])
    tally = Tally(np.full(2, DONE, np.uint8), np.zeros((2, 6), np.int64), np.zeros(2))
    found = sorted(defects(flags, plan, tally), key=lambda d: d.number)
    monkeypatch.setattr(mended, "JUDGED", 1)
    items = mended._items(found, plan)
    assert list(items) == ["1"]
    assert [line[:2] for line in mended._shared(found[1:], items, plan)] == [[2, plan.slabs[0].id]]


def test_a_report_reads_and_writes_nothing_else(job: Job, tmp_path: Path) -> None:
    from tests.jobs import tree

    before = tree(job.folder)
    report(str(job.folder / "out.zarr"), str(tmp_path / "report.html"))
    contact_sheet(str(job.folder / "flags.csv"), str(job.raw), str(tmp_path / "sheet.html"))
    assert tree(job.folder) == before


@pytest.mark.parametrize(
    ("to", "words"),
    [
        ("thesis.html", "thesis.html is there already, and is no report.*what it holds would be lost.*name another"),
        ("folder", "folder is there already, and is no report"),
        ("out.zarr/report.html", "lies in .*out.zarr.*a volume holds its own files.*name a place beside it"),
        ("raw.zarr/report.html", "lies in .*raw.zarr"),
    ],
)
def test_nothing_of_anybody_else_is_written_over(job: Job, to: str, words: str) -> None:
    (job.folder / "thesis.html").write_text("<h1>years of work</h1>")
    (job.folder / "folder").mkdir(exist_ok=True)
    with pytest.raises(UsageError) as error:
        report(str(job.folder / "out.zarr"), str(job.folder / to))
    assert re.search(words, str(error.value), re.DOTALL)
    assert (job.folder / "thesis.html").read_text() == "<h1>years of work</h1>"


def test_a_report_is_made_again_in_place(job: Job, tmp_path: Path) -> None:
    for _ in range(2):
        report(str(job.folder / "out.zarr"), str(tmp_path / "deep/report.html"))
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["report.html"]


@pytest.mark.parametrize(("place", "kind"), [("raw.zarr", PlanChangedError), ("nowhere.zarr", VolumeError)])
def test_what_is_no_store_is_refused(job: Job, tmp_path: Path, place: str, kind: type[ZmendError]) -> None:
    with pytest.raises(kind):
        report(str(job.folder / place), str(tmp_path / "report.html"))


def test_a_sheet_of_thousands_of_flags_is_bounded(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = "".join(f"{1 + n % 14},{2 + n % 14},fold,{n % 200},{n % 200 + 20},{n % 150},{n % 150 + 30},score {1 + n / 100}: x\n" for n in range(900))
    (tmp_path / "flags.csv").write_text("z_start,z_stop,class,y_start,y_stop,x_start,x_stop,note\n" + rows)
    monkeypatch.setattr(sheet, "PICTURE_BYTES", 400_000)
    found = contact_sheet(str(tmp_path / "flags.csv"), str(job.raw), str(tmp_path / "sheet.html"))
    assert found["flags"] == 900 and 30 < found["pictured"] < 300 and found["bytes"] < 1_800_000
    text = (tmp_path / "sheet.html").read_text()
    assert f"{found['pictured']} have pictures, the least sure" in text
    assert text.index("score 1.0: x") < text.index("score 1.01: x") < text.index("score 9.5: x")
    monkeypatch.setattr(sheet, "MOST", 800)
    with pytest.raises(UsageError, match="900 flags are more than a page holds"):
        contact_sheet(str(tmp_path / "flags.csv"), str(job.raw), str(tmp_path / "sheet.html"))


def test_a_sheet_says_which_mask_it_cannot_show(job: Job, tmp_path: Path) -> None:
    (tmp_path / "flags.csv").write_text("z_start,z_stop,class,mask\n3,4,fold,nowhere.zarr\n5,6,crack,\n")
    contact_sheet(str(tmp_path / "flags.csv"), str(job.raw), str(tmp_path / "sheet.html"))
    assert "its mask cannot be shown" in (tmp_path / "sheet.html").read_text()
    (tmp_path / "flags.csv").write_text("z_start,z_stop,class\n3,99,fold\n")
    with pytest.raises(FlagError, match="leaves the volume"):
        contact_sheet(str(tmp_path / "flags.csv"), str(job.raw), str(tmp_path / "sheet.html"))


# --- time


def events(run: Run) -> None:
    at = "2026-01-02T03:04:{:02}+0000".format
    run.add({"time": at(0), "kind": "begin", "todo": 3, "retired": 1})
    spent = {"status": "done", "voxels": {"1": 500_000, "4": 7}, "bytes_read": 10, "bytes_written": 5, "seconds": [1.0, 2.0], "stages": {"read": 1, "restore": 2}}
    run.add({"time": at(4), "kind": "slab", "slab": "a", **spent})
    run.add({"time": at(5), "kind": "failure", "slab": "b" * 32, "attempt": 1, "cause": "memory", "error": "no room\nat all"})
    run.add({"time": at(5), "kind": "worker_left", "why": "not fit"})
    run.add({"time": at(9), "kind": "slab", "slab": "b", **spent})
    run.add({"time": at(10), "kind": "end"})


def test_a_log_tells_of_time_throughput_and_failures() -> None:
    run = Run("r")
    events(run)
    assert (run.seconds, run.hours * 3600, run.voxels, run.finished, run.retired) == (10, 6, 1_000_000, True, 1)
    assert run.retries == {"memory": 1}
    assert run.words == [f"slab {'b' * 12}, attempt 1 (memory): no room", "a worker left: not fit"]
    assert run.stages["restore"] == 4
    drawn = timeline(run)
    assert drawn.startswith("<svg") and "a failure" in drawn and "var(--accent)" in drawn
    assert timeline(Run("empty")) == ""


def test_a_log_that_was_cut_or_edited_says_less_and_breaks_nothing(job: Job) -> None:
    (folder,) = (job.folder / "out.zarr/zmend/runs").iterdir()
    before = (folder / "log.jsonl").read_text()
    try:
        (folder / "log.jsonl").write_text(before.replace('"kind": "end"', '"kind": "fin"') + '{"time": "yesterday"}\n{"kind": "slab"}\n{"tim')
        (found,), _ = runs(str(job.folder / "out.zarr"))
        assert len(found.landed) == 4 and not found.finished
    finally:
        (folder / "log.jsonl").write_text(before)


# --- words


def test_concerns_are_told_in_words() -> None:
    from types import SimpleNamespace

    from pipeline.report.scores import Scores

    flag = Flag(Box((0, 0, 0), (1, 9, 9)), "fold")
    bad = Defect(1, flag, np.arange(4), made=100, left=7, uncertain=25, pending=2, quarantined=1)
    drawn = SimpleNamespace(defect=bad, scores=Scores(ncc=0.2, ncc_intact=0.5, seam=2.0, detail=0.1))
    assert [text for _, text in cards.concerns(drawn)] == [
        "2 of 4 slabs not done yet", "quarantined", "7 voxels left as they were", "25% uncertain",
        "less like its neighbours than intact sections are", "a step at the rim, 2.0× those around", "smoother than its neighbours",
    ]  # fmt: skip
    fine = Defect(1, flag, np.arange(4), made=100, left=0, uncertain=0, pending=0, quarantined=0)
    assert cards.concerns(SimpleNamespace(defect=fine, scores=Scores(ncc=0.5, ncc_intact=0.5, seam=1.0, detail=1.0))) == []


def test_a_page_escapes_whatever_it_is_given() -> None:
    document = dict.fromkeys(("sentence", "remark", "version", "made", "volume", "relative"), "")
    evil = "</script><script>boom()</script>"
    data = {"what": evil, "items": {evil: [[evil]]}, "rest": [], "verdicts": {}}
    page = render("sheet.html", {**document, "title": evil, "classes": [(evil, 1)], "cards": [], "data": data})
    assert "<script>boom" not in page
    assert page.count("<script") == 2
    assert "default-src 'none'" in page
