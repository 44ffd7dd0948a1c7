"""What people are told about time."""

from __future__ import annotations

import pytest

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
