"""Joint estimate, projection of known pixels, sampler."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from model import diffusion
from model.diffusion import SIGMA_MAX, Condition, LossWeights, Sampler, evaluate, project, sample
from tests.model.tiny import TINY, alive


def condition(known_part: bool = False, size: int = 32) -> Condition:
    torch.manual_seed(3)
    sections, known = torch.rand(1, 1, 3, size, size) * 2 - 1, torch.ones(1, 1, 3, size, size)
    known[:, :, 1] = 0
    if known_part:
        known[:, :, 1, :, : size // 2] = 1
    return Condition(sections * known, known, (1, 2), torch.zeros(1, 2))


def noise(draw: int) -> Tensor:
    return torch.randn(1, 1, 1, 32, 32, generator=torch.Generator().manual_seed(draw))


def test_the_joint_estimate_is_the_gated_mean_of_both_heads() -> None:
    sigma, noisy = torch.tensor([0.3]), torch.randn(1, 1, 1, 32, 32)
    with torch.no_grad():
        e = evaluate(alive(), condition(), noisy, sigma)
    from_noise, from_clean = noisy - 0.3 * e.outputs.noise, e.outputs.clean
    assert torch.allclose(e.clean, e.weight * from_noise + (1 - e.weight) * from_clean, atol=1e-5)
    assert torch.allclose(noisy - 0.3 * e.noise, e.clean, atol=1e-6)


@pytest.mark.parametrize(("outputs", "weight"), [("x0", 0.0), ("eps", 1.0)])
def test_single_output_variants_use_that_head_alone(outputs: str, weight: float) -> None:
    with torch.no_grad():
        e = evaluate(alive(replace(TINY, outputs=outputs)), condition(), torch.randn(1, 1, 1, 32, 32), torch.tensor([0.3]))
    assert torch.equal(e.weight, torch.full_like(e.weight, weight))


def test_the_joint_term_teaches_the_gate_alone() -> None:
    network, sigma, noisy = alive(), torch.tensor([0.3]), torch.randn(1, 1, 1, 32, 32)
    only = LossWeights(noise=0, clean=0, joint=1, charbonnier=0, ssim=0)
    value = diffusion.loss(
        evaluate(network, condition(), noisy, sigma), noisy, noisy, sigma, torch.zeros_like(noisy), only
    )
    value.backward()  # type: ignore[no-untyped-call]
    gradient = network.head.plane.weight.grad
    assert gradient is not None
    noise_head, clean_head, gate_head = gradient.chunk(3)
    assert not noise_head.any() and not clean_head.any() and gate_head.any()


def test_known_pixels_are_projected_and_the_rim_fades_in_8_pixels() -> None:
    truth, known = torch.zeros(1, 1, 1, 40, 40), torch.zeros(1, 1, 1, 40, 40)
    known[..., :16] = 1
    out = project(torch.ones_like(truth), truth, known)[0, 0, 0, 20]
    assert torch.equal(out[:16], torch.zeros(16))
    assert torch.equal(out[24:], torch.ones(16))
    assert bool((out[16:24].diff() > 0).all()) and float(out[16]) < 0.2


def test_projection_without_known_pixels_changes_nothing() -> None:
    x = torch.randn(1, 1, 2, 8, 8)
    assert project(x, torch.zeros_like(x), torch.zeros_like(x)) is x


def test_the_sample_keeps_known_pixels() -> None:
    c = condition(known_part=True)
    with torch.no_grad():
        out = sample(alive(), c, noise, Sampler(steps=3))
    assert torch.equal(out[..., :16], c.target[..., :16])


@pytest.mark.parametrize("steps", [1, 2, 4, 7])
def test_steps_are_network_evaluations(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    levels: list[float] = []

    def counted(network: object, c: Condition, noisy: Tensor, sigma: Tensor) -> diffusion.Estimate:
        levels.append(float(sigma[0]))
        zero = torch.zeros_like(noisy)
        return diffusion.Estimate(zero, zero, zero, zero, diffusion.Outputs(zero, zero, zero))

    monkeypatch.setattr(diffusion, "evaluate", counted)
    sample(alive(), condition(), noise, Sampler(steps=steps))
    assert len(levels) == steps and (levels[0] == SIGMA_MAX) == (steps == 1)
    assert levels == sorted(levels, reverse=True)


def test_levels_carry_the_wanted_amount_of_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a denoiser that knows x0 = 0, what the network is given is the noise: cold structure, warm texture."""
    given: list[tuple[float, float]] = []

    def perfect(network: object, c: Condition, noisy: Tensor, sigma: Tensor) -> diffusion.Estimate:
        given.append((float(sigma[0]), float(noisy.std()) / float(sigma[0])))
        zero = torch.zeros_like(noisy)
        return diffusion.Estimate(zero, zero, zero, zero, diffusion.Outputs(zero, zero, zero))

    monkeypatch.setattr(diffusion, "evaluate", perfect)
    sampler = Sampler(steps=5, temperature=0.3, texture=0.9, structure=0.8, warm=0.3, finest=0.1)
    flat = condition()._replace(sections=torch.zeros(1, 1, 3, 32, 32))
    sample(alive(), flat, noise, sampler)
    for sigma, amplitude in given:
        assert amplitude == pytest.approx(0.9 if sigma <= 0.3 else 0.3, rel=0.1)


