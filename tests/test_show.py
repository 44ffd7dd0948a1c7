"""What people are told: about time, and where a line is longer than the terminal."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from pipeline import certificate, show
from pipeline.restorer import Needs


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"totals": {"seconds": 0}, "certificate_seconds": 9}, "unknown: the restorer declares no pace"),
        ({"totals": {"seconds": 1234}, "certificate_seconds": 0}, "about 1,234 s of one worker, roughly"),
        ({"totals": {"seconds": 1234}, "certificate_seconds": 56}, "1,234 s of one worker, and up to 56 s for the certificate, roughly"),
        ({"totals": {"seconds": 5}}, "about 5 s of one worker, roughly"),  # a plan read from its file
    ],
)
def test_the_time_of_a_plan_in_words(document: dict, words: str) -> None:
    assert words in show._time(document)


def test_a_certificate_costs_whole_tiles_of_every_section_with_their_draws() -> None:
    needs = Needs("x", "0", 1, 1, 1000, 16, mpx_s=2.0, draw_cost=1.5)
    assert certificate.seconds(needs, 3, draws=0) == 3 * 4 * 0.5
    assert certificate.seconds(needs, 3, draws=2) == 3 * 4 * 0.5 * 4
    assert certificate.seconds(needs, 0, draws=2) == 0


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> StringIO:
    """What goes to a terminal of 80 columns."""
    file = StringIO()
    monkeypatch.setattr(show, "out", Console(file=file, highlight=False, soft_wrap=show.out.soft_wrap, width=80))
    return file


def test_an_address_is_neither_cut_nor_folded(said: StringIO) -> None:
    url = f"http://127.0.0.1:9999/v/{'0123456789' * 9}/"
    show.pairs({"url": url, "mended_layer": "zarr2://x"})
    assert said.getvalue().splitlines() == [f"url           {url}", "mended layer  zarr2://x"]


def test_no_word_of_a_page_is_cut(said: StringIO, tmp_path: Path) -> None:
    words = [f"word{n}" for n in range(60)]
    (tmp_path / "page.md").write_text(f"# zmend\n\n- {' '.join(words)}\n\n```\n{' '.join(words)}\n```\n")
    show.night({"page": str(tmp_path / "page.md")})
    assert [w for w in said.getvalue().split() if w.startswith("word")] == words * 2
