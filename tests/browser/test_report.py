"""The report of a really mended store in a real browser: what people see, click and save, and what must not happen."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline import verdicts
from pipeline.flagfile import dump
from pipeline.planfile import current_plan
from pipeline.report import report
from tests.jobs import ENSEMBLE, Job, build, command

HOSTILE = "<img src=x onerror=boom()>"
SCRIPT = "</script><script>boom()</script>"
HEADER = ["defect", "slab", "z0", "z1", "y0", "y1", "x0", "x1", "verdict", "note", "plan"]
COLOURS = """async (image) => {
  await image.decode();
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
  const draw = canvas.getContext("2d");
  draw.drawImage(image, 0, 0);
  return new Set(draw.getImageData(0, 0, canvas.width, canvas.height).data.filter((_, i) => i % 4 === 0)).size;
}"""


@pytest.fixture(scope="module")
def mended(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A mended phantom whose names, flags and run id are hostile; with a spread, a certificate, and a gap too wide."""
    job = build(tmp_path_factory.mktemp("report") / HOSTILE)
    rows = list(csv.DictReader((job.folder / "flags.csv").read_text().splitlines()[1:]))
    rows[0] |= {"source": SCRIPT, "note": HOSTILE}
    rows.append({"z_start": 15, "z_stop": 16, "class": "blur", "note": "the last section"})
    job.flags(dump(rows))
    job.run(f"{HOSTILE}.zarr", recipe=ENSEMBLE, certificate=1, site={"workers": 0, "slab_px": 128})
    runs = job.folder / f"{HOSTILE}.zarr/zmend/runs"
    next(runs.iterdir()).rename(runs / f"2099{HOSTILE}")
    return job


@pytest.fixture(scope="module")
def page_path(mended: Job) -> Path:
    """Made by the real command, looked at from another folder without the store."""
    process = command("report", f"{HOSTILE}.zarr", "--out", "report.html", "--json", cwd=mended.folder)
    out, err = process.communicate(timeout=280)
    assert process.returncode == 0, err
    said = json.loads(out)
    assert (said["defects"], said["pictured"]) == (5, 5)
    alone = mended.folder.parent / "elsewhere"
    alone.mkdir()
    return Path(shutil.copy(mended.folder / "report.html", alone))


def store(job: Job) -> str:
    return str(job.folder / f"{HOSTILE}.zarr")


def test_pictures_are_there_and_show_something(page_path: Path, browse: Any) -> None:
    page = browse(page_path).page
    images = page.locator("img").all()
    assert len(images) >= 5 * 7
    assert all(image.evaluate("(i) => i.naturalWidth") > 0 for image in images)
    flat = [i.get_attribute("alt") for i in images if i.evaluate(COLOURS) < 8]
    assert set(flat) <= {"the damaged section", "damaged"}, "a missing section is black; nothing else is of one colour"
    crack = page.locator(".card", has_text="crack")
    assert crack.locator('[data-part="damaged"] path.made').count() == 1
    assert crack.locator('[data-part="previous"] figcaption').inner_text() == "previous, z 4"
    assert "xz at y" in crack.locator(".cut figcaption").inner_text()
    assert "spread of the ensemble" in crack.locator(".spread figcaption").inner_text()
    assert page.locator(".chart svg").count() == 3


def test_what_was_not_restored_comes_first_and_says_why(page_path: Path, browse: Any) -> None:
    page = browse(page_path).page
    first = page.locator(".card").first
    assert first.locator("h3").inner_text() == "5 blur section 15"
    assert "84,000 voxels left as they were" in first.inner_text()
    assert "no clean section on one side: the volume ends here" in page.locator("main").inner_text()
    assert first.locator('[data-part="next"]').inner_text().startswith("there is no such section")


def test_the_slider_wipes_between_damaged_and_restored(page_path: Path, browse: Any) -> None:
    page = browse(page_path).page
    card = page.locator(".card", has_text="crack")
    frame, slider = card.locator(".compare .frame"), card.locator(".compare input")
    frame.scroll_into_view_if_needed()
    seen = {}
    for at in (0, 100):
        slider.fill(str(at))
        seen[at] = frame.screenshot()
    assert seen[0] != seen[100]
    assert frame.locator(".above").evaluate("(i) => getComputedStyle(i).clipPath") == "inset(0px 0px 0px 100%)"
    box = frame.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + 20)
    page.mouse.up()
    assert 23 <= int(slider.input_value()) <= 27
    page.mouse.move(0, 0)
    assert frame.screenshot() not in seen.values()


