"""Estimates that the sampler starts from: neighbours moved into place, and means made sharp again."""

from __future__ import annotations

import pytest
import torch

from model.estimate import fuse, interpolate, sharpen
from model.filters import blur, box
from model.motion import drift_of, match
from model.objective import ms_ssim


@pytest.mark.parametrize(("dy", "dx"), [(0, 0), (4, 0), (-4, 4)])
def test_matching_finds_a_drift_and_interpolation_undoes_it(dy: int, dx: int) -> None:
    torch.manual_seed(0)
    tissue = torch.nn.functional.avg_pool2d(torch.rand(1, 1, 168, 168), 9, 1)  # (1, 1, 160, 160)
    tissue = 4 * (tissue - tissue.mean())
    moved = [tissue[..., 16 + s * dy : 144 + s * dy, 16 + s * dx : 144 + s * dx] for s in (-1, 0, 1)]
    inner = (..., slice(32, 96), slice(32, 96))
    drift = match(moved[0], moved[2])[inner].mean((0, 2, 3))
    assert drift.tolist() == pytest.approx([-dy, -dx], abs=1.8)
    sections = torch.stack(moved, 2)
    made = interpolate(sections[:, :, ::2], 1, 0.75)[:, :, 0]
    error = (made - moved[1])[inner].square().mean()
    copied = (moved[0] - moved[1])[inner].square().mean()
    assert float(error) < 0.35 * float(copied) or (dy == dx == 0 and float(error) < 1e-3)


def test_the_nearer_neighbour_weighs_more() -> None:
    sections = torch.zeros(1, 1, 5, 32, 32)
    sections[:, :, 4] = 1.0
    made = interpolate(sections[:, :, ::4], 3, 0.75)
    assert torch.allclose(made.mean((0, 1, 3, 4)), torch.tensor([0.25, 0.25, 0.75]), atol=1e-5)


def test_ms_ssim_of_an_image_with_itself_is_one() -> None:
    x = torch.rand(2, 1, 1, 64, 64)
    assert torch.allclose(ms_ssim(x, x), torch.ones(2), atol=1e-4)
    assert bool((ms_ssim(x, torch.rand(2, 1, 1, 64, 64)) < 0.5).all())


def fused(mean: torch.Tensor, pair: torch.Tensor) -> torch.Tensor:
    return fuse(mean, pair, drift_of(pair))


def tissue(seed: int, size: int = 192) -> torch.Tensor:
    """Coloured noise around 0, (1, 1, 1, size, size)."""
    torch.manual_seed(seed)
    return 3 * blur(torch.randn(1, 1, size, size), 1.5)[:, :, None]


def energy(x: torch.Tensor, low: float, high: float) -> float:
    flat = x[0, 0]
    return float((blur(flat, low) - blur(flat, high))[..., 32:-32, 32:-32].square().mean())


def test_sharpening_gives_each_band_the_energy_of_the_neighbours() -> None:
    pair = torch.cat([tissue(1), tissue(2)], 2)
    mean = blur(tissue(3)[0], 2.0)[None]
    sharp = sharpen(mean, pair)
    for low, high in ((2.0, 4.0), (4.0, 8.0)):
        wanted = (energy(pair[:, :, :1], low, high) + energy(pair[:, :, 1:], low, high)) / 2
        assert energy(mean, low, high) < 0.8 * wanted
        assert 0.8 * wanted < energy(sharp, low, high) < 1.8 * wanted  # bands overlap: more than that much


def test_strength_nothing_changes_nothing() -> None:
    pair, mean = torch.cat([tissue(1), tissue(2)], 2), tissue(3)
    assert torch.allclose(sharpen(mean, pair, 0.0), mean, atol=1e-5)


def test_sharpening_is_local() -> None:
    """Far pixels do not matter: 24 px of the widest blur and 16 of the energy window, twice."""
    pair, mean = torch.cat([tissue(1), tissue(2)], 2), tissue(3)
    other = mean.clone()
    other[..., :40] += 1.0
    a, b = sharpen(mean, pair), sharpen(other, pair)
    assert torch.allclose(a[..., 40 + 41 :], b[..., 40 + 41 :], atol=1e-4)
    assert not torch.allclose(a[..., 40:60], b[..., 40:60], atol=1e-4)


def test_several_targets_are_sharpened_alike() -> None:
    pair, mean = torch.cat([tissue(1), tissue(2)], 2), tissue(3)
    both = sharpen(torch.cat([mean, mean], 2), pair)
    assert torch.allclose(both[:, :, :1], sharpen(mean, pair), atol=1e-6) and torch.equal(both[:, :, 0], both[:, :, 1])


def test_blur_stays_float32_under_autocast() -> None:
    x = torch.rand(1, 1, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(blur(x, 2.0), blur(x, 2.0).float()) and blur(x, 2.0).dtype == torch.float32
        inside = blur(x, 2.0)
    assert torch.equal(inside, blur(x, 2.0))


def test_box_is_a_mean() -> None:
    x = torch.rand(1, 1, 20, 20)
    assert float(box(x, 5)[0, 0, 10, 10]) == pytest.approx(float(x[0, 0, 8:13, 8:13].mean()), abs=1e-6)


def error(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b)[..., 32:-32, 32:-32].square().mean())


def test_what_both_neighbours_share_comes_into_the_mean() -> None:
    """Equal neighbours: the detail that a blurred mean lost is theirs."""
    truth = tissue(1)
    mean = blur(truth[:, :, 0], 3.0)[:, :, None]
    made = fused(mean, torch.cat([truth, truth], 2))
    assert error(made, truth) < 0.15 * error(mean, truth)


def test_neighbours_without_anything_in_common_change_little() -> None:
    mean = blur(tissue(3)[:, :, 0], 3.0)[:, :, None]
    made = fused(mean, torch.cat([tissue(1), tissue(2)], 2))
    assert error(made, mean) < 0.05 * float(tissue(1).square().mean())


def test_fusing_is_better_than_either_where_both_know_something() -> None:
    """The mean knows the coarse truth; the neighbours share half of the fine detail with it."""
    coarse, fine = 2 * blur(tissue(1)[:, :, 0], 8.0)[:, :, None], tissue(2)
    own = [tissue(s) for s in (3, 4, 5)]
    truth, a, b = (coarse + fine + 0.7 * x for x in own)
    wrong = torch.flip(coarse, [-1])
    pair = torch.cat([a - coarse + wrong, b - coarse + wrong], 2)  # neighbours whose coarse structure has moved on
    made = fused(coarse, pair)
    assert error(made, truth) < error(coarse, truth)
    assert error(made, truth) < error(pair.mean(2, keepdim=True), truth)


def test_the_nearer_neighbour_counts_more_in_fusing() -> None:
    pair = torch.cat([tissue(1), 0.8 * tissue(1) + 0.6 * tissue(2)], 2)
    made = fused(torch.zeros(1, 1, 3, 192, 192), pair)
    first, last = (error(made[:, :, k : k + 1], pair[:, :, :1]) for k in (0, 2))
    assert first < last


def test_fusing_is_local() -> None:
    pair, mean = torch.cat([tissue(1), tissue(2)], 2), tissue(3)
    other = pair.clone()
    other[..., :40] += torch.randn(40)
    a, b = fused(mean, pair), fused(mean, other)
    assert torch.allclose(a[..., 40 + 88 :], b[..., 40 + 88 :], atol=1e-3)
