"""The evaluation: every method gets a row on the same voxels, numbers follow from blocks, the command line writes it all."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model import evaluate, figures, metrics, probes, report, scenes, tally
from model.baselines import baselines
from model.checkpoint import read_card
from model.restorer import DiffusionRestorer
from model.sampler import Sampler
from tests.model.phantoms import case, folder, volume
from tests.model.tiny import alive

STACK = volume()
CLASSIFIER = metrics.MembraneClassifier.fit(list(STACK.raw), list(STACK.membranes))  # type: ignore[arg-type]


def table(*cases: scenes.Case) -> report.Result:
    return evaluate.result("t", "a title", evaluate.compare(cases, baselines(), CLASSIFIER))


def test_every_method_gets_a_row_and_the_real_section_is_the_ceiling() -> None:
    found = table(case(), case(2))
    assert list(found.mean) == [evaluate.REAL, *baselines(), evaluate.LABELS]
    assert len(found.sections) == 3 and set(found.sections[0]) == {"section", *found.mean}
    assert found.mean["constant"]["gain_db"] == 0 and found.mean["constant"]["power"] < 1e-6
    for name in ("copy", "flow", evaluate.REAL):
        assert found.mean[name]["voi_best"] == min(found.mean[name][f"voi@{d}"] for d in (0.1, 0.2, 0.3))
        assert found.mean[name]["voi"] == found.mean[name]["voi@0.3"]
    for column in ("membrane_f1", "ncc", "ssim"):
        assert max((n for n in found.mean if column in found.mean[n]), key=lambda n: found.mean[n][column]) == evaluate.REAL
    assert found.mean[evaluate.REAL]["seam"] != found.mean[evaluate.REAL]["seam"]  # NaN: a whole section has no rim


def test_a_method_is_given_no_answer() -> None:
    def peeks(c: scenes.Case) -> scenes.Floats:
        assert np.isnan(c.truth).all() and c.labels is None and c.beside is None and c.membranes is None
        return np.zeros(c.truth.shape, np.float32)

    board = evaluate.compare([case()], {"peeks": peeks}, CLASSIFIER)
    assert set(board.rows) == {evaluate.REAL, "peeks", evaluate.LABELS}


def test_only_restored_voxels_count() -> None:
    c = scenes.damaged(case(), "half", 1)
    inside = c.unknown[0]

    def perfect_inside(blind: scenes.Case) -> scenes.Floats:
        return np.where(c.unknown, c.truth, 0.0).astype(np.float32)  # nonsense where pixels are known

    board = evaluate.compare([c], {"perfect": perfect_inside, **baselines()}, CLASSIFIER)
    row = board.rows["perfect"][0]
    assert row["psnr"] == float("inf") and row["ncc"] == pytest.approx(1) and row["seam"] == pytest.approx(1)
    error = float(((c.complete(baselines()["copy"](c))[0] - c.truth[0])[inside].astype(float) ** 2).mean())
    assert board.rows["copy"][0]["psnr"] == pytest.approx(-10 * np.log10(error))
    assert board.rows["constant"][0]["seam"] > 1.2


def test_intervals_hold_their_mean_and_a_difference_to_flow_is_paired() -> None:
    found = table(case(edge=128), case(edge=128, seed=3))
    for name in ("copy", "average", "flow"):
        for column in ("ncc", "membrane_f1", "power"):
            interval = found.intervals[name][column]
            assert interval is not None and interval[0] < found.mean[name][column] < interval[1], (name, column)
    paired, single = found.to_flow["average"]["ncc"], found.intervals["average"]["ncc"]
    assert paired is not None and single is not None
    difference = found.mean["average"]["ncc"] - found.mean["flow"]["ncc"]
    assert paired[0] < difference < paired[1] < 0  # flow follows the drift, and surely so
    detail = [found.sections[i]["average"]["frc_cutoff"] - found.sections[i]["flow"]["frc_cutoff"] for i in (0, 1)]
    assert found.to_flow["average"]["frc_cutoff"] == pytest.approx((min(detail), max(detail)))  # two sections: no more to draw


def test_beside_flow_stand_membranes_or_where_none_are_drawn_ncc_and_frc() -> None:
    drawn, bare = (report.markdown(table(replace(case(edge=128), membranes=m))) for m in (case(edge=128).membranes, None))
    assert "- copy: membrane F1 minus flow's -" in drawn and "NCC minus" not in drawn
    assert "- copy: NCC minus flow's -" in bare and "; FRC cutoff minus flow's" not in bare  # one section has no interval
    two = report.markdown(table(*(replace(case(edge=128, seed=s), membranes=None) for s in (1, 2))))
    assert "; FRC cutoff minus flow's " in two


@pytest.mark.parametrize("edge", [64, 100])
def test_sums_over_blocks_give_the_metrics_by_their_definition(edge: int) -> None:
    c = case(edge=edge)
    truth, image, base = c.truth[0], baselines()["flow"](c)[0], baselines()["constant"](c)[0]
    assert c.membranes is not None
    found = CLASSIFIER(image)
    row = tally.row(tally.tally(truth, image, base, np.ones(truth.shape, bool), c.membranes[0], found))
    assert row["psnr"] == pytest.approx(metrics.psnr(truth, image))
    assert row["gain_db"] == pytest.approx(metrics.psnr(truth, image) - metrics.psnr(truth, base))
    for name, factor in (("ncc", 1), ("ncc4", 4), ("ncc8", 8)):
        assert row[name] == pytest.approx(metrics.ncc(truth, image, factor), abs=1e-6)
    assert row["power"] == pytest.approx(metrics.power_ratio(truth, image))
    assert row["ssim"] == pytest.approx(metrics.ssim(truth, image))
    assert row["membrane_f1"] == pytest.approx(metrics.f1(c.membranes[0], found))


def test_an_interval_narrows_with_more_places_and_is_the_same_each_time() -> None:
    rng = np.random.default_rng(0)

    def section() -> tally.Array:
        truth = rng.random((64, 64))
        return tally.tally(truth, truth + 0.1 * rng.standard_normal(truth.shape), 0 * truth, np.ones(truth.shape, bool))

    many = [section() for _ in range(16)]
    narrow, wide = tally.interval("psnr", many), tally.interval("psnr", many[:1])
    assert narrow is not None and wide is not None
    assert narrow[1] - narrow[0] < 0.5 * (wide[1] - wide[0])
    assert tally.interval("psnr", many) == narrow
    assert tally.interval("membrane_f1", many) is None  # no membranes were given


def test_spread_is_scipys_bootstrap_of_the_mean() -> None:
    values = np.random.default_rng(0).standard_normal(400).tolist()
    found = tally.spread(values)
    assert found is not None
    assert found[1] - found[0] == pytest.approx(2 * 1.96 / 20, rel=0.15)
    assert tally.spread([1.0]) is None and tally.spread([2.0, 2.0]) == (2.0, 2.0)


def test_tables_say_what_is_known_and_nothing_else() -> None:
    text = report.markdown(table(case()))
    assert text.startswith("## t: a title") and "| flow |" in text and "inf" not in text and "nan" not in text
    assert "seam" not in text.splitlines()[2]  # no partial damage here
    assert report.plain({"a": (np.float32(1), float("nan")), "b": np.int64(3)}) == {"a": [1.0, None], "b": 3}


def test_the_best_setting_is_the_best_that_is_sharp_enough() -> None:
    rows = {"sharp": {"power": 0.9, "membrane_f1": 0.5}, "blurred": {"power": 0.2, "membrane_f1": 0.6}, "noisy": {"power": 1.1, "membrane_f1": 0.4}}
    assert probes.best(rows) == "sharp"
    assert probes.best({"blurred": rows["blurred"]}) is None


def test_tiles_come_nearer_to_the_whole_with_the_halo(weights: Path) -> None:
    c = case(edge=192, drift=1)
    restorer = DiffusionRestorer(voxel_nm=c.voxel_nm, weights=str(weights), threads=1, device="cpu")
    found = probes.differences(restorer, c, ((80, 80),), 32, (0, 16, 80))
    assert found[0]["max"] > found[16]["max"] >= found[80]["max"]
    assert found[80]["max"] < 0.05


def test_an_ensemble_is_the_mean_of_different_draws() -> None:
    c = case()
    several = evaluate.Ensemble(alive(), Sampler(steps=2), 0, 3)
    out = several(c)
    drawn = several.drawn[c.name]
    assert drawn.shape == (3, *c.truth.shape) and np.allclose(out, drawn.mean(0), atol=1e-6)
    assert not np.array_equal(drawn[0], drawn[1])
    assert several.calibration([c])["calibration"]["members"] == 3


def test_the_spread_of_an_evaluation_is_what_a_run_stores(weights: Path) -> None:
    """The same draws through the restorer and through the evaluation: one definition of their spread."""
    card = read_card(weights)
    replace(card, spread_scale=1.7).write(weights.with_suffix(".json"))
    c = case(edge=64)
    restorer = DiffusionRestorer(voxel_nm=c.voxel_nm, weights=str(weights), threads=1, device="cpu")
    drawn: list[np.ndarray] = []
    real = restorer._draw
    restorer._draw = lambda *given: drawn.append(real(*given)) or drawn[-1]  # type: ignore[method-assign, func-returns-value]
    _, stored = restorer.restore_with_spread(c.sections[None], c.known[None], c.targets, np.array([c.origin], np.int64), 3)
    method = evaluate.Ensemble(alive(), Sampler(), 0, 3, scale=1.7)
    method.drawn[c.name] = np.stack(drawn[1:])[:, 0]
    np.testing.assert_allclose(method.spread(c), stored[0, c.targets[0] : c.targets[1]], rtol=1e-5)
    assert stored.max() > 0


def test_a_halo_is_drawn_as_a_curve_with_what_is_declared(tmp_path: Path) -> None:
    figures.halo(tmp_path / "halo.png", {16: {"max": 9.0, "mean": 0.5}, 96: {"max": 0.0, "mean": 0.0}}, 64)
    assert (tmp_path / "halo.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--ensemble", "1"], "--ensemble 1 has no spread: draw 2 or more"),
        (["--ensemble", "-3"], "--ensemble -3 has no spread"),
        (["--seed", "-1"], "--seed -1 must be 0 or more"),
        (["--tasks", "none"], "--tasks none measures nothing: add --halo or --curve"),
        (["--tasks", "none", "--halo", "--update-card"], "leave --update-card out"),
        (["--out", "FILE"], "--out .*manifest.json is a file: name a folder"),
        (["--device", "gpu"], "device 'gpu' is unknown; the devices are cpu, cuda"),
        (["--threads", "-1"], "--threads -1 must be 0"),
        (["--peers", "/nowhere"], "there is no folder /nowhere; .* trains peers into it"),
        (["--weights", "defalt"], "weights 'defalt': no such file"),
        (["--tasks", "pinky"], "made for the stack pinky_sample2, which .* does not name"),
        (["--tasks", "none", "--halo"], r"--halo cuts tiles from sections of 1024 px; vnc_stack1 has \(1024, 64\)"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_in_words(tmp_path: Path, weights: Path, change: list[str], words: str) -> None:
    manifest = folder(tmp_path) / "manifest.json"
    if "pinky" in change:
        manifest.write_text(json.dumps({k: v for k, v in json.loads(manifest.read_text()).items() if k != "pinky_sample2"}))
    change = [str(manifest) if word == "FILE" else word for word in change]
    base = ["--data", str(tmp_path), "--weights", str(weights), "--out", str(tmp_path / "out"), "--threads", "1", "--quick"]
    with pytest.raises(ValueError, match=words):
        evaluate.main([*base, *change])


@pytest.mark.slow
def test_the_command_line_writes_numbers_pictures_and_where_they_come_from(tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, here = tmp_path / "out", tmp_path / "data"
    here.mkdir()
    args = ["--data", str(folder(here)), "--weights", str(weights), "--out", str(out), "--tasks", "vnc1", "vnc2", "pinky", "tile",
            "--ensemble", "2", "--curve", "--quick", "--threads", "1", "--update-card", "--device", "cpu"]
    assert evaluate.main(args) == 0
    record = json.loads((out / "metrics.json").read_text())
    assert set(record["tasks"]) == {"vnc1", "vnc2", "pinky", "tile"}
    assert record["command"].startswith("zmend evaluate --data") and record["machine"]["cpu"] and record["versions"]["torch"]
    card = json.loads(weights.with_suffix(".json").read_text())
    assert record["weights"]["sha256"] == card["sha256"] and record["seed"] == 0
    assert card["metrics"]["mean"] == record["tasks"]["vnc1"]["mean"]
    one = record["tasks"]["vnc1"]
    assert one["mean"]["ours"]["psnr"] and one["calibration"]["calibration"]["members"] == 2
    assert "links_wrong" in one["mean"]["ours"] and "links_wrong" not in record["tasks"]["tile"]["mean"]["ours"]
    assert record["tasks"]["pinky"]["mean"]["ours"]["membrane_f1"] is None
    assert len(record["curve"]["settings"]) > 5
    assert len(one["calibration"]["stored spread"]["error_of_tenths"]) == 10
    for name in ("vnc1", "vnc1-calibration", "vnc2", "pinky", "tile", "curve"):
        assert (out / f"{name}.png").stat().st_size > 5000
    printed = capsys.readouterr().out
    assert "## tile" in printed and (out / "metrics.md").read_text().count("## ") == 5
