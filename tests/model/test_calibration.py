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


def reliable(factor: float) -> c.Reliability:
    """Errors drawn with a scale that differs from place to place, and a spread that says `factor` times that scale."""
    rng = np.random.default_rng(0)
    scale = rng.uniform(0.2, 2.0, SHAPE)
    return c.reliability(scale * rng.standard_normal(SHAPE), np.zeros(SHAPE), factor * scale, np.ones(SHAPE, bool))


def test_a_spread_that_is_the_error_to_expect() -> None:
    found = reliable(1.0)
    assert found.within == pytest.approx(0.9, abs=0.01)
    assert found.error_of_tenths == pytest.approx(found.spread_of_tenths, rel=0.06)
    assert list(found.spread_of_tenths) == sorted(found.spread_of_tenths)
    assert found.refused_over_kept == pytest.approx(1.91 / np.sqrt(np.mean(np.linspace(0.2, 1.82, 100) ** 2)), rel=0.05)


def test_a_spread_that_says_too_little_covers_too_little() -> None:
    found = reliable(0.5)
    assert found.within < 0.65
    assert found.error_of_tenths == pytest.approx([2 * s for s in found.spread_of_tenths], rel=0.06)


def test_a_spread_that_knows_nothing_refuses_in_vain() -> None:
    rng = np.random.default_rng(1)
    where = np.zeros(SHAPE, bool)
    where[:2] = True
    found = c.reliability(rng.standard_normal(SHAPE), np.where(where, 0, 50), rng.uniform(1, 2, SHAPE), where)
    assert found.refused_over_kept == pytest.approx(1, abs=0.08), "and known voxels do not count"


def test_joined_reliability_is_the_mean() -> None:
    a, b = reliable(1.0), reliable(0.5)
    both = c.joined_reliability([a, b])
    assert both.within == pytest.approx((a.within + b.within) / 2)
    assert both.spread_of_tenths[3] == pytest.approx((a.spread_of_tenths[3] + b.spread_of_tenths[3]) / 2)


def test_joined_is_the_mean() -> None:
    a, b = (c.calibration(*drawn(4, s)) for s in (0.5, 1.0))
    assert c.joined([a, b]).spread_skill == pytest.approx((a.spread_skill + b.spread_skill) / 2)
