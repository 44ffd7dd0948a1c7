"""Calibration of ensembles that are calibrated, overconfident or timid by construction."""

from __future__ import annotations

import numpy as np
import pytest

from model import calibration as c

SHAPE = (4, 64, 64)


def drawn(k: int, scale: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Truth ~ N(m, 1) and k members ~ N(m, scale): a perfect posterior at scale 1."""
    rng = np.random.default_rng(seed)
    centre = rng.standard_normal(SHAPE)
    return centre + rng.standard_normal(SHAPE), centre + scale * rng.standard_normal((k, *SHAPE))


@pytest.mark.parametrize("k", [4, 8, 39])
def test_a_perfect_posterior(k: int) -> None:
    found = c.calibration(*drawn(k, 1.0))
    assert found.spread_skill == pytest.approx(1, abs=0.03)
    assert found.sample_over_mean == pytest.approx(2, abs=0.06)
    assert found.coverage_rank == pytest.approx(found.coverage_rank_expected, abs=0.015)
    assert found.ranks == pytest.approx([1 / (k + 1)] * (k + 1), abs=0.02)


def test_intervals_cover_nine_tenths_with_many_members() -> None:
    found = c.calibration(*drawn(39, 1.0))
    assert found.coverage_gaussian == pytest.approx(0.9, abs=0.015)
    assert found.coverage_rank_expected == pytest.approx(0.9)


@pytest.mark.parametrize(("scale", "low", "high"), [(0.5, 0.0, 0.6), (2.0, 1.7, 3.0)])
def test_overconfident_and_timid_are_told_apart(scale: float, low: float, high: float) -> None:
    found = c.calibration(*drawn(8, scale))
    assert low < found.spread_skill < high
    assert (found.coverage_gaussian < 0.75) == (scale < 1)
    ends, middle = found.ranks[0] + found.ranks[-1], found.ranks[4] + found.ranks[3]
    assert (ends > middle) == (scale < 1)


def test_by_definition() -> None:
    truth, members = drawn(5, 1.3)
    mean = members.mean(0)
    spread = np.sqrt(6 / 5 * ((members - mean) ** 2).sum(0).mean() / 4)
    assert c.spread_skill(truth, members) == pytest.approx(spread / np.sqrt(((mean - truth) ** 2).mean()))
    assert c.rank_histogram(np.array([2.5]), np.array([[1.0], [2.0], [3.0]])).tolist() == [0, 0, 1, 0]


def test_ties_are_spread_over_their_ranks() -> None:
    shares = c.rank_histogram(np.zeros(4000), np.zeros((3, 4000)))
    assert shares == pytest.approx([0.25] * 4, abs=0.03)


def test_only_the_restored_voxels_count() -> None:
    truth, members = drawn(6, 1.0)
    where = np.zeros(SHAPE, bool)
    where[:, :32] = True
    expected = c.calibration(truth[:, :32], members[:, :, :32])
    members[:, :, 32:] = 7
    assert c.calibration(truth, members, where).spread_skill == pytest.approx(expected.spread_skill)


def test_joined_is_the_mean() -> None:
    a, b = (c.calibration(*drawn(4, s)) for s in (0.5, 1.0))
    assert c.joined([a, b]).spread_skill == pytest.approx((a.spread_skill + b.spread_skill) / 2)
