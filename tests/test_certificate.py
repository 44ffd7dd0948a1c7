"""The certificate: intact sections are hidden, restored as missing ones are, and compared with what was there."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from pipeline import certificate, cluster
from pipeline.box import Box
from pipeline.certificate import NEAR, Choice, alike, calibration, choose, probes, read, score, sentence, write
from pipeline.config import check as validate
from pipeline.errors import ConfigError, Interrupted, VolumeError
from pipeline.flags import Flag, Flags
from pipeline.job import open_job, propose
from pipeline.recipe import digest
from pipeline.restorer import Needs
from pipeline.run import Stop, run
from pipeline.store import open_overlay
from pipeline.summary import status
from pipeline.verify import verify
from pipeline.volume import Volume, voxels_sha256
from tests.jobs import ENSEMBLE, SHAPE, TOY, Job, build, command, put_back, save, tissue, voxels

NEEDS = Needs(name="x", digest="0", context=2, max_gap=3, tile=64, halo=32, stride=16)
WIDE = (40, 640, 640)


def missing(*sections: int, shape: tuple[int, int, int] = WIDE) -> list[Flag]:
    return [Flag(Box((z, 0, 0), (z + 1, *shape[1:])), "missing") for z in sections]


def box(z: int, y: tuple[int, int], x: tuple[int, int], mask: str = "") -> Flag:
    return Flag(Box((z, y[0], x[0]), (z + 1, y[1], x[1])), "crack", whole=False, mask=mask)


def chosen(flags: list[Flag], n: int = 2, **kw: Any) -> list[int]:
    return [c.z for c in choose(Flags.of(flags), WIDE, NEEDS, n, **kw)]


# --- choosing


@pytest.mark.parametrize(
    ("sections", "n", "expected"),
    [
        ([20], 1, [18]),  # 19 has a damaged neighbour; of 18 and 22 the earlier
        ([20], 2, [18, 22]),
        ([20], 4, [17, 18, 22, 23]),
        ([20, 21, 22], 2, [18, 24]),
        ([1], 1, [3]),  # never the first section, nor one beside damage
        ([38], 1, [36]),
        ([10, 30], 2, [8, 28]),  # spread over the damage
        ([5, 10, 20, 30, 35], 2, [8, 28]),  # the second and the fourth of five
        ([18, 20, 22], 1, [16]),  # what lies between them has damaged neighbours
        ([], 2, []),
        (list(range(1, 40, 2)), 2, []),  # every second one is missing
    ],
)
def test_the_nearest_intact_sections_between_intact_ones(sections: list[int], n: int, expected: list[int]) -> None:
    assert chosen(missing(*sections), n) == expected
    assert chosen(missing(*reversed(sections)), n) == expected


def test_sections_that_proved_unfit_are_replaced() -> None:
    assert chosen(missing(20), 2, skip=frozenset({18, 22})) == [17, 23]


def test_no_section_is_looked_for_far_away() -> None:
    deep = (400, 64, 64)
    flags = [*missing(*range(2), shape=deep), *missing(*range(3, 300, 2), shape=deep)]
    assert [c.z for c in choose(Flags.of(flags), deep, NEEDS, 1)] == [299 + 2]
    within = [f for f in flags if f.box.start[0] < 240]
    assert all(c.z - 239 <= NEAR for c in choose(Flags.of(within), deep, NEEDS, 9))


def test_tiles_lie_in_the_area_of_the_damage_first_and_differ_between_sections() -> None:
    flags = Flags.of([box(20, (300, 460), (100, 200))])
    first, second = choose(flags, WIDE, NEEDS, 2)
    inside = [t for t in first.tiles if t.start[1] >= 256 and t.stop[1] <= 512 and t.start[2] >= 64 and t.stop[2] <= 256]
    assert first.tiles[:8] == tuple(inside[:8]), "those come first"
    assert len(set(first.tiles)) == len(first.tiles) > 30, "then others, none twice"
    assert [t.start[1:] for t in first.tiles[:4]] != [t.start[1:] for t in second.tiles[:4]]
    assert all(t.shape == (1, 64, 64) and not any(a % 64 for a in t.start[1:]) for t in first.tiles), "on the global grid"


def test_four_tiles_of_a_missing_section_spread_over_it() -> None:
    (choice,) = choose(Flags.of(missing(20)), WIDE, NEEDS, 1)
    corners = np.array([t.start[1:] for t in choice.tiles[:4]])
    assert (np.ptp(corners, axis=0) >= 256).all()


def test_where_every_section_is_damaged_somewhere_tiles_decide() -> None:
    flags = [box(z, (0, 200), (0, 640)) for z in range(40)]
    choices = choose(Flags.of(flags), WIDE, NEEDS, 2)
    assert len(choices) == 2
    assert all(t.start[1] - NEEDS.halo >= 200 for c in choices for t in c.tiles), "halo and neighbours are clean too"
    assert not chosen([box(z, (0, 640), (0, 640)) for z in range(40)])


def test_the_sections_beside_a_tile_are_clean_there_too() -> None:
    flags = [box(z, (0, 200) if z % 2 else (440, 640), (0, 640)) for z in range(40)]
    choices = choose(Flags.of(flags), WIDE, NEEDS, 2)
    assert len(choices) == 2
    assert {(t.start[1] - 32 >= 200, t.stop[1] + 32 <= 440) for c in choices for t in c.tiles} == {(True, True)}


def test_masks_are_no_obstacle_until_they_are_read() -> None:
    assert len(chosen([box(z, (0, 640), (0, 640), mask="m.zarr") for z in range(40)])) == 2
    half = [box(z, (0, 640), (0, 640), mask="m.zarr") for z in range(30)]
    assert chosen(half, 1) == [31], "but sections without any are better"


def test_do_not_touch_is_no_damage() -> None:
    keep = Flag(Box((0, 0, 0), WIDE), "do_not_touch")
    assert chosen([*missing(20), keep]) == [18, 22]


def test_slivers_of_tiles_are_left_out() -> None:
    choices = choose(Flags.of(missing(5, shape=(12, 650, 70))), (12, 650, 70), NEEDS, 1)
    assert all(min(t.shape[1:]) >= 32 for c in choices for t in c.tiles)


# --- scoring


def test_scores_of_pictures_that_are_understood() -> None:
    truth = tissue()[4, :128, :128] / 255.0
    level = float(truth.mean())
    assert score(truth, truth, level)["ncc"] == score(truth, truth, level)["ssim"] == score(truth, truth, level)["power"] == 1.0
    flat = score(truth, np.full_like(truth, level), level)
    assert (flat["psnr_gain_db"], flat["ncc"], flat["power"]) == (0.0, 0.0, 0.0)
    half = score(truth, level + (truth - level) / 2, level)
    assert half["psnr_gain_db"] == pytest.approx(20 * np.log10(2), abs=1e-3), "half the error"
    assert (half["ncc"], half["power"]) == (1.0, pytest.approx(0.25, abs=1e-3))
    assert score(truth, 1 - truth, level)["ncc"] == -1.0
    blurred = score(truth, ndimage.gaussian_filter(truth, 3), level)
    assert blurred["power"] < 0.02
    assert blurred["psnr_gain_db"] > 0


def test_power_counts_fine_detail_only() -> None:
    y = np.arange(128)[:, None] * np.ones(128)
    fine, coarse = np.sin(2 * np.pi * y / 4), np.sin(2 * np.pi * y / 32)  # 0.25 and 0.03 cycles a pixel
    truth = 0.5 + 0.1 * fine + 0.1 * coarse
    assert score(truth, 0.5 + 0.1 * fine, 0.5)["power"] == pytest.approx(1, abs=0.01)
    assert score(truth, 0.5 + 0.1 * coarse, 0.5)["power"] < 0.01


@pytest.mark.parametrize(("restored", "expected"), [("mean", (1.0, 0.9)), ("sample", (0.707, 0.755))])
def test_an_ensemble_that_is_right_comes_out_as_expected(restored: str, expected: tuple[float, float]) -> None:
    """Theory: the truth is one draw from the posterior, and so is a sample: their difference has twice the variance."""
    rng = np.random.default_rng(3)
    sigma, middle = 20 / 255, np.full((256, 256), 0.5)
    truth = middle + sigma * rng.standard_normal(middle.shape)
    made = middle if restored == "mean" else middle + sigma * rng.standard_normal(middle.shape)
    found = calibration(truth, made, np.full(middle.shape, 40, np.uint8))
    pooled = certificate._pooled([found, found])
    assert pooled["spread_skill"] == pytest.approx(expected[0], abs=0.01)
    assert pooled["coverage_90"] == pytest.approx(expected[1], abs=0.01)
    assert pooled["expected"][restored] == list(expected)


# --- on real runs


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Job:
    job = build(tmp_path_factory.mktemp("certified"))
    job.run()
    return job


@pytest.fixture
def job(finished: Job, tmp_path: Path) -> Iterator[Job]:
    """The same to spoil: afterwards all of it is put back, times and links included."""
    yield from put_back(finished, tmp_path)


def out(job: Job, name: str = "out.zarr") -> str:
    return str(job.folder / name)


def certified(job: Job, name: str = "out.zarr") -> dict[str, Any]:
    found = read(out(job, name))
    assert found is not None
    return found


def check(job: Job, **kw: int) -> dict[str, Any]:
    (found,) = [c for c in verify(out(job), **kw)["checks"] if c["name"] == "certificate"]
    return found


@pytest.mark.parametrize("recipe", [{"restorer": TOY}, ENSEMBLE], ids=["plain", "ensemble"])
def test_a_certified_tile_is_what_a_run_makes_of_a_missing_section(job: Job, tmp_path: Path, recipe: dict[str, Any]) -> None:
    """The oracle: blank the section in a copy of the volume, flag it, run, and compare by hand."""
    job.run("certified.zarr", recipe=recipe)
    document = certified(job, "certified.zarr")
    assert document["status"] == "measured"
    for z in document["sections"]:
        (tmp_path / str(z)).mkdir()
        other = Job(tmp_path / str(z), job.truth, job.damaged.copy(), job.flagged)
        other.damaged[z] = 99
        save(other.raw, other.damaged, (8, 128, 128))
        shutil.copytree(job.folder / "mask.zarr", other.folder / "mask.zarr")
        text = (job.folder / "flags.csv").read_text()
        (header,) = (line for line in text.splitlines() if line.startswith("z_start,z_stop,class"))
        other.flags(f"{text.rstrip()}\n{z},{z + 1},missing{',' * (header.count(',') - 2)}\n")
        other.run(recipe=recipe, certificate=0)
        made = voxels(other.folder / "out.zarr")
        spread = voxels(other.folder / "out.zarr", "uncertainty") if "uncertainty" in recipe else np.zeros_like(made)
        for row in (r for r in document["tiles"] if r["z"] == z):
            (y0, x0), (y1, x1) = row["box"]
            here = np.s_[z : z + 1, y0:y1, x0:x1]
            both = voxels_sha256(made[here]) + voxels_sha256(spread[here])
            assert row["made_sha256"] == hashlib.sha256(both.encode()).hexdigest(), "bit for bit"
            around = job.damaged[[z - 1, z + 1], y0:y1, x0:x1] / 255
            truth = job.damaged[here][0] / 255
            assert alike(row["restored"], score(truth, made[here][0] / 255, around.mean()))
            between = np.float32(0.5) * around[0].astype(np.float32) + np.float32(0.5) * around[1].astype(np.float32)
            assert alike(row["linear"], score(truth, np.rint(between.astype(float) * 255) / 255, around.mean()))
            assert ("ensemble" in row) == ("uncertainty" in recipe)
            if "ensemble" in row:
                assert alike(row["ensemble"], calibration(truth, made[here][0] / 255, spread[here][0]))


def test_the_sections_are_intact_and_the_means_are_of_the_tiles(finished: Job) -> None:
    document = certified(finished)
    assert len(document["sections"]) == document["asked"] == 2
    assert len(document["tiles"]) == 8
    for row in document["tiles"]:
        assert not finished.flagged[row["z"] - 1 : row["z"] + 2].any()
    for who in ("restored", "linear"):
        for metric, value in document[who].items():
            assert value == pytest.approx(np.mean([r[who][metric] for r in document["tiles"]]), abs=1e-3)
    assert document["bound"]["plan"] == verify(out(finished))["plan"]


def test_a_restorer_that_peeks_is_found_out(job: Job) -> None:
    job.run("peeking.zarr", recipe={"restorer": "tests.toys:Peeking"})
    found = certified(job, "peeking.zarr")["restored"]
    assert found["ncc"] < 0.1, "where it looked for the truth there is none"
    assert found["psnr_gain_db"] < -3


def test_workers_and_slab_sizes_give_the_same_numbers(job: Job) -> None:
    here = certified(job)
    for name, site in (("two.zarr", {"workers": 2, "slab_px": 256}), ("small.zarr", {"slab_px": 128})):
        job.run(name, site=site)
        assert certified(job, name)["tiles"] == here["tiles"]


def test_16_bits_and_their_window(tmp_path: Path) -> None:
    job = build(tmp_path, dtype=np.uint16)
    job.run()
    found = certified(job)
    assert found["status"] == "measured"
    assert 0.3 < found["restored"]["ncc"] < 1
    assert verify(out(job), replay=1)["ok"]


def test_it_is_made_once_for_a_plan(job: Job) -> None:
    path = Path(out(job)) / "zmend/certificate.json"
    before = path.stat().st_mtime_ns
    job.run()
    assert path.stat().st_mtime_ns == before, "nothing to do: it stays"
    job.run(certificate=3)
    assert certified(job)["asked"] == 3
    assert len(certified(job)["sections"]) == 3
    job.flags("8\n")
    job.run(certificate=0)
    assert read(out(job)) is None, "it was another plan's"
    job.run()
    assert certified(job)["sections"] == [5, 6], "beside 10 lies a black section, that nobody flags any more"
    job.run(recipe={"restorer": "tests.toys:Retrained"})
    assert certified(job)["bound"]["weights"] == "toy, retrained"
    assert not [c for c in verify(out(job), replay=1)["checks"] if not c["ok"]]


def test_none_is_made_where_none_is_asked_for(job: Job) -> None:
    summary = job.run("none.zarr", certificate=0)
    assert summary["certificate"] is None
    assert read(out(job, "none.zarr")) is None
    assert verify(out(job, "none.zarr"), replay=1)["ok"]
    process = command("run", str(job.config("other.zarr")), "--certificate", "1", "--json", cwd=job.folder)
    document = json.loads(process.communicate(timeout=120)[0])
    assert len(document["certificate"]["sections"]) == 1
    process = command("run", str(job.config("third.zarr")), "--certificate", "0", "--json", cwd=job.folder)
    assert json.loads(process.communicate(timeout=120)[0])["certificate"] is None
    with pytest.raises(ConfigError, match="'certificate' is -1"):
        validate({"volume": {"path": "x"}, "flags": "y", "output": {"path": "z"}, "certificate": -1})


def test_people_are_told(job: Job) -> None:
    said = sentence(certified(job))
    ran, _ = command("run", str(job.config()), cwd=job.folder).communicate(timeout=120)
    assert f"certificate: {said}" in ran
    assert said.startswith("2 intact sections restored (8 tiles): NCC .")
    assert "(linear ." in said and "dB over constant grey (linear " in said
    text, _ = command("status", "out.zarr", cwd=job.folder).communicate(timeout=120)
    assert f"certificate: {said}\n" in text
    seen = status(out(job))["certificate"]
    assert seen == {k: v for k, v in certified(job).items() if k in seen} | {"tiles": 8}
    ensemble = {"spread_skill": 0.71, "coverage_90": 0.7551}
    assert sentence({**certified(job), "ensemble": ensemble}).endswith("; spread/skill .71, 90 % interval holds 76%")
    assert sentence({**certified(job), "sections": [3], "tiles": 1}).startswith("1 intact section restored (1 tile): NCC")
    assert sentence(None) == "none"


# --- where nothing can be measured


def reason(job: Job, **parts: Any) -> tuple[str, str]:
    job.run("reason.zarr", **parts)
    found = certified(job, "reason.zarr")
    assert verify(out(job, "reason.zarr"), replay=1)["ok"]
    assert found["why"] in sentence(found)
    return found["status"], found["why"]


def test_no_intact_section(job: Job) -> None:
    job.flags("".join(f"{z}\n" for z in range(1, 16, 2)))
    assert reason(job) == ("none", f"no section within {NEAR} of the damage is intact between intact ones")


def test_absent_chunks_and_background_are_no_tissue(tmp_path: Path) -> None:
    job = build(tmp_path, chunks=(1, 128, 128))
    job.flags("8\n")
    raw = Volume.open(str(job.raw), writable=True)
    for cell in Box((5, 0, 0), (6, *SHAPE[1:])).cells(raw.grain):
        raw.erase(cell & Box.of(SHAPE))  # 5 is gone: neither 4 nor 6 has its neighbours
    raw.write(Box((10, 0, 0), (11, *SHAPE[1:])), np.full((1, *SHAPE[1:]), 7, np.uint8))
    job.run(volume={"missing_chunks": "background"})
    assert certified(job)["sections"] == [3, 14], "10 holds but one value, 11 and 12 are black"
    for z in (*range(1, 8), *range(9, 15)):
        raw.write(Box((z, 0, 0), (z + 1, *SHAPE[1:])), np.full((1, *SHAPE[1:]), 7, np.uint8))
    status_, why = reason(job)
    assert status_ == "none"
    assert "hold no tissue: absent chunks, background or masked damage" in why


def test_masks_are_read_before_a_tile_is_used(tmp_path: Path) -> None:
    """Every section carries a mask; only the masked half is out of the question."""
    job = build(tmp_path, (10, 200, 400))
    mask = np.zeros((10, 200, 400), np.uint8)
    mask[:, :, 150:] = 1
    shutil.rmtree(job.folder / "mask.zarr")
    save(job.folder / "mask.zarr", mask, (1, 128, 128))
    job.flags("z_start,z_stop,class,mask\n" + "".join(f"{z},{z + 1},fold,mask.zarr\n" for z in range(10)))
    job.run()
    rows = certified(job)["tiles"]
    assert rows
    assert all(r["box"][1][1] + 32 <= 150 for r in rows), "tile and halo lie in the half that is whole"


def test_sections_that_are_too_small(tmp_path: Path) -> None:
    save(tmp_path / "raw.zarr", tissue((7, 64, 64))[:, :20, :60], (2, 64, 64))
    job = Job(tmp_path, *(np.zeros(0),) * 3)
    job.flags("3\n")
    assert reason(job) == ("none", "sections of 20 × 60 px are too small to measure on")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_certificate_that_fails_fails_no_run(job: Job, workers: int) -> None:
    job.flags("8\n")
    recipe = {"restorer": "tests.toys:Picky", "options": {"only": "8"}}
    summary = job.run("picky.zarr", recipe=recipe, site={"workers": workers})
    assert summary["done"] == summary["slabs"] > 0
    assert summary["certificate"]["status"] == "failed"
    found = certified(job, "picky.zarr")
    assert "not this section" in found["why"]
    assert "not this section" in sentence(found)
    assert verify(out(job, "picky.zarr"), replay=1)["ok"]
    again = job.run("picky.zarr", recipe=recipe, site={"workers": workers})
    assert again["certificate"]["status"] == "failed", "tried again, and told again"


def test_workers_that_die_of_it_fail_no_run(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cluster.SETTINGS, "distributed.scheduler.allowed-failures", 0)
    job.flags("8\n")
    recipe = {"restorer": "tests.toys:Picky", "options": {"only": "8", "exit": True}}
    summary = job.run("deadly.zarr", recipe=recipe, site={"workers": 1, "attempts": {"lost": 1}}, certificate=1)
    assert summary["done"] == summary["slabs"]
    assert "the worker died again and again" in summary["certificate"]["why"]


def test_tiles_that_are_quarantined_are_told(job: Job) -> None:
    job.run("nan.zarr", recipe={"restorer": TOY, "options": {"spoil": "nan"}})
    found = certified(job, "nan.zarr")
    assert found["status"] == "failed"
    assert "no tile could be restored: quarantined: " in found["why"]


def test_ctrl_c_while_measuring_stops_and_can_go_on(job: Job) -> None:
    stop = Stop()

    def once(event: dict[str, Any]) -> None:
        stop.requested = stop.requested or event["kind"] == "certificate"

    with pytest.raises(Interrupted, match="run the same command again"):
        run(propose(job.load("stopped.zarr")), on_event=once, stop=stop)
    assert read(out(job, "stopped.zarr")) is None, "half a certificate is none"
    job.run("stopped.zarr")
    assert certified(job, "stopped.zarr")["tiles"] == certified(job)["tiles"]


# --- what verify finds


def forge(job: Job, change: Callable[[dict[str, Any]], None]) -> None:
    document = certified(job)
    change(document)
    write(out(job), document)


def test_a_sound_certificate_is_recomputed(finished: Job) -> None:
    assert check(finished)["ok"]
    assert check(finished, replay=1)["detail"].endswith("; computed anew")


def test_an_edited_certificate(job: Job) -> None:
    path = Path(out(job)) / "zmend/certificate.json"
    path.write_text(path.read_text().replace('"ncc": 0', '"ncc": 0.9', 1))
    assert "cannot be trusted" in check(job)["findings"][0]
    assert status(out(job))["certificate"]["status"] == "failed"
    job.run()
    assert check(job, replay=1)["ok"], "a run makes it anew"


@pytest.mark.parametrize("text", ["", "null", "[]", "{}", "not json"])
def test_a_certificate_that_cannot_be_read(job: Job, text: str) -> None:
    (Path(out(job)) / "zmend/certificate.json").write_text(text)
    with pytest.raises(VolumeError, match="cannot be trusted") as e:
        read(out(job))
    assert "run again" in e.value.do
    assert not check(job)["ok"]
    job.run()
    assert check(job)["ok"]


def test_a_certificate_of_another_plan(job: Job) -> None:
    forge(job, lambda d: d["bound"].update(plan="0" * 64))
    assert "belongs to another plan" in check(job)["findings"][0]


def test_means_that_are_not_the_tiles(job: Job) -> None:
    forge(job, lambda d: d["restored"].update(ncc=0.99))
    assert check(job)["findings"] == ["its means are not those of its tiles"]


def again(document: dict[str, Any]) -> None:
    document.update(certificate.summarise(document["bound"], document["asked"], document["tiles"]))


def test_tiles_that_were_forged_or_picked(job: Job) -> None:
    def better(d: dict[str, Any]) -> None:
        for row in d["tiles"]:
            row["restored"]["ncc"] += 0.05
        again(d)

    def picked(d: dict[str, Any]) -> None:
        d["tiles"] = sorted(d["tiles"], key=lambda r: r["restored"]["ncc"])[4:]
        again(d)

    kept = certified(job)
    for change, words in ((better, "comes out differently"), (picked, "other tiles would be measured now")):
        forge(job, change)
        assert check(job)["ok"], "signed well"
        assert words in check(job, replay=1)["findings"][0]
        write(out(job), kept)
    assert check(job, replay=1)["ok"]


def test_a_source_that_changed_under_the_certificate(job: Job) -> None:
    raw = Volume.open(str(job.raw), writable=True)
    z = certified(job)["sections"][0]
    (cell,) = Box((z, 0, 0), (z + 1, 1, 1)).cells(raw.grain)
    raw.write(cell & Box.of(SHAPE), raw.read(cell & Box.of(SHAPE)) ^ 1)
    assert not check(job, replay=1)["ok"]


def test_the_order_of_rows_and_last_digits_do_not_matter() -> None:
    row = {"z": 3, "made_sha256": "ab", "restored": {"ncc": 0.5}}
    assert alike(row, {**row, "restored": {"ncc": 0.501}})
    assert not alike(row, {**row, "restored": {"ncc": 0.51}})
    assert not alike(row, {**row, "made_sha256": "ac"})
    assert not alike(row, {k: v for k, v in row.items() if k != "z"})


def test_probes_write_nothing_and_leave_the_job_as_it_was(finished: Job) -> None:
    opened = open_job(out(finished), verify(out(finished))["plan"])
    before = set(open_overlay(out(finished)).present())
    slabs, why = probes(opened, 2)
    assert (len(slabs), why) == (8, "")
    flags = opened.flags
    first = certificate.measure(slabs[0], opened)
    assert first == certificate.measure(slabs[0], opened)
    assert opened.flags is flags
    assert set(open_overlay(out(finished)).present()) == before
    assert isinstance(choose(flags, SHAPE, opened.needs, 1)[0], Choice)


def test_records_do_not_know_the_certificate(finished: Job) -> None:
    """It changes no voxel, so it is no part of plan, recipe or record."""
    with_, without = propose(finished.load(certificate=5)), propose(finished.load(certificate=0))
    assert with_.plan == without.plan
    assert digest(with_.plan.header) == digest(without.plan.header)
