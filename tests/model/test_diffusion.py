"""Joint estimate, projection of known pixels, sampler."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from model import diffusion, objective
from model.diffusion import Condition, evaluate, project, sample
from model.network import Outputs
from model.objective import LossWeights
from model.sampler import SCHEDULES, SIGMA_MAX, SOLVERS, STARTS, Sampler
from tests.model.tiny import TINY, alive


def condition(known_part: bool = False, size: int = 32) -> Condition:
    torch.manual_seed(3)
    sections, known = torch.rand(1, 1, 3, size, size) * 2 - 1, torch.ones(1, 1, 3, size, size)
    known[:, :, 1] = 0
    if known_part:
        known[:, :, 1, :, : size // 2] = 1
    return Condition(sections * known, known, (1, 2), torch.zeros(1, 2))


def noise(draw: int, size: int = 32) -> Tensor:
    return torch.randn(1, 1, 1, size, size, generator=torch.Generator().manual_seed(draw))


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
        e = evaluate(
            alive(replace(TINY, outputs=outputs)), condition(), torch.randn(1, 1, 1, 32, 32), torch.tensor([0.3])
        )
    assert torch.equal(e.weight, torch.full_like(e.weight, weight))


def test_the_joint_term_teaches_the_gate_alone() -> None:
    network, sigma, noisy = alive(), torch.tensor([0.3]), torch.randn(1, 1, 1, 32, 32)
    only = LossWeights(noise=0, clean=0, joint=1, charbonnier=0, ssim=0)
    value = objective.loss(
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
        return diffusion.Estimate(zero, zero, zero, zero, Outputs(zero, zero, zero))

    monkeypatch.setattr(diffusion, "evaluate", counted)
    sample(alive(), condition(), noise, Sampler(steps=steps))
    assert len(levels) == steps and levels[0] == SIGMA_MAX  # the bridge's start is one of them, blind
    assert levels == sorted(levels, reverse=True)


def test_levels_carry_the_wanted_amount_of_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a denoiser that knows x0 = 0, what the network is given is the noise: cold structure, warm texture."""
    given: list[tuple[float, float]] = []

    def perfect(network: object, c: Condition, noisy: Tensor, sigma: Tensor) -> diffusion.Estimate:
        given.append((float(sigma[0]), float(noisy.std()) / float(sigma[0])))
        zero = torch.zeros_like(noisy)
        return diffusion.Estimate(zero, zero, zero, zero, Outputs(zero, zero, zero))

    monkeypatch.setattr(diffusion, "evaluate", perfect)
    sampler = Sampler(steps=6, temperature=0.3, texture=0.9, structure=0.8, warm=0.3, finest=0.1)
    flat = replace(condition(), sections=torch.zeros(1, 1, 3, 32, 32))
    sample(alive(), flat, noise, sampler)
    assert len(given) == 6
    for sigma, amplitude in given[1:]:  # the first is blind
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
        assert torch.equal(sample(network, c, noise, Sampler(steps=1, fuse=False)), blind.clean)


@pytest.mark.parametrize("outputs", ["eps+x0", "mjs"])
def test_the_joint_estimate_weighs_noise_more_as_it_fades(outputs: str) -> None:
    network = alive(replace(TINY, outputs=outputs))
    with torch.no_grad():
        weights = [
            evaluate(network, condition(), torch.randn(1, 1, 1, 32, 32), torch.tensor([s])).weight.mean()
            for s in (2.0, 0.4, 0.05)
        ]
    assert weights == sorted(weights)
    if outputs == "eps+x0":  # no learned gate: EDM's c_skip
        assert float(weights[1]) == pytest.approx(0.5)


def gaussian_posterior(network: object, c: Condition, noisy: Tensor, sigma: Tensor) -> diffusion.Estimate:
    """The exact denoiser of pixels that are N(0, 0.25) and independent."""
    clean = noisy * 0.25 / (0.25 + sigma[:, None, None, None, None] ** 2)
    return diffusion.Estimate(clean, clean, clean, clean, Outputs(clean, clean, clean))


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_solver_draws_the_distribution_of_an_exact_denoiser(
    solver: str, schedule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diffusion, "evaluate", gaussian_posterior)
    flat = replace(condition(size=96), sections=torch.zeros(1, 1, 3, 96, 96))
    drawn = sample(alive(), flat, lambda d: noise(d, 96), Sampler(
        steps=60, start="gaussian", solver=solver, schedule=schedule, temperature=1, texture=1, finest=0.01, detail=0,
    ))  # fmt: skip
    assert float(drawn.std()) == pytest.approx(0.5, rel=0.06)
    assert abs(float(drawn.mean())) < 0.03


def test_second_order_needs_fewer_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Error of the drawn spread against the exact 0.5, at equal cost."""
    monkeypatch.setattr(diffusion, "evaluate", gaussian_posterior)
    flat = replace(condition(size=96), sections=torch.zeros(1, 1, 3, 96, 96))

    def error(solver: str) -> float:
        settings = Sampler(steps=25, start="gaussian", solver=solver, temperature=1, texture=1, finest=0.02, detail=0)
        exact = 0.5 / (0.25 + SIGMA_MAX**2) ** 0.5 * SIGMA_MAX * noise(0, 96)  # the flow is linear here
        return float((sample(alive(), flat, lambda d: noise(d, 96), settings) - exact).square().mean())

    assert error("dpm++") < error("ddim") and error("heun") < error("ddim")


def test_the_ancestral_solver_draws_new_noise_and_the_others_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diffusion, "evaluate", gaussian_posterior)
    used: dict[str, int] = {}
    for solver in SOLVERS:
        seen: list[int] = []

        def counted(draw: int, seen: list[int] = seen) -> Tensor:
            seen.append(draw)
            return noise(draw)

        sample(alive(), condition(), counted, Sampler(steps=5, solver=solver, temperature=1, texture=1))
        used[solver] = len(set(seen))
    assert used == {"ddim": 1, "heun": 1, "dpm++": 1, "ddpm": 4}


@pytest.mark.parametrize("start", STARTS)
def test_every_start_keeps_known_pixels(start: str) -> None:
    c = condition(known_part=True)
    with torch.no_grad():
        out = sample(alive(), c, noise, Sampler(steps=3, start=start, detail=1))
    assert torch.equal(out[..., :16], c.target[..., :16])


@pytest.mark.parametrize(
    "wrong",
    [{"structure": 0.0}, {"structure": -1.0}, {"structure": "0.4"}, {"finest": 0.0}, {"finest": 2.0}, {"texture": float("nan")},
     {"temperature": -1.0}, {"share": 7.0}, {"sharpen": "x"}, {"fuse": "no"}, {"steps": 2.5}, {"steps": 0},
     {"finest": 0.5, "structure": 0.4}],
)  # fmt: skip
def test_numbers_that_no_sampler_can_use_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Sampler(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [{"start": "guess"}, {"solver": "euler"}, {"schedule": "cosine"}])
def test_unknown_settings_are_named(wrong: dict[str, str]) -> None:
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"{name} '{value}' is not one of"):
        Sampler(**wrong)  # type: ignore[arg-type]
