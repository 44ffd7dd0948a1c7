"""Is the spread of an ensemble the error to expect? Pure functions of the truth and of members drawn independently.

truth (N, H, W); members (k, N, H, W), k >= 2; any unit, here grey values in [0, 1]. `where` (N, H, W) bool limits
everything to the voxels that were restored. Quantities and what a perfect posterior sampler would give:

spread/skill     sqrt((k+1)/k * mean variance of the members / mean squared error of their mean)      1
coverage         share of truths inside the central 90 % interval                                   .90
sample/mean      mean squared error of one member over that of the posterior mean                     2
rank histogram   share of truths with r members below them, r = 0 ... k                      1/(k+1) each

And of the spread that is stored beside each restored voxel (`spread.spread`), around the members' mean:

within           share of truths within 1.645 spread of the mean                     .90, less by sqrt((k+1)/k)
tenths           of the voxels, by spread: mean spread and rms error of each           equal
refused/kept     rms error of the tenth with the widest spread over that of the rest   above 1: it pays to refuse

(k+1)/k: the mean of k members misses by (1 + 1/k) times the variance, because it is itself one draw (Fortin et al.,
J. Hydrometeorology 2014, eq. 16). For the same reason the error of the mean of k members is 1 + 1/k times that of the
posterior mean; the ratio sample/mean is corrected for it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

Floats = npt.NDArray[np.floating]
Bools = npt.NDArray[np.bool_]
CENTRAL = 0.9


@dataclass(frozen=True, slots=True)
class Calibration:
    """What is measured of one ensemble."""

    members: int
    spread_skill: float
    coverage_gaussian: float  # of mean +- 1.645 sqrt((k+1)/k) spread
    coverage_rank: float  # of the interval between order statistics, see coverage_rank
    coverage_rank_expected: float  # what that interval covers when calibrated
    sample_over_mean: float
    ranks: tuple[float, ...]  # k + 1 shares, sum 1

    def to_dict(self) -> dict[str, object]:
        return asdict(self)


def calibration(truth: Floats, members: Floats, where: Bools | None = None, seed: int = 0) -> Calibration:
    """Every quantity at once. `seed` decides ties of ranks."""
    chosen = np.ones(truth.shape, bool) if where is None else where
    t, m = np.asarray(truth[chosen], float), np.asarray(members[:, chosen], float)  # (n,), (k, n)
    share, expected = coverage_rank(t, m)
    return Calibration(
        len(m), spread_skill(t, m), coverage_gaussian(t, m), share, expected, sample_over_mean(t, m),
        tuple(float(r) for r in rank_histogram(t, m, seed)),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Reliability:
    """Whether the stored spread tells where the errors are; in the units of the images."""

    within: float
    refused_over_kept: float
    spread_of_tenths: tuple[float, ...]  # rising
    error_of_tenths: tuple[float, ...]

    def to_dict(self) -> dict[str, object]:
        return asdict(self)


def reliability(truth: Floats, mean: Floats, spread: Floats, where: Bools) -> Reliability:
    """Of restored voxels; truth, mean, spread, where (N, H, W), at least ten voxels in all."""
    error, width = (mean - truth)[where].astype(float), spread[where].astype(float)
    parts = np.array_split(np.argsort(width, kind="stable"), 10)
    errors = [float(np.sqrt(np.mean(error[p] ** 2))) for p in parts]
    kept = float(np.sqrt(np.mean(np.concatenate([error[p] for p in parts[:-1]]) ** 2)))
    within = float(np.mean(np.abs(error) <= special.ndtri((1 + CENTRAL) / 2) * width))
    return Reliability(within, errors[-1] / kept if kept else float("inf"),
                       tuple(float(width[p].mean()) for p in parts), tuple(errors))  # fmt: skip


def spread_skill(truth: Floats, members: Floats) -> float:
    """Below 1 the ensemble is too sure of itself, above 1 too timid."""
    k = len(members)
    spread = members.var(0, ddof=1).mean() * (k + 1) / k
    skill = np.mean((members.mean(0) - truth) ** 2)
    return float(np.sqrt(spread / skill)) if skill else float("inf")


def coverage_gaussian(truth: Floats, members: Floats) -> float:
    """Share of truths within the central 90 % of a Gaussian of the members' mean and spread."""
    k = len(members)
    width = special.ndtri((1 + CENTRAL) / 2) * members.std(0, ddof=1) * np.sqrt((k + 1) / k)
    return float(np.mean(np.abs(members.mean(0) - truth) <= width))


def coverage_rank(truth: Floats, members: Floats) -> tuple[float, float]:
    """(measured, expected when calibrated) share of truths between the j-th smallest and j-th largest member.

    A truth that is one more draw of k + 1 has every rank alike, so the interval covers (k + 1 - 2j) / (k + 1); j is the
    largest for which that is at least 90 %, or 1 (the members' range) for fewer than 19 members: compare with
    `expected`, not with 90 %.
    """
    k = len(members)
    j = max(int((1 - CENTRAL) / 2 * (k + 1) + 1e-9), 1)
    ordered = np.sort(members, 0)
    inside = (truth >= ordered[j - 1]) & (truth <= ordered[k - j])
    return float(inside.mean()), (k + 1 - 2 * j) / (k + 1)


def sample_over_mean(truth: Floats, members: Floats) -> float:
    """MSE of a member over MSE of the posterior mean, which the mean of k members exceeds by their variance over k."""
    k = len(members)
    one = np.mean((members - truth) ** 2)
    mean = np.mean((members.mean(0) - truth) ** 2) - members.var(0, ddof=1).mean() / k
    return float(one / mean) if mean > 0 else float("inf")


def rank_histogram(truth: Floats, members: Floats, seed: int = 0) -> npt.NDArray[np.float64]:
    """Shares (k+1,) of truths by the number of members below them; ties (grey levels) are broken at random."""
    below, equal = (members < truth).sum(0), (members == truth).sum(0)
    rank = below + np.random.default_rng(seed).integers(0, equal + 1)
    return np.asarray(np.bincount(rank.ravel(), minlength=len(members) + 1) / truth.size, float)


def joined_reliability(parts: list[Reliability]) -> Reliability:
    """Mean over sections of equal area."""
    tenths = (np.mean([getattr(p, name) for p in parts], 0) for name in ("spread_of_tenths", "error_of_tenths"))
    spreads, errors = (tuple(float(v) for v in each) for each in tenths)
    within, ratio = (float(np.mean([getattr(p, name) for p in parts])) for name in ("within", "refused_over_kept"))
    return Reliability(within, ratio, spreads, errors)


def joined(parts: list[Calibration]) -> Calibration:
    """Mean over ensembles of equal size (sections of equal area)."""

    def mean(name: str) -> float:
        return float(np.mean([getattr(p, name) for p in parts]))

    return Calibration(
        parts[0].members, mean("spread_skill"), mean("coverage_gaussian"), mean("coverage_rank"),
        parts[0].coverage_rank_expected, mean("sample_over_mean"),
        tuple(float(r) for r in np.mean([p.ranks for p in parts], 0)),
    )  # fmt: skip
