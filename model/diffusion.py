"""The diffusion: noise, preconditioning, the joint estimate (MJS), and the way from a start to a sample.

Process: x = x0 + sigma * eps (variance exploding, as in Karras et al. 2022, EDM). sigma is the noise's standard
deviation in units where a section spans [-1, 1]. At SIGMA_MAX the evaluation is blind: the target is not shown
at all, so it is the one-step estimate (posterior mean).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from model.estimate import fuse, interpolate, sharpen
from model.filters import box
from model.motion import drift_of, sides
from model.network import AnisoUNet3D, Outputs
from model.sampler import SIGMA_MAX, Sampler

SIGMA_DATA = 0.4  # standard deviation of a section in [-1, 1] (vnc .43, isbi .35, fib25 .28)
SIGMA_MIN = 0.02  # below the grey-level step of uint8 data (.008) times a few; also stands for "clean" in the embedding
_RAMP = 8  # pixels inside the damage over which the known rim's correction fades


@dataclass(frozen=True, eq=False)
class Condition:
    """What is known about a batch of windows."""

    sections: Tensor  # (B, 1, D, H, W) float32 in [-1, 1], zero where unknown
    known: Tensor  # (B, 1, D, H, W) float32, 1 where the voxel is known
    targets: tuple[int, int]  # half-open range of sections to restore
    voxel: Tensor  # (B, 2) log2 of (section, lateral) voxel size over the reference

    @property
    def pair(self) -> Tensor:
        """The clean sections next to the gap: (B, 1, 2, H, W)."""
        return self.sections[:, :, [self.targets[0] - 1, self.targets[1]]]

    @cached_property
    def drift(self) -> Tensor:
        """Half of the tissue's drift from one of the pair to the other: (B, 2 = dy dx, H, W) in pixels."""
        return drift_of(self.pair)

    @cached_property
    def moved(self) -> tuple[Tensor, Tensor]:
        """Either of the pair as each section of the window would see it, tissue's drift undone: (B, 1, D, H, W)."""
        a, b = self.targets
        return sides(self.pair, self.drift, a, b - a, self.sections.shape[2] - b)

    @property
    def target(self) -> Tensor:
        return self.sections[:, :, self.targets[0] : self.targets[1]]

    @property
    def target_known(self) -> Tensor:
        return self.known[:, :, self.targets[0] : self.targets[1]]


class Estimate(NamedTuple):
    """One evaluation's answer at the targets, each (B, 1, K, H, W)."""

    clean: Tensor  # joint estimate of x0
    noise: Tensor  # joint estimate of eps
    weight: Tensor  # w: share of the noise head in it
    implied: Tensor  # eps_x: the noise that the x0 head implies
    outputs: Outputs


def evaluate(network: AnisoUNet3D, condition: Condition, noisy: Tensor, sigma: Tensor) -> Estimate:
    """One network evaluation at noisy (B, 1, K, H, W) and sigma (B,).

    MJS, "joint strategy for noise estimation": eps_x = (x - x0_hat) / sigma, w = sigmoid(g + 2 ln(sigma_data / sigma)),
    eps* = w eps_hat + (1 - w) eps_x, x0* = x - sigma eps*. With g = 0 the weight is EDM's c_skip (sigma_data^2 /
    (sigma^2 + sigma_data^2)): trust the noise head at small sigma, the x0 head at large. Nearest published: Benny and
    Wolf, CVPR 2022 (dual output). The gate per pixel and its prior are our guess.
    """
    s = sigma[:, None, None, None, None]
    kind = network.config.outputs
    blind = (s >= SIGMA_MAX) & (kind != "eps")  # the noise head alone cannot answer blind
    outputs = network(*_inputs(network, condition, noisy.masked_fill(blind, 0), sigma), condition.targets)
    prior = 2 * torch.log(SIGMA_DATA / s)
    weight = torch.sigmoid(outputs.gate + prior if kind == "mjs" else prior.expand_as(outputs.gate))
    if kind in ("eps", "x0"):
        weight = torch.full_like(weight, 1.0 if kind == "eps" else 0.0)
    weight = weight.masked_fill(blind, 0)  # nobody can tell noise that was not shown
    implied = (noisy - outputs.clean) / s
    noise = weight * outputs.noise + (1 - weight) * implied
    return Estimate(noisy - s * noise, noise, weight, implied, outputs)


