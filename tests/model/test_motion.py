"""Motion: a drift that is known is found, to a fraction of a pixel, and undone; tiles agree."""

from __future__ import annotations

import pytest
import torch

from model.filters import blur
from model.motion import FINEST, drift_of, into_place, match, refine, sides

INNER = (..., slice(48, -48), slice(48, -48))


def drifting(dy: float, dx: float, size: int = 256) -> list[torch.Tensor]:
    """Sharp tissue in three sections, (1, 1, size, size) each, that drifts by (dy, dx) pixels a section."""
    torch.manual_seed(1)
    margin = 16
    fine = 3 * blur(torch.randn(1, 1, 2 * (size + 2 * margin), 2 * (size + 2 * margin)), 3.0)
    steps = [(round(2 * s * dy), round(2 * s * dx)) for s in (-1, 0, 1)]  # on a grid of half pixels
    low, high = 2 * margin, 2 * (margin + size)
    return [torch.nn.functional.avg_pool2d(fine[..., low + y : high + y, low + x : high + x], 2) for y, x in steps]


@pytest.mark.parametrize(("dy", "dx"), [(0, 0), (2.5, -1.0), (-3.5, 4.5)])
def test_the_refined_drift_is_right_to_a_quarter_of_a_pixel(dy: float, dx: float) -> None:
    first, middle, last = drifting(dy, dx)
    coarse = match(first, last)
    fine = drift_of(torch.stack([first, last], 2))
    assert float((refine(first, last, fine, FINEST) - fine)[INNER].abs().mean()) < 0.25, "nothing is left to mend"
    wanted = torch.tensor([-dy, -dx])[None, :, None, None]
    error, before = ((d - wanted)[INNER].abs().mean() for d in (fine, coarse))
    assert float(error) < 0.25, "pixels"
    assert float(error) <= float(before) + 0.02
    a, b = into_place(first, last, fine, 0.5)
    left = ((a + b) / 2 - middle)[INNER].square().mean() / middle[INNER].square().mean()
    assert float(left) < 0.05


def test_sides_are_what_each_section_would_see() -> None:
    first, middle, last = drifting(2.0, -2.0)
    pair = torch.stack([first, last], 2)
    a, b = sides(pair, drift_of(pair), 2, 1, 1)
    assert a.shape == b.shape == (1, 1, 4, 256, 256)
    assert torch.allclose(a[:, :, 0], first, atol=1e-5) and torch.allclose(a[:, :, 1], first, atol=1e-5), "the first, where it is"
    assert torch.allclose(b[:, :, 3], last, atol=1e-5), "the last, where it is"
    for side, unmoved in ((a, first), (b, last)):
        for d, section in enumerate((first, first, middle, last)):
            error, before = ((x - section)[INNER].square().mean() for x in (side[:, :, d], unmoved))
            assert float(error) <= 0.3 * float(before) + 1e-9, d


def test_sections_with_nothing_in_common_and_sections_without_texture_stay_finite() -> None:
    torch.manual_seed(2)
    strange = torch.stack([torch.zeros(1, 1, 64, 64), torch.randn(1, 1, 64, 64)], 2)
    for pair in (strange, torch.zeros(1, 1, 2, 64, 64)):
        a, b = sides(pair, drift_of(pair), 1, 3, 1)
        assert bool(torch.isfinite(a).all()) and bool(torch.isfinite(b).all())
    assert float(drift_of(torch.zeros(1, 1, 2, 64, 64)).abs().max()) < 1e-6


def test_two_tilings_see_the_same_drift() -> None:
    first, _, last = drifting(1.5, -2.5, 384)
    whole = drift_of(torch.stack([first, last], 2))
    cut = (..., slice(64, 384), slice(64, 384))
    part = drift_of(torch.stack([first[cut], last[cut]], 2))
    core = (..., slice(96, -96), slice(96, -96))
    assert float((whole[cut][core] - part[core]).abs().max()) < 0.05, "pixels, 96 px from the edge of the tile"
