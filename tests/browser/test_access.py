"""The pages for people who see little, or no colours, or have no mouse: axe-core finds nothing, and keys reach all."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from pipeline.flagfile import dump
from pipeline.report import contact_sheet, report
from tests.jobs import build

axe = pytest.importorskip("axe_playwright_python.sync_playwright")

REACHABLE = "a[href], button:not(:disabled), input, select, summary, [tabindex='0']"
NAMES = """(nodes) => nodes.filter((n) => n.checkVisibility() && !n.closest("dialog")).map((n) => n.dataset.nth)"""
STRONGER = """() => {
  const said = (node) => [getComputedStyle(node, "::before").content, node.getAttribute("aria-pressed")];
  return [...document.querySelectorAll(".card [data-verdict]")].slice(0, 2).map(said);
}"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A report with a defect that was left, and a sheet of flags."""
    job = build(tmp_path_factory.mktemp("access"))
    rows = list(csv.DictReader((job.folder / "flags.csv").read_text().splitlines()[1:]))
    job.flags(dump([*rows, {"z_start": 15, "z_stop": 16, "class": "blur", "note": "the last section"}]))
    job.run(certificate=1)
    report(str(job.folder / "out.zarr"), str(job.folder / "report.html"))
    contact_sheet(str(job.folder / "flags.csv"), str(job.raw), str(job.folder / "sheet.html"))
    return {name: job.folder / f"{name}.html" for name in ("report", "sheet")}


@pytest.mark.parametrize("name", ["report", "sheet"])
@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 400), ("dark", 400)])
def test_nobody_is_shut_out(name: str, scheme: str, width: int, pages: dict[str, Path], browse: Any) -> None:
    page = browse(pages[name], color_scheme=scheme).page
    page.set_viewport_size({"width": width, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.keyboard.press("n")
    page.keyboard.press("a")
    page.keyboard.press("r")
    page.mouse.move(0, 0)
    found = axe.Axe().run(page).response["violations"]
    assert [(v["id"], [(n["target"], n["failureSummary"]) for n in v["nodes"]]) for v in found] == []


def test_tab_comes_by_everything_that_can_be_used(pages: dict[str, Path], browse: Any) -> None:
    page = browse(pages["report"]).page
    page.evaluate(f"document.querySelectorAll({REACHABLE!r}).forEach((n, i) => (n.dataset.nth = i))")
    due = page.locator(REACHABLE).evaluate_all(NAMES)
    seen = []
    for _ in range(len(due) + 3):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.dataset.nth"))
    assert set(due) <= set(seen)
    assert page.locator("[data-do='open']").get_attribute("data-nth") in seen, "what looks like a button is a file to choose"


def test_a_verdict_is_given_by_keys_and_told_not_by_colour_alone(pages: dict[str, Path], browse: Any) -> None:
    page = browse(pages["report"]).page
    first = page.locator(".card [data-verdict='accept']").first
    assert page.evaluate(STRONGER) == [["none", "false"]] * 2
    first.focus()
    page.keyboard.press("Space")
    assert page.evaluate(STRONGER) == [['"✓ "', "true"], ["none", "false"]]
    strokes = page.evaluate("""() => ["made", "left", "doubt"].map((kind) => {
      const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
      path.classList.add(kind);
      document.querySelector(".outline").append(path);
      return getComputedStyle(path).strokeDasharray;
    })""")
    assert len(set(strokes)) == 3, "outlines differ in how they are drawn, too"
    assert page.locator(".card", has_text="blur").locator(".scores").count() == 0, "where nothing was restored nothing is scored"
