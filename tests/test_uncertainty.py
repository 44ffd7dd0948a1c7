"""How sure the restorer is: spread of an ensemble beside every restored voxel, and label 5 where it is too wide."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline import blend
from pipeline.box import Box
from pipeline.config import check as validate
from pipeline.errors import RestorerError, ZmendError
from pipeline.flags import Flag, Flags
from pipeline.foundation import adopt
from pipeline.job import propose
from pipeline.lattice import Geometry
from pipeline.plan import job_key, make
from pipeline.recipe import Recipe, digest
from pipeline.restorer import Needs
from pipeline.run import run
from pipeline.store import has_uncertainty, open_labels, open_overlay, open_uncertainty
from pipeline.summary import status
from pipeline.verify import verify
from pipeline.volume import Volume
from tests.jobs import ENSEMBLE, SHAPE, TOY, Job, build, command, put_back, store_digest, tissue, voxel_digest, voxels
from tests.stores import KINDS, noise, write_volume
from tests.toys import Ensemble


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """Two stores of one volume: out.zarr with a spread, plain.zarr without."""
    job = build(tmp_path_factory.mktemp("ensemble"))
    job.run("plain.zarr", certificate=0)
    job.run(recipe=ENSEMBLE, certificate=0)
    return job


@pytest.fixture
def job(finished: Job, tmp_path: Path) -> Iterator[Job]:
    """The same to spoil: afterwards all of it is put back, times and links included."""
    yield from put_back(finished, tmp_path)


def failed(job: Job, **kw: int) -> dict[str, list[str]]:
    found = verify(str(job.folder / "out.zarr"), **kw)
    return {c["name"]: c["findings"] for c in found["checks"] if not c["ok"]}


def test_a_spread_beside_every_restored_voxel_and_nowhere_else(finished: Job) -> None:
    out, plain = finished.folder / "out.zarr", finished.folder / "plain.zarr"
    counts, labels = voxels(out, "uncertainty"), voxels(out, "labels")
    np.testing.assert_array_equal(voxels(out), voxels(plain), "the ensemble moves no voxel")
    assert (counts[finished.flagged] > 0).mean() > 0.99
    assert not counts[~finished.flagged].any()
    np.testing.assert_array_equal(labels == blend.UNCERTAIN, counts * 0.5 > 12)
    assert 0.1 < (labels == blend.UNCERTAIN)[finished.flagged].mean() < 0.9, "else this tests little"
    sure = labels != blend.UNCERTAIN
    np.testing.assert_array_equal(labels[sure], voxels(plain, "labels")[sure])
    assert not failed(finished, replay=100)


def test_the_spread_is_what_the_restorer_said(job: Job) -> None:
    """One tile by hand: the second one of a missing section, from the volume itself, without the pipeline."""
    job.flags("8\n")
    job.run("eight.zarr", recipe=ENSEMBLE, certificate=0)
    window = (job.damaged[6:11, 32:160, 32:160].astype(np.float32) / np.float32(255))[None]
    known = np.ones(window.shape, bool)
    known[:, 2] = False
    _, spread = Ensemble().restore_with_spread(window, known, (2, 3), np.array([[6, 32, 32]]), 4)
    expected = np.ceil(np.round(spread[0, 2, 32:96, 32:96].astype(float) * 510, 4))
    np.testing.assert_array_equal(voxels(job.folder / "eight.zarr", "uncertainty")[8, 64:128, 64:128], expected)


def test_counts_by_hand() -> None:
    grey = np.array([0, 1e-9, 0.25, 0.5, 0.51, 12.0, 127.4, 127.6, 255], np.float64) / 255
    assert blend.to_counts(grey.astype(np.float32)).tolist() == [0, 0, 1, 1, 2, 24, 255, 255, 255]
    counts = np.array([0, 23, 24, 25, 255], np.uint8)
    assert blend.refused(counts, 12.0).tolist() == [False, False, False, True, True]
    assert not blend.refused(counts, None).any()
    assert blend.refused(counts, 127.0).tolist() == [False] * 4 + [True]
    assert blend.synthetic(np.arange(8)).tolist() == [False, True, True, True, False, True, False, False]


def test_the_array_lies_as_the_overlay_does_and_says_its_scale(finished: Job) -> None:
    out = str(finished.folder / "out.zarr")
    array, overlay = open_uncertainty(out), open_overlay(out)
    assert (array.shape, array.dtype, array.chunks, array.grain) == (SHAPE, np.uint8, overlay.chunks, overlay.grain)
    about = json.loads((finished.folder / "out.zarr/zmend/uncertainty/zarr.json").read_text())["attributes"]["zmend"]
    assert about["grey_levels_per_count"] == 0.5
    restored = {box for box in overlay.present() if blend.synthetic(open_labels(out).read(box)).any()}
    assert set(array.present()) == restored
    classes = json.loads((finished.folder / "out.zarr/labels/synthetic/zarr.json").read_text())["attributes"]["ome"]
    assert [c["label-value"] for c in classes["image-label"]["properties"]] == [1, 2, 3, 4, 5]
    assert "ensemble disagrees" in classes["image-label"]["properties"][4]["class"]


def test_a_store_without_an_ensemble_has_no_trace_of_it(finished: Job) -> None:
    plain = finished.folder / "plain.zarr"
    assert not (plain / "zmend/uncertainty").exists()
    assert '"label-value": 5' not in (plain / "labels/synthetic/zarr.json").read_text()
    with pytest.raises(ZmendError, match="the store tells no uncertainty") as e:
        open_uncertainty(str(plain))
    assert "set recipe.uncertainty" in e.value.do


def test_what_was_left_has_a_label_and_no_spread(job: Job) -> None:
    job.flags("0\n8\n")  # the first section cannot be restored
    summary = job.run("left.zarr", recipe=ENSEMBLE)
    out = job.folder / "left.zarr"
    assert [e["z"] for e in summary["not_restorable"]] == [[0, 1]]
    assert (voxels(out, "labels")[0] == blend.LEFT).all()
    assert {b.start[0] for b in open_uncertainty(str(out)).present()} == {8}
    assert verify(str(out), replay=9)["ok"]


def test_everyone_tells_the_number_of_uncertain_voxels(job: Job) -> None:
    out = str(job.folder / "out.zarr")
    n = int((voxels(out, "labels") == 5).sum())
    records = [json.loads(p.read_text()) for p in (job.folder / "out.zarr/zmend/records").glob("??/*.json")]
    assert sum(r["voxels"]["5"] for r in records) == n
    assert status(out)["voxels_uncertain"] == n
    assert status(out)["voxels_restored"] == job.flagged.sum()
    found = verify(out)
    assert (found["voxels_uncertain"], found["voxels_synthetic"]) == (n, job.flagged.sum())
    ran = command("run", str(job.config(recipe=ENSEMBLE)), cwd=job.folder)
    text, err = ran.communicate(timeout=120)
    assert ran.returncode == 0, err
    assert f"{n:,} voxels restored but uncertain, label 5" in text
    proof = command("verify", "out.zarr", cwd=job.folder)
    assert f"({n:,} of them uncertain)" in proof.communicate(timeout=120)[0]


# --- what is refused


@pytest.mark.parametrize(
    ("recipe", "what", "where", "do"),
    [
        ({"uncertainty": 1}, "one draw has no spread", "recipe.uncertainty", "2 to 64 draws, or 0"),
        ({"uncertainty": 65}, "'uncertainty' is 65", "recipe.uncertainty", "mend the value"),
        ({"uncertainty": -1}, "'uncertainty' is -1", "recipe.uncertainty", "mend the value"),
        ({"refuse_above": 10}, "without an ensemble there is no spread", "recipe.refuse_above", "uncertainty: 8"),
        ({"uncertainty": 4, "refuse_above": 0}, "'refuse_above' is 0", "recipe.refuse_above", "mend the value"),
        ({"uncertainty": 4, "refuse_above": 3.3}, "multiple of 0.5", "recipe.refuse_above", "mend the value"),
        ({"uncertainty": 4, "refuse_above": 128}, "less than or equal to 127", "recipe.refuse_above", "mend the value"),
    ],
)
def test_settings_that_make_no_sense(recipe: dict, what: str, where: str, do: str) -> None:
    with pytest.raises(ZmendError) as e:
        validate({"volume": {"path": "x"}, "flags": "y", "output": {"path": "z"}, "recipe": recipe})
    assert what in e.value.what
    assert where in e.value.where
    assert do in e.value.do


@pytest.mark.parametrize("name", ["linear", "nearest", TOY, "tests.toys:Shy"])
def test_a_restorer_that_cannot_say_is_refused_before_anything_is_made(job: Job, name: str) -> None:
    with pytest.raises(RestorerError, match="cannot say how sure it is") as e:
        job.run("new.zarr", recipe={"restorer": name, "uncertainty": 4})
    assert "set recipe.uncertainty: 0" in e.value.do
    assert not (job.folder / "new.zarr").exists()
    job.run("new.zarr", recipe={"restorer": name}, certificate=0)  # without an ensemble each of them is welcome


@pytest.mark.parametrize("value", [float("nan"), -0.1, float("inf")])
def test_a_spread_that_is_none_is_quarantined(job: Job, value: float) -> None:
    summary = job.run("adrift.zarr", recipe={**ENSEMBLE, "restorer": "tests.toys:Adrift", "options": {"value": value}})
    assert summary["quarantined"] > 10
    assert summary["voxels_restored"] == 0
    assert "the spread of 1 of 16384 voxels is NaN, infinite or negative" in summary["not_restorable"][0]["why"]
    assert summary["certificate"]["status"] == "failed"
    assert (voxels(job.folder / "adrift.zarr", "labels")[job.flagged] == blend.LEFT).all()
    np.testing.assert_array_equal(voxels(job.folder / "adrift.zarr"), job.damaged)


def test_a_spread_of_another_shape_breaks_the_contract(job: Job) -> None:
    recipe = {**ENSEMBLE, "restorer": "tests.toys:Adrift", "options": {"rows": 3}}
    with pytest.raises(RestorerError, match="breaks its contract") as e:
        job.run("short.zarr", recipe=recipe)
    assert "125, 128) spreads" in e.value.why
    assert "uncertainty: 0 meanwhile" in e.value.do


# --- digests, and what is done again


def test_recipes_and_plans_without_an_ensemble_keep_the_digests_that_they_had() -> None:
    """Recipe, key and slab: computed with the code as it was before there was an ensemble (commit dce2466). The plan's
    own hash covers its estimates of cost, and changes with them: what is restored does not hang on it.
    """
    old = "7f03800b17274488023bccab0d7ec52d2243017d66614927bcce23f05269d091"
    assert Recipe.model_validate({}).digest("r", (45.0, 4.6, 4.6), 0) == old
    needs = Needs(name="x", digest="0", context=2, max_gap=3, tile=64, halo=32, stride=16)
    source = {"dtype": "uint8", "shape": [9, 100, 100], "missing_chunks": "unknown", "itemsize": 1, "uri": "a"}
    key = "09c8bbc73c2f07d8ed49a57bfe97cedfb259d12042aee13054409ac04bfa38d2"
    for able in (False, True):
        able_needs = Needs(**{k: getattr(needs, k) for k in Needs.__slots__} | {"spread": able})
        assert job_key("r", able_needs, source) == key
        plan = make(flags=Flags.of([Flag(Box((3, 0, 0), (4, 100, 100)), "missing")]), geometry=Geometry((9, 100, 100), (8, 128, 128), able_needs),
                    source=source, flags_about={"path": "f", "digest": "d"}, recipe=Recipe.model_validate({}).document(), recipe_digest="r",
                    chunk=(1, 64, 64), inputs=lambda box, seen: "i")  # fmt: skip
        assert plan.hash == "3b7c16ec08cf586b59f9331008b594bb703de05758d3e7956be8cd5663d5f51a"
        assert plan.slabs[0].id == "9b338c4eef760d5ce5dc64735d681736"


def test_every_setting_of_the_ensemble_is_part_of_the_digest() -> None:
    def of(**kw: object) -> str:
        return Recipe.model_validate(kw).digest("r", (45.0, 4.6, 4.6), 0)

    assert len({of(), of(uncertainty=4), of(uncertainty=5), of(uncertainty=4, refuse_above=10), of(uncertainty=4, refuse_above=11)}) == 5


def test_an_ensemble_costs_what_it_draws() -> None:
    needs = Needs(name="x", digest="0", context=2, max_gap=3, tile=64, halo=32, stride=16, mpx_s=0.001)
    flags = Flags.of([Flag(Box((3, 0, 0), (4, 100, 100)), "missing")])
    source = {"dtype": "uint8", "shape": [9, 100, 100], "missing_chunks": "unknown", "itemsize": 1, "uri": "a"}

    def totals(**kw: object) -> dict:
        recipe = Recipe.model_validate(kw).document()
        return make(flags=flags, geometry=Geometry((9, 100, 100), (8, 128, 128), needs), source=source, flags_about={}, recipe=recipe,
                    recipe_digest="r", chunk=(1, 64, 64), inputs=lambda box, seen: "i").header["totals"]  # fmt: skip

    off, on = totals(), totals(uncertainty=6)
    assert (off["seconds"], on["seconds"]) == (10, 70), "restored once, drawn six times"
    assert on["bytes_to_write"] - off["bytes_to_write"] == 10_000


def test_switching_the_ensemble_on_and_off_redoes_every_slab(job: Job) -> None:
    out = job.folder / "plain.zarr"
    before = voxel_digest(out)
    events: list[dict] = []

    def again(**recipe: object) -> int:
        events.clear()
        run(propose(job.load("plain.zarr", recipe=recipe, certificate=0)), on_event=events.append)
        found = verify(str(out), replay=3)
        assert found["ok"], [c for c in found["checks"] if not c["ok"]]
        return sum(e["kind"] == "slab" for e in events)

    slabs = len(propose(job.load("plain.zarr")).plan.slabs)
    assert again() == 0, "nothing to do yet"
    assert again(**ENSEMBLE) == slabs
    assert voxel_digest(out) == voxel_digest(job.folder / "out.zarr")
    assert again(**{**ENSEMBLE, "refuse_above": 20.0}) == slabs, "labels change"
    assert again() == slabs
    assert voxel_digest(out) == before
    assert not has_uncertainty(str(out)), "it is gone with the recipe that asked for it"
    assert '"label-value": 5' not in (out / "labels/synthetic/zarr.json").read_text()
    assert again(**ENSEMBLE) == slabs, "and it can be had again"


def test_a_spread_that_nobody_asked_for_is_found_and_removed(job: Job) -> None:
    """As a run leaves it that was killed just before it removed the array."""
    shutil.copytree(job.folder / "out.zarr/zmend/uncertainty", job.folder / "plain.zarr/zmend/uncertainty")
    findings = {f for c in verify(str(job.folder / "plain.zarr"))["checks"] for f in c["findings"]}
    assert "zmend/uncertainty is there, though the recipe asks for none: run again" in findings
    job.run("plain.zarr", certificate=0)
    assert not (job.folder / "plain.zarr/zmend/uncertainty").exists()
    assert verify(str(job.folder / "plain.zarr"))["ok"]


def test_a_record_from_before_there_was_an_ensemble_is_valid(job: Job) -> None:
    for path in (job.folder / "plain.zarr/zmend/records").glob("??/*.json"):
        record = json.loads(path.read_text())
        del record["voxels"]["5"], record["digest"]
        assert all(len(c) == 4 for c in record["chunks"])
        path.write_text(json.dumps({**record, "digest": digest(record)}, sort_keys=True))
    assert verify(str(job.folder / "plain.zarr"), replay=2)["ok"]
    assert status(str(job.folder / "plain.zarr"))["voxels_restored"] == job.flagged.sum()


def test_a_volume_that_grows_takes_its_spread_along(job: Job) -> None:
    job.flags("3\n8\n")
    job.run("grown.zarr", recipe=ENSEMBLE, certificate=0)
    before = voxels(job.folder / "grown.zarr", "uncertainty")
    raw = Volume.open(str(job.raw), writable=True)
    raw.resize((24, *SHAPE[1:]))
    raw.write(Box((16, 0, 0), (24, *SHAPE[1:])), tissue((24, *SHAPE[1:]))[16:])
    adopt(str(job.folder / "grown.zarr"), Volume.open(str(job.raw)), mode="volume")  # as a merge does
    assert open_uncertainty(str(job.folder / "grown.zarr")).shape == (24, *SHAPE[1:])
    job.flags("3\n8\n20\n")
    job.run("grown.zarr", recipe=ENSEMBLE)
    after = voxels(job.folder / "grown.zarr", "uncertainty")
    np.testing.assert_array_equal(after[:16], before)
    assert after[20].any()
    assert verify(str(job.folder / "grown.zarr"), replay=9)["ok"]


# --- every kind of store


@pytest.mark.parametrize("name", ["v2-big-endian", "ome04-tczyx-u2", "ome05-sharded-u2", "ome05"])
def test_pyramids_formats_and_types(name: str, tmp_path: Path) -> None:
    kind = next(k for k in KINDS if k.name == name)
    fine = noise((12, 96, 96), kind.dtype)
    uri = write_volume(tmp_path / "raw.zarr", kind, [fine, fine[:, ::2, ::2].copy(), fine[:, ::4, ::4].copy()], steps=[(1, 2, 2), (1, 2, 2)])
    (tmp_path / "flags.csv").write_text("3\n7:9\n")
    body = {
        "volume": {"path": uri, **({} if kind.ome else {"voxel_size_nm": [40, 8, 8]})}, "flags": str(tmp_path / "flags.csv"),
        "output": {"path": str(tmp_path / "out.zarr"), "chunk_px": 32, "shard_px": 64}, "recipe": ENSEMBLE, "site": {"workers": 0, "slab_px": 64},
    }  # fmt: skip
    run(propose(validate(body)))
    found = verify(str(tmp_path / "out.zarr"), replay=3)
    assert found["ok"], found
    out = str(tmp_path / "out.zarr")
    assert open_uncertainty(out).grain == ((1, 64, 64) if kind.zarr_format == 3 else (1, 32, 32))
    labels = open_labels(out).read(Box.of((12, 96, 96)))
    assert (labels == 5).mean() > 0.01
    np.testing.assert_array_equal(voxels(out)[labels > 0], voxels(out, "overlay")[labels > 0], "uncertain voxels are merged too")
    if kind.ome:
        coarse = open_labels(out, 1).read(Box.of((12, 48, 48)))
        under = labels.reshape(12, 48, 2, 48, 2)
        np.testing.assert_array_equal(coarse == 5, (under == 5).any((2, 4)), "one voxel that is not to be trusted spoils a coarser one")


# --- what verify finds


def records(job: Job) -> list[Path]:
    return sorted((job.folder / "out.zarr/zmend/records").glob("??/*.json"))


def rewrite(job: Job, array: Volume, at: int, change: np.ufunc | None = None, *, z: int | None = None) -> Box:
    """Change a chunk of an array by one (or as told) and sign its record anew, as a careful forger would."""
    for path in records(job):
        record = json.loads(path.read_text())
        for chunk in record["chunks"]:
            if len(chunk) > 4 and z in (None, chunk[0][0]):
                box = Box(tuple(chunk[0]), tuple(chunk[1]))
                data = array.read(box).copy()
                (change or (lambda v: np.add(v, 1, out=v, where=(v > 0) & (v < 20))))(data)
                chunk[at] = array.write(box, data).sha256
                del record["digest"]
                path.write_text(json.dumps({**record, "digest": digest(record)}, sort_keys=True))
                return box
    raise AssertionError("no chunk has a spread")


def test_a_flipped_bit_of_the_spread_is_found_and_mended(job: Job) -> None:
    path = max((job.folder / "out.zarr/zmend/uncertainty/c").rglob("*"), key=lambda p: p.stat().st_size if p.is_file() else 0)
    body = bytearray(path.read_bytes())
    body[-30] ^= 4
    path.write_bytes(body)
    finding, *_ = failed(job)["digests"]
    assert "cannot be decoded" in finding
    slab = finding.split()[1].rstrip(":")
    run(propose(job.load(recipe=ENSEMBLE)), redo=[slab])
    assert not failed(job, replay=100)


def test_a_spread_that_was_written_over(job: Job) -> None:
    array = open_uncertainty(str(job.folder / "out.zarr"))
    box = next(iter(array.present()))
    array.write(box, array.read(box) | 1)
    assert any("uncertainty chunk" in f and "is not what was written" in f for f in failed(job)["digests"])


def test_a_forged_spread_is_found_by_replay_alone(job: Job) -> None:
    rewrite(job, open_uncertainty(str(job.folder / "out.zarr")), 4)  # counts below the limit stay below it
    assert not failed(job)
    assert "comes out differently" in failed(job, replay=100)["replay"][0]


def test_a_spread_beyond_the_limit_must_be_labelled(job: Job) -> None:
    rewrite(job, open_uncertainty(str(job.folder / "out.zarr")), 4, lambda v: np.copyto(v, 30, where=(v > 0) & (v < 20)))
    assert any("labelled uncertain, or are not, against their spread" in f for f in failed(job)["digests"])


def test_a_spread_where_nothing_was_restored(job: Job) -> None:
    crack = next(z for z in range(SHAPE[0]) if job.flagged[z].any() and not job.flagged[z].all())
    rewrite(job, open_uncertainty(str(job.folder / "out.zarr")), 4, lambda v: np.copyto(v, 3, where=v == 0), z=crack)
    assert any("have a spread, and were not restored" in f for f in failed(job)["digests"])


def test_label_5_that_was_washed_off(job: Job) -> None:
    """Labels and their counts forged together: the spread still tells."""
    labels = open_labels(str(job.folder / "out.zarr"))
    box = rewrite(job, labels, 3, lambda v: np.copyto(v, 1, where=v == 5))
    for path in records(job):
        record = json.loads(path.read_text())
        if any(tuple(c[0]) == box.start for c in record["chunks"]):
            marks = [labels.read(Box(tuple(c[0]), tuple(c[1]))) for c in record["chunks"]]
            record["voxels"] = {str(v): sum(int((m == v).sum()) for m in marks) for v in range(1, 6)}
            del record["digest"]
            path.write_text(json.dumps({**record, "digest": digest(record)}, sort_keys=True))
    found = failed(job)
    assert any("against their spread" in f for f in found["digests"])
    assert not any("recorded" in f for f in found["digests"]), "the forger counted right"


def test_a_spread_that_nobody_recorded(job: Job) -> None:
    array = open_uncertainty(str(job.folder / "out.zarr"))
    box = Box((0, 0, 0), array.grain)
    array.write(box, np.ones(box.shape, np.uint8))
    assert failed(job) == {"lineage": [f"uncertainty chunk {box} has no record"]}


def test_a_record_that_keeps_silent_about_the_spread(job: Job) -> None:
    path = next(p for p in records(job) if any(len(c) > 4 for c in json.loads(p.read_text())["chunks"]))
    record = json.loads(path.read_text())
    array = open_uncertainty(str(job.folder / "out.zarr"))
    for chunk in record["chunks"]:
        if len(chunk) > 4:
            array.erase(Box(tuple(chunk[0]), tuple(chunk[1])))
            del chunk[4]
    del record["digest"]
    path.write_text(json.dumps({**record, "digest": digest(record)}, sort_keys=True))
    assert any("have no spread on record" in f for f in failed(job)["digests"])


@pytest.mark.parametrize("lost", ["c", "."])
def test_chunks_of_the_spread_that_were_deleted_are_made_again(job: Job, lost: str) -> None:
    before = store_digest(job.folder / "out.zarr")
    subprocess.run(["rm", "-r", str((job.folder / "out.zarr/zmend/uncertainty" / lost).resolve())], check=True)
    assert failed(job)
    job.run(recipe=ENSEMBLE, certificate=0)
    assert not failed(job, replay=100)
    after = {k: v for k, v in store_digest(job.folder / "out.zarr").items() if "/retired/" not in k}
    assert after == before


def test_an_edited_scale_is_found(job: Job) -> None:
    path = job.folder / "out.zarr/zmend/uncertainty/zarr.json"
    path.write_text(path.read_text().replace('"grey_levels_per_count": 0.5', '"grey_levels_per_count": 0.05'))
    assert "are not of 0.5 grey levels" in failed(job)["structure"][0]
