"""docs/petascale.md tells what was measured, and its arithmetic is the plan's."""

from __future__ import annotations

import pytest

from benchmarks.petascale import FLAGGED, PAGE, SHAPE, SLAB_PX, figures, page
from pipeline.rates import shipped


@pytest.fixture(scope="module")
def told() -> dict:
    return figures()


def test_the_page_is_what_the_results_make_it(told: dict) -> None:
    assert PAGE.read_text() == page(told), "a result changed, or the page was edited: python -m benchmarks.petascale"


def test_its_figures_by_hand(told: dict) -> None:
    z, y, x = SHAPE
    assert told["sections"] == 500 and told["slabs"] == 500 * 25 * 25
    assert told["restored"] == z * FLAGGED * y * x
    assert told["gpu_restoring_hours"] == pytest.approx(93, abs=1)  # 2e7 Mpx at 60 Mpx/s; DESIGN.md, section 8
    chunks = (200 * 1024 // 1024 - 4) ** 2  # 196 × 196 whole chunks of 1024 over 200,000 px
    assert told["written"] == pytest.approx(500 * chunks * 1024**2 * shipped().rates.stored)
    assert told["merge"][64] == pytest.approx(0.73, abs=0.01) and told["merge"][1] == pytest.approx(FLAGGED)
    tiles = 500 * -(-y // 256) * -(-x // 256)
    assert told["core_hours"] >= tiles * told["call_s"] / 3600, "each tile takes a core so long, besides all else"
    assert told["core_hours"] < 1.2 * (1 + 256 / SLAB_PX) ** 2 * tiles * told["call_s"] / 3600
    assert told["driver_s"] == pytest.approx(told["slabs"] * told["driver_us"] / 1e6)
