"""The contact sheet of a flags file in a real browser, and what becomes of its verdicts in a plan and a run."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from pipeline import flagfile
from pipeline.job import propose
from pipeline.report import contact_sheet
from tests.jobs import Job, build, command, voxels

SCRIPT = "</script><script>boom()</script>"
COLUMNS = ("z_start", "z_stop", "class", "y_start", "y_stop", "x_start", "x_stop", "mask", "source", "note")


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """The phantom's damage, and two flags of intact tissue, one of them as scan writes them."""
    job = build(tmp_path_factory.mktemp("sheet"))
    rows = list(csv.DictReader((job.folder / "flags.csv").read_text().splitlines()[1:]))
    rows.append({"z_start": 8, "z_stop": 9, "class": "contamination", "y_start": 20, "y_stop": 90, "x_start": 40, "x_stop": 130,
                 "source": SCRIPT, "note": 'score 1.02: "dark", <img src=x onerror=boom()>'})  # fmt: skip
    rows.append({"z_start": 15, "z_stop": 16, "class": "blur", "note": "score 7"})
    job.flags(flagfile.dump(rows))
    process = command("report", "raw.zarr", "--flags", "flags.csv", "--out", "review.html", cwd=job.folder)
    _, err = process.communicate(timeout=280)
    assert process.returncode == 0, err
    return job


def test_flags_are_looked_through_and_what_is_rejected_is_not_restored(job: Job, browse: Any) -> None:
    page = browse(job.folder / "review.html").page
    cards = page.locator(".flag")
    assert cards.count() == 6
    scored = cards.locator("h3").all_inner_texts()
    assert scored[-2:] == ["contamination section 8 · score 1.02", "blur section 15 · score 7"]
    for image in page.locator(".trio img").all():
        image.scroll_into_view_if_needed()
        assert image.evaluate("(i) => i.naturalWidth") > 500, "three sections side by side"
    assert page.locator(".flag", has_text="contamination").locator("path.made").count() == 1
    assert page.locator(".flag", has_text="crack").locator("path.made").count() == 1
    assert page.locator("img[src=x]").count() == 0

    page.get_by_label("Order").select_option("place")
    assert [t.split()[2].split("–")[0] for t in page.locator(".flag h3").all_inner_texts()] == ["1", "3", "5", "8", "11", "15"]
    page.get_by_label("Show").select_option("contamination")
    assert page.locator(".flag:visible").count() == 1
    page.keyboard.press("n")
    page.keyboard.press("r")
    page.get_by_label("Show").select_option("")
    page.locator(".flag", has_text="blur").locator('button[data-verdict="reject"]').click()
    page.locator(".flag", has_text="crack").locator('button[data-verdict="accept"]').click()
    with page.expect_download() as download:
        page.locator('[data-do="save"]').click()
    assert download.value.suggested_filename == "flags.csv"
    download.value.save_as(job.folder / "reviewed.csv")

    text = (job.folder / "reviewed.csv").read_text()
    assert text.startswith("# zmend-flags/1\n" + ",".join(COLUMNS) + ",verdict\n")
    before, after = (
        {tuple(r[c] for c in COLUMNS) for r in csv.DictReader((job.folder / name).read_text().splitlines()[1:])}
        for name in ("flags.csv", "reviewed.csv")
    )
    assert after == before, "every flag as it was, but for its verdict"
    verdicts = {r["class"]: r["verdict"] for r in csv.DictReader(text.splitlines()[1:])}
    assert verdicts == {"missing": "", "fold": "", "crack": "accept", "contamination": "reject", "blur": "reject"}

    check_that_rejected_flags_are_neither_planned_nor_restored(job)


def check_that_rejected_flags_are_neither_planned_nor_restored(job: Job) -> None:
    plan = propose(job.load(flags="reviewed.csv")).plan
    touched = {z for slab in plan.slabs for z in range(slab.write.start[0], slab.write.stop[0])}
    assert touched == {1, 3, 5, 11, 12}
    assert {8, 15} <= {z for s in propose(job.load()).plan.slabs for z in range(s.write.start[0], s.write.stop[0])}
    summary = job.run("reviewed.zarr", flags="reviewed.csv", recipe={"restorer": "linear"}, certificate=0, site={"workers": 0, "slab_px": "whole"})
    assert summary["not_restorable"] == [], "the last section, which nobody can restore, was rejected"
    assert not voxels(job.folder / "reviewed.zarr", "labels")[[8, 15]].any()


def test_a_verdict_given_before_is_there_again(job: Job, browse: Any, tmp_path: Path) -> None:
    text = "z_start,z_stop,class,verdict\n3,4,fold,reject\n5,6,crack,\n"
    (tmp_path / "flags.csv").write_text(text)
    contact_sheet(str(tmp_path / "flags.csv"), str(job.raw), str(tmp_path / "review.html"))
    page = browse(tmp_path / "review.html").page
    assert page.locator(".tally").inner_text() == "1 of 2 judged: 0 accepted, 1 rejected"