def _inputs(
    network: AnisoUNet3D, condition: Condition, noisy: Tensor, sigma: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """EDM's input scaling; the neighbours carry sigma = 0. Returns the network's x, pair, log_sigma and voxel."""
    a, b = condition.targets
    scaled = condition.sections / SIGMA_DATA
    c_in = (sigma**2 + SIGMA_DATA**2).rsqrt()[:, None, None, None, None]
    x = torch.cat([scaled[:, :, :a], noisy * c_in, scaled[:, :, b:]], 2)  # (B, 1, D, H, W)
    if network.config.mask_channel:
        x = torch.cat([x, 1 - condition.known, scaled * condition.known], 1)  # (B, 3, D, H, W)
    if network.config.neighbours:
        shown = condition.moved if network.config.aligned else condition.pair.chunk(2, 2)
        x = torch.cat([x, *(side.expand_as(scaled) / SIGMA_DATA for side in shown)], 1)  # (B, 5, D, H, W)
    levels = torch.full((x.shape[0], x.shape[2]), SIGMA_MIN, device=x.device)
    levels[:, a:b] = sigma[:, None]
    return x, condition.pair, levels.log(), condition.voxel


# ---- sampling ------------------------------------------------------------------------------------------------------

_ROUNDS = 3  # bands overlap: power on FIB-25 crops was 1.40 after one round, 1.08 after three
_ANEW = 1000  # draws of the ancestral solver's own noise begin here
Noise = Callable[[int], Tensor]  # draw number -> N(0, 1) by global coordinates, in the shape of the targets


def sample(network: AnisoUNet3D, condition: Condition, noise: Noise, sampler: Sampler) -> Tensor:
    """Restore the targets: (B, 1, K, H, W) in [-1, 1]."""
    if sampler.steps == 1:
        return _mean(network, condition, sampler)
    levels = sampler.levels()
    amplitude = sampler.scale(levels[0])
    x = _start(network, condition, sampler) + levels[0] * amplitude * noise(0)
    path = _Path(network, condition, sampler.solver)
    for draw, (sigma, below) in enumerate(pairwise([*levels, 0.0]), 1):
        wanted = sampler.scale(below)
        renewed = wanted * noise(_ANEW + draw) if sampler.solver == "ddpm" and below else None
        x = path.step(x, sigma, below, renewed)
        if below and wanted > amplitude:  # texture is drawn only now
            x = x + below * math.sqrt(wanted**2 - amplitude**2) * noise(draw)
            amplitude = wanted
    return _detailed(x, condition, sampler)


def _start(network: AnisoUNet3D, condition: Condition, sampler: Sampler) -> Tensor:
    """What the first level's noise is added to."""
    if sampler.start == "gaussian":
        return torch.zeros_like(condition.target)
    if sampler.start == "match":
        estimate = interpolate(condition.pair, condition.target.shape[2], sampler.share)
    else:
        # Not fused: the fine detail of both neighbours, raised to full energy, would compete with membranes that the
        # network has seen (validation: membrane F1 .556 without, .538 with)
        mean = _blind(network, condition)
        estimate = sharpen(mean, condition.pair, sampler.sharpen) if sampler.sharpen else mean
    return project(estimate, condition.target, condition.target_known)


def _mean(network: AnisoUNet3D, condition: Condition, sampler: Sampler) -> Tensor:
    """The posterior mean: the blind evaluation, and what the neighbours agree on."""
    blind = _blind(network, condition)
    if not sampler.fuse:
        return blind
    return project(fuse(blind, condition.pair, condition.drift), condition.target, condition.target_known)


def _blind(network: AnisoUNet3D, condition: Condition) -> Tensor:
    """The network's own posterior mean: one evaluation that sees nothing of the target but its known pixels.

    In float32 on a CPU: everything starts from it, and is sharpened, so bfloat16's rounding would tell one tiling from
    another by more than a grey level (`benchmarks/results/halo.md`).
    """
    nothing = torch.zeros_like(condition.target)
    if condition.target.device.type != "cpu":
        return _denoise(network, condition, nothing, SIGMA_MAX)
    with _one_thread(), torch.autocast("cpu", enabled=False):
        return _denoise(network, condition, nothing, SIGMA_MAX)


@contextmanager
def _one_thread() -> Iterator[None]:
    """torch's float32 kernels, unlike those in bfloat16, round otherwise for every number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _detailed(clean: Tensor, condition: Condition, sampler: Sampler) -> Tensor:
    """The finest detail, of which the network keeps too little: the neighbours know how much there is."""
    if not sampler.detail:
        return clean
    for _ in range(_ROUNDS):
        clean = sharpen(clean, condition.pair, sampler.detail, blurs=(1.0, 2.0), gains=(0.2, 2.0))
    return project(clean, condition.target, condition.target_known)


class _Path:
    """The solvers: each takes x at one level to the next, and to the clean estimate at level 0."""

    def __init__(self, network: AnisoUNet3D, condition: Condition, solver: str) -> None:
        self.network, self.condition, self.solver = network, condition, solver
        self.before: tuple[float, Tensor] | None = None  # level and clean estimate of the step before

    def step(self, x: Tensor, sigma: float, below: float, renewed: Tensor | None) -> Tensor:
        clean = _denoise(self.network, self.condition, x, sigma)
        before, self.before = self.before, (sigma, clean)
        if not below:
            return clean
        slope = (x - clean) / sigma
        if renewed is not None:  # Ho et al. 2020 in sigma: all of the noise that a step can renew is drawn anew
            up = below * math.sqrt(1 - (below / sigma) ** 2)
            return clean + math.sqrt(below**2 - up**2) * slope + up * renewed
        if self.solver == "heun":  # Karras et al. 2022, algorithm 1
            euler = clean + below * slope
            corrected = (euler - _denoise(self.network, self.condition, euler, below)) / below
            return x + (below - sigma) * (slope + corrected) / 2
        if self.solver == "dpm++" and before is not None:  # Lu et al. 2022, DPM-Solver++(2M)
            ratio = math.log(before[0] / sigma) / math.log(sigma / below)
            clean = clean + (clean - before[1]) / (2 * ratio)
            return below / sigma * x + (1 - below / sigma) * clean
        return clean + below * slope  # Song et al. 2021, DDIM


def _denoise(network: AnisoUNet3D, condition: Condition, x: Tensor, sigma: float) -> Tensor:
    level = torch.full((len(x),), sigma, device=x.device)
    return project(evaluate(network, condition, x, level).clean.float(), condition.target, condition.target_known)


def project(clean: Tensor, truth: Tensor, known: Tensor) -> Tensor:
    """Put the known pixels into an estimate of x0 (DDNM for a mask), and let its error at their rim fade 8 px inwards.

    Training-free handling of partial damage: the same network restores whole and damaged sections. All (B, 1, K, H, W).
    """
    if not bool(known.any()):
        return clean
    error = (truth - clean) * known
    near = box(error.flatten(0, 2)[:, None], 2 * _RAMP + 1).reshape(clean.shape)
    share = box(known.flatten(0, 2)[:, None], 2 * _RAMP + 1).reshape(clean.shape)
    rim = near * (1 / share.clamp(min=1e-6)).clamp(max=2.0)  # mean rim error times min(1, 2 share): 0 at 8 px
    return torch.where(known > 0.5, truth, clean + rim)