def test_keys_go_through_the_defects_and_judge_them(page_path: Path, browse: Any) -> None:
    page = browse(page_path).page

    def here() -> str:
        return page.evaluate("document.querySelector('.card.here')?.dataset.id ?? ''")

    order = page.locator(".card").evaluate_all("(cards) => cards.map((c) => c.dataset.id)")
    seen = []
    for key in ("n", "n", "p", "n", "n", "n", "n", "n", "p"):
        page.keyboard.press(key)
        seen.append(here())
    assert seen == [order[i] for i in (0, 1, 0, 1, 2, 3, 4, 4, 3)]
    page.keyboard.press("a")
    assert here() == order[4], "judged, and on to the next"
    page.keyboard.press("r")
    assert page.locator(f'.card[data-id="{order[3]}"] [data-verdict="accept"]').get_attribute("aria-pressed") == "true"
    assert page.locator(".tally").inner_text() == "2 of 5 judged: 1 accepted, 1 rejected"
    assert page.locator(f'[data-said="{order[4]}"]').inner_text() == "reject"
    page.keyboard.press("u")
    assert page.locator(".tally").inner_text() == "1 of 5 judged: 1 accepted, 0 rejected"
    page.keyboard.press("p")
    slider = page.locator(".card.here .compare input")
    for key, value in (("f", "0"), ("f", "100"), ("ArrowLeft", "90"), ("ArrowRight", "100")):
        page.keyboard.press(key)
        assert slider.input_value() == value
    page.keyboard.press("m")
    assert page.locator(".card.here .outline").first.is_hidden()
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    page.keyboard.press("r")
    assert "0 rejected" in page.locator(".tally").inner_text(), "keys wait while help is open"
    page.keyboard.press("Escape")
    assert page.locator("#help").is_hidden()
    page.locator(".card.here input.note").fill("near r, a and n")
    assert "1 accepted, 0 rejected" in page.locator(".tally").inner_text(), "what is typed is no command"


def saved(page: Any, folder: Path) -> Path:
    with page.expect_download() as download:
        page.locator('[data-do="save"]').click()
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def test_verdicts_are_saved_one_row_a_defect_and_slab_and_opened_again(
    page_path: Path, mended: Job, browse: Any, tmp_path: Path
) -> None:
    watched = browse(page_path)
    page, plan = watched.page, current_plan(store(mended))
    note = 'a "quoted" note, with commas'
    page.locator('.card[data-id="4"] button[data-verdict="reject"]').click()
    page.locator('.card[data-id="4"] input.note').fill(note)
    page.locator('.card[data-id="2"] button[data-verdict="accept"]').click()
    path = saved(page, tmp_path)
    assert re.fullmatch(r"[\w.-]+\.verdicts\.csv", path.name)
    rows = list(csv.reader(io.StringIO(path.read_text())))
    assert rows[0] == HEADER
    assert {row[10] for row in rows[1:]} == {plan.hash}
    rejected = [row for row in rows if row[0] == "4"]
    assert {tuple(row[8:10]) for row in rejected} == {("reject", note)}
    due = {s.id: s.write for s in plan.slabs if s.write.start[0] < 13 and s.write.stop[0] > 11}
    assert {row[1] for row in rejected} == set(due)
    for row in rejected:
        z0, z1, y0, y1, x0, x1 = map(int, row[2:8])
        assert ((z0, y0, x0), (z1, y1, x1)) == (due[row[1]].start, due[row[1]].stop)
    assert {row[8] for row in rows if row[0] == "2"} == {"accept"}
    assert {row[8] for row in rows if row[0] in "135"} == {""}, "who was not judged has no verdict"
    said = verdicts.read(str(path), plan.slabs)  # as zmend run --only rejected and zmend merge --only accepted do
    assert said.rejected == dict.fromkeys(due, note)
    assert said.accepted == {s.id for s in plan.slabs if s.write.start[0] == 3}

    other = browse(page_path)
    other.page.locator('[data-do="open"]').set_input_files(path)
    other.page.wait_for_function("document.querySelector('.tally').textContent.startsWith('2 of 5')")
    assert other.page.locator('.card[data-id="4"] input.note').input_value() == note
    assert saved(other.page, tmp_path).read_text() == path.read_text()

    stale = tmp_path / "stale.csv"
    stale.write_text(path.read_text().replace(plan.hash, "0" * 64))
    third = browse(page_path)
    third.page.locator('[data-do="open"]').set_input_files(stale)
    third.page.wait_for_timeout(500)
    assert third.dialogs == [("alert", "These verdicts are of another plan than this page.")]
    assert third.page.locator(".tally").inner_text().startswith("0 of 5")


