"""A calibration measures on the site with real workers, is kept beside the output, and holds for what it was made of."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from pipeline import rates
from pipeline.box import Box
from pipeline.calibrate import calibrate, mended
from pipeline.cli import cli
from pipeline.cost import Rates
from pipeline.errors import ConfigError, InputError
from pipeline.flags import Flag, Flags
from pipeline.forecast import forecast
from pipeline.job import propose
from pipeline.rates import Calibration, beside, keep, read, shipped
from pipeline.report import history
from tests.jobs import ENSEMBLE, Job, build, command

FITS = {"restorer": "r", "batch": 1, "draws": 0, "kind": "local", "threads": 2}
KEPT = Calibration(Rates({1: 2.0}, start_s=3.0), FITS, "2026-11-23", "a machine", 2)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return build(tmp_path)


def zmend(*args: str) -> str:
    found = CliRunner().invoke(cli, args)
    assert found.exit_code == 0, (found.output, found.exception)
    return found.output


@pytest.mark.parametrize("workers", [0, 2])
def test_a_calibration_measures_everything_and_leaves_nothing_behind(workers: int, job: Job) -> None:
    made = propose(job.load(site={"workers": workers}, recipe=ENSEMBLE, output={"mode": "volume"}))
    before = sorted(p.name for p in job.folder.iterdir())
    told: list[dict[str, Any]] = []
    found = calibrate(made, told.append)
    steps = [e for e in told if e["kind"] == "calibrate"]
    assert [e["done"] for e in steps] == list(range(max(1, workers) + 2)) and {e["of"] for e in steps} == {max(1, workers) + 1}
    assert steps[0]["text"].startswith("textured, batches of ") and f", on {max(1, workers)} worker" in steps[0]["text"]
    assert sorted(p.name for p in job.folder.iterdir()) == before
    measured = found.rates
    assert set(measured.call_s) == {max(made.load.calls, key=lambda k: made.load.calls[k]), max(made.load.calls)}
    for name in ("read_s_byte", "see_s_byte", "write_s_chunk", "look_s_chunk", "record_s", "schedule_s", "merge_s_byte", "link_s"):
        assert getattr(measured, name) > 0, name
    assert measured.start_s > 0 and measured.open_s >= 0
    assert 0 < measured.stored < measured.made < 2 and measured.doubt >= 0.1, "what is missing is black in the source"
    assert found.workers == max(1, workers)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_calibration_that_is_stopped_leaves_nothing_behind(workers: int, job: Job) -> None:
    config = job.config(site={"workers": workers}, recipe={"restorer": "tests.toys:Textured", "options": {"sleep": 1.0}})
    process = command("plan", str(config), "--calibrate", cwd=job.folder)
    before, records = {*os.listdir(job.folder), "zmend.plan.json"}, job.folder / "out.zarr.calibration/zmend"
    while not records.exists() and process.poll() is None:
        time.sleep(0.02)
    process.terminate()
    _, err = process.communicate(timeout=240)
    assert process.returncode == 75 and "interrupted" in err, err
    assert "leaked" not in err and "Traceback" not in err
    assert set(os.listdir(job.folder)) <= before


def test_a_slower_restorer_is_measured_as_slower(job: Job) -> None:
    slow = propose(job.load(recipe={"options": {"sleep": 0.3}}, output={"mode": "overlay"}))
    measured = calibrate(slow).rates
    assert measured.call_s[1] > 0.3
    assert measured.merge_s_byte == 0, "an overlay alone is not merged"


def test_nothing_flagged_is_nothing_to_measure_with(job: Job) -> None:
    job.flags("z_start,z_stop,class\n")
    with pytest.raises(InputError, match="nothing to measure with"):
        calibrate(propose(job.load(), none_is_fine=True))


def test_plan_run_status_and_report_tell_what_was_foreseen(job: Job) -> None:
    path, out = str(job.config()), str(job.folder / "out.zarr")
    before = json.loads(zmend("plan", path, "--json"))["cost"]
    assert before["wall_s"] is None and "nothing was measured" in before["why"] and before["bytes_read"] > 0
    assert "hours and minutes are not known" in zmend("plan", path)
    assert "measuring: textured, batches of" in zmend("plan", path, "--calibrate"), "it takes a while, so it says what it does"
    after = json.loads(zmend("plan", path, "--calibrate", "--json"))["cost"]  # and not a word besides
    assert 0 < after["low_s"] <= after["wall_s"] <= after["high_s"] and after["why"] == ""
    words = zmend("plan", path)
    assert "worker-hours" in words and "measured 20" in words
    zmend("run", path)
    said = json.loads(zmend("status", out, "--json"))["foreseen"]
    assert said["wall_s"] == pytest.approx(after["wall_s"], rel=0.01) and said["took_s"] > 0
    assert "was foreseen" in zmend("status", out) and "it took" in zmend("status", out)
    (run, *_), _ = history.runs(out)
    assert run.forecast["wall_s"] == said["wall_s"] and run.took == said["took_s"]
    zmend("report", out, "--out", str(job.folder / "report.html"))
    assert "the last run, on the wall" in (job.folder / "report.html").read_text()


def test_what_was_measured_of_something_else_is_not_used(job: Job) -> None:
    made = propose(job.load())
    keep(made.config.output.path, calibrate(made))
    assert forecast(made)["wall_s"] is not None
    assert "another restorer" in forecast(propose(job.load(recipe={"restorer": "nearest"})))["why"]
    assert "other threads" in forecast(propose(job.load(site={"workers": 1, "threads": 7})))["why"]
    assert "another number of draws" in forecast(propose(job.load(recipe={**ENSEMBLE, "restorer": "tests.toys:Ensemble"})))["why"]


@pytest.mark.parametrize("key", FITS)
def test_every_key_that_must_fit_is_asked_for(key: str) -> None:
    assert KEPT.misfit(FITS) == ""
    assert KEPT.misfit({**FITS, key: "else"}) == rates.FITS[key]


GOOD = json.loads(KEPT.dump())


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "Expecting value"),
        ("{}", "it has no 'schema'"),
        ("[]", "it is no JSON object"),
        ('{"schema": "zmend-rates/2"}', "its schema is 'zmend-rates/2', not zmend-rates/1"),
        (json.dumps({k: v for k, v in GOOD.items() if k != "rates"}), "it has no 'rates'"),
        (json.dumps({k: v for k, v in GOOD.items() if k != "machine"}), "it has no 'machine'"),
        (json.dumps({**GOOD, "workers": "some"}), "some"),
        (json.dumps({**GOOD, "rates": {}}), "it has no 'call_s'"),
        (json.dumps({**GOOD, "rates": {"call_s": {}}}), "it tells of no call of the restorer"),
        (json.dumps({**GOOD, "rates": {"call_s": {"1": "x"}}}), "could not convert string to float"),
        (json.dumps({**GOOD, "rates": {"call_s": {"1": -1}}}), "a rate is no number of seconds"),
        (json.dumps({**GOOD, "rates": {"call_s": {"1": 1}, "stored": float("inf")}}), "a rate is no number of seconds"),
    ],
)
def test_a_file_that_holds_no_rates_is_told_of_and_stops_no_plan(text: str, why: str, job: Job) -> None:
    made = propose(job.load())
    path = Path(beside(made.config.output.path))
    path.write_text(text)
    assert "rates.json" in forecast(made)["why"]
    with pytest.raises(ConfigError, match="these are no rates") as told:
        read(path)
    assert why in told.value.why and "Error" not in told.value.why
    with pytest.raises(ConfigError, match="no such file of rates"):
        read(path.with_name("nowhere.json"))


def test_a_calibration_comes_back_as_it_was_kept(tmp_path: Path) -> None:
    assert read(keep(str(tmp_path / "out.zarr"), KEPT)) == KEPT


@pytest.mark.parametrize(
    ("shape", "flagged", "words"),
    [
        ("1000,20000,20000", "0.02", "2.22 min of one GPU, if a GPU restores 60 Mpx/s"),
        ("25000,200000,200000", "0.02", "93 GPU-hours, if a GPU restores 60 Mpx/s"),
        ("1000,20000,20000", "0", "none: nothing would be restored"),
        ("2,900,900", "0.5", "not restorable"),
    ],
)
def test_a_plan_on_paper_in_words(shape: str, flagged: str, words: str) -> None:
    said = zmend("plan", "--shape", shape, "--flagged", flagged)
    assert words in said
    assert ("halo" in said) == ("GPU" in said), "of nothing there is neither"


def test_a_plan_on_paper_tells_of_the_machine_that_was_measured(tmp_path: Path) -> None:
    size = ("plan", "--shape", "1000,20000,20000", "--workers", "10")
    ours = json.loads(zmend(*size, "--json"))
    assert ours["cost"]["machine"] == shipped().machine and ours["cost"]["workers"] == 10
    own = keep(str(tmp_path / "out.zarr"), KEPT)
    theirs = json.loads(zmend(*size, "--rates", own, "--json"))
    calls = 20 * 79**2  # tiles of 256 px, 2 s each, in 20 sections
    assert theirs["cost"]["worker_hours"] == pytest.approx(calls * 2 / 3600, rel=0.1)
    assert theirs["gpu_cost"]["worker_hours"] < 0.01 * theirs["cost"]["worker_hours"]
    assert "a machine" in zmend(*size, "--rates", own)


def test_a_chunk_is_tried_as_it_will_be() -> None:
    box = Box((4, 0, 0), (8, 2, 2))
    voxels = np.arange(4, dtype=np.uint8)[:, None, None] * np.ones((4, 2, 2), np.uint8)
    flags = Flags.of([Flag(Box((3, 0, 0), (6, 9, 9)), "missing", whole=True)])
    made = mended(voxels.copy(), box, flags)
    assert set(made[:2].ravel().tolist()) <= {2, 3} and np.array_equal(made[2:], voxels[2:])
    nothing = Flags.of([Flag(Box((0, 0, 0), (9, 9, 9)), "missing", whole=True)])
    assert np.array_equal(mended(voxels.copy(), box, nothing), voxels)