def test_the_blind_evaluation_does_not_see_the_target() -> None:
    level = torch.tensor([SIGMA_MAX])
    with torch.no_grad():
        a, b = (evaluate(alive(), condition(), x, level).clean for x in (torch.zeros(1, 1, 1, 32, 32), noise(5)))
    assert torch.allclose(a, b, atol=1e-5)


def test_one_step_is_the_posterior_mean() -> None:
    network, c = alive(), condition()
    with torch.no_grad():
        blind = evaluate(network, c, torch.zeros(1, 1, 1, 32, 32), torch.tensor([SIGMA_MAX]))
        assert torch.equal(sample(network, c, noise, Sampler(steps=1)), blind.clean)


@pytest.mark.parametrize(("dy", "dx"), [(0, 0), (4, 0), (-4, 4)])
def test_matching_finds_a_drift_and_interpolation_undoes_it(dy: int, dx: int) -> None:
    torch.manual_seed(0)
    tissue = torch.nn.functional.avg_pool2d(torch.rand(1, 1, 168, 168), 9, 1)  # (1, 1, 160, 160)
    tissue = 4 * (tissue - tissue.mean())
    moved = [tissue[..., 16 + s * dy : 144 + s * dy, 16 + s * dx : 144 + s * dx] for s in (-1, 0, 1)]
    inner = (..., slice(32, 96), slice(32, 96))
    drift = diffusion.match(moved[0], moved[2])[inner].mean((0, 2, 3))
    assert drift.tolist() == pytest.approx([-dy, -dx], abs=1.8)
    sections = torch.stack(moved, 2)
    known = torch.ones_like(sections)
    known[:, :, 1] = 0
    made = diffusion.interpolate(Condition(sections * known, known, (1, 2), torch.zeros(1, 2)), 0.75)[:, :, 0]
    error = (made - moved[1])[inner].square().mean()
    copied = (moved[0] - moved[1])[inner].square().mean()
    assert float(error) < 0.35 * float(copied) or (dy == dx == 0 and float(error) < 1e-3)


def test_the_nearer_neighbour_weighs_more() -> None:
    sections = torch.zeros(1, 1, 5, 32, 32)
    sections[:, :, 4] = 1.0
    known = torch.ones_like(sections)
    known[:, :, 1:4] = 0
    made = diffusion.interpolate(Condition(sections, known, (1, 4), torch.zeros(1, 2)), 0.75)
    assert torch.allclose(made.mean((0, 1, 3, 4)), torch.tensor([0.25, 0.25, 0.75]), atol=1e-5)


def test_ms_ssim_of_an_image_with_itself_is_one() -> None:
    x = torch.rand(2, 1, 1, 64, 64)
    assert torch.allclose(diffusion.ms_ssim(x, x), torch.ones(2), atol=1e-4)
    assert bool((diffusion.ms_ssim(x, torch.rand(2, 1, 1, 64, 64)) < 0.5).all())