def test_leaving_with_verdicts_that_are_not_saved_is_asked_about(page_path: Path, browse: Any, tmp_path: Path) -> None:
    watched = browse(page_path)
    watched.page.locator('.card[data-id="4"] button[data-verdict="reject"]').click()
    saved(watched.page, tmp_path)
    watched.page.reload()
    assert watched.dialogs == [], "all was saved"
    watched.page.locator('.card[data-id="4"] button[data-verdict="reject"]').click()
    watched.page.reload()
    assert [kind for kind, _ in watched.dialogs] == ["beforeunload"]


def test_the_table_is_a_csv_too(page_path: Path, browse: Any, tmp_path: Path) -> None:
    page = browse(page_path).page
    page.locator('.card[data-id="1"] button[data-verdict="accept"]').click()
    with page.expect_download() as download:
        page.locator('[data-do="table"]').click()
    download.value.save_as(tmp_path / "table.csv")
    rows = list(csv.DictReader((tmp_path / "table.csv").read_text().splitlines()))
    assert rows[0]["#"] == "5"
    row = next(r for r in rows if r["#"] == "1")
    assert (row["class"], row["sections"], row["restored"], row["verdict"]) == ("missing", "1", "84,000", "accept")


def test_names_of_strangers_are_text(page_path: Path, browse: Any) -> None:
    page = browse(page_path).page
    text = page.locator("main").text_content()
    assert page.locator("h1").inner_text() == f"{HOSTILE}.zarr"
    assert SCRIPT in text
    assert f"2099{HOSTILE}" in text
    assert page.locator("img[src=x]").count() == 0
    assert page.locator("script").count() == 2, "the data and our own"


def test_the_policy_keeps_strangers_out_even_if_they_got_into_the_page(page_path: Path, browse: Any) -> None:
    watched = browse(page_path)
    watched.page.evaluate("""() => {
      const script = document.createElement("script");
      script.textContent = "boom()";
      document.body.append(script);
      document.body.insertAdjacentHTML("beforeend", "<img src=x onerror=boom()><img src=http://127.0.0.1:9/leak.png>");
    }""")
    refused = watched.page.evaluate("fetch('http://127.0.0.1:9/leak').then(() => 'sent', () => 'refused')")
    watched.page.wait_for_timeout(300)
    assert refused == "refused"
    assert watched.page.evaluate("window.boomed") == 0
    assert all("Content Security Policy" in error for error in watched.errors)
    assert len(watched.errors) >= 3
    watched.errors.clear()
    watched.requests = [r for r in watched.requests if "leak" not in r]  # told of before it is blocked


def test_on_a_phone_nothing_sticks_out(page_path: Path, browse: Any) -> None:
    page = browse(page_path, is_mobile=True, has_touch=True).page
    page.set_viewport_size({"width": 390, "height": 844})
    page.keyboard.press("n")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_page_of_a_store_that_was_only_planned_says_so(tmp_path: Path, browse: Any) -> None:
    """Nothing is done yet: no records, no merged volume. The page shows what waits."""
    from pipeline.job import install, make_store, propose
    from pipeline.store import update_attrs

    job = build(tmp_path)
    proposal = propose(job.load())
    make_store(proposal)
    install(proposal)
    update_attrs(str(tmp_path / "out.zarr"), zmend={"head": proposal.plan.hash})
    report(str(tmp_path / "out.zarr"), str(tmp_path / "report.html"))
    page = browse(tmp_path / "report.html").page
    assert page.locator(".lead").inner_text().startswith("0 of 16 slabs are done")
    assert "4 of 4 slabs not done yet" in page.locator(".card").first.inner_text()
    assert "This store has none" in page.locator("main").inner_text()
