"""The diffusion: noise, preconditioning, the joint estimate (MJS), its loss, and a sampler of few deterministic steps.

Process: x = x0 + sigma * eps (variance exploding, as in Karras et al. 2022, EDM). sigma is the noise's standard
deviation in units where a section spans [-1, 1]. At SIGMA_MAX the evaluation is blind: the target is not shown
at all, so it is the one-step estimate (posterior mean) that the rest of the sampler starts from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from model.network import AnisoUNet3D, Outputs

SIGMA_DATA = 0.4  # standard deviation of a section in [-1, 1] (vnc .43, isbi .35, fib25 .28)
SIGMA_MAX = 5.0  # twelve times the data's: x would hold no usable trace of the target, and is not shown
SIGMA_MIN = 0.02  # below the grey-level step of uint8 data (.008) times a few; also stands for "clean" in the embedding
VERSION = 1  # of everything here that can change a sampled voxel; part of the restorer's digest
_RAMP = 8  # pixels inside the damage over which the known rim's correction fades


class Condition(NamedTuple):
    """What is known about a batch of windows."""

    sections: Tensor  # (B, 1, D, H, W) float32 in [-1, 1], zero where unknown
    known: Tensor  # (B, 1, D, H, W) float32, 1 where the voxel is known
    targets: tuple[int, int]  # half-open range of sections to restore
    voxel: Tensor  # (B, 2) log2 of (section, lateral) voxel size over the reference

    @property
    def pair(self) -> Tensor:
        """The clean sections next to the gap: (B, 1, 2, H, W)."""
        return self.sections[:, :, [self.targets[0] - 1, self.targets[1]]]

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

    MJS: eps_x = (x - x0_hat) / sigma, w = sigmoid(gate), eps* = w eps_hat + (1 - w) eps_x. The gate starts at
    EDM's c_skip (sigma_data^2 / (sigma^2 + sigma_data^2)): trust the noise head at small sigma, the x0 head at large.
    """
    s = sigma[:, None, None, None, None]
    kind = network.config.outputs
    blind = (s >= SIGMA_MAX) & (kind != "eps")  # the noise head alone cannot answer blind
    outputs = network(*_inputs(network, condition, noisy.masked_fill(blind, 0), sigma), condition.targets)
    weight = torch.sigmoid(outputs.gate + 2 * torch.log(SIGMA_DATA / s))
    if kind != "mjs":
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
        sides = (condition.pair / SIGMA_DATA).chunk(2, 2)  # each (B, 1, 1, H, W)
        x = torch.cat([x, *(side.expand_as(scaled) for side in sides)], 1)
    levels = torch.full((x.shape[0], x.shape[2]), SIGMA_MIN, device=x.device)
    levels[:, a:b] = sigma[:, None]
    return x, condition.pair, levels.log(), condition.voxel


# ---- training ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LossWeights:
    """Weights of the MJS loss's five terms; the paper's are not public, these are our guess."""

    noise: float = 1.0
    clean: float = 1.0
    joint: float = 1.0
    charbonnier: float = 0.1
    ssim: float = 0.05
    known: float = 0.1  # weight of pixels that were given, beside 1 for those to restore


def loss(estimate: Estimate, truth: Tensor, eps: Tensor, sigma: Tensor, known: Tensor, weights: LossWeights) -> Tensor:
    """MJS loss of a batch; truth, eps, known (B, 1, K, H, W), sigma (B,). Scalar.

    Deviation from plain min-SNR: the clean term is weighted min(1 + SNR, 5), not min(SNR, 5), which would leave x0
    untrained at large sigma, where the sampler needs it most. Units: x0 errors are in sigma_data.
    """
    out = estimate.outputs
    pixel = (1 - known) + weights.known * known
    pixel = pixel / pixel.mean()
    snr = (SIGMA_DATA / sigma[:, None, None, None, None]) ** 2
    weight = estimate.weight
    joint = weight * out.noise.detach() + (1 - weight) * estimate.implied.detach()  # gradient only through the gate
    error = (out.clean - truth) / SIGMA_DATA
    shown = (sigma < SIGMA_MAX).float()[:, None, None, None, None]  # a blind evaluation cannot know eps
    total = weights.noise * shown * (out.noise - eps) ** 2
    total = total + weights.clean * (1 + snr).clamp(max=5) * error**2
    total = total + weights.joint * shown * (joint - eps) ** 2
    total = total + weights.charbonnier * (error**2 + 1e-4).sqrt()
    small = (sigma < SIGMA_DATA).float()
    ssim = (small * (1 - ms_ssim(estimate.clean, truth))).mean()
    return (pixel * total).mean() + weights.ssim * ssim


def ms_ssim(a: Tensor, b: Tensor, scales: int = 3) -> Tensor:
    """Mean structural similarity over `scales` binnings, 7 x 7 windows, data range 2: (B, 1, K, H, W) -> (B,)."""
    x, y = a.flatten(0, 2)[:, None], b.flatten(0, 2)[:, None]  # (B*K, 1, H, W)
    total = torch.zeros((), device=a.device)
    for _ in range(scales):
        mx, my = F.avg_pool2d(x, 7, 1), F.avg_pool2d(y, 7, 1)
        vx, vy = F.avg_pool2d(x * x, 7, 1) - mx**2, F.avg_pool2d(y * y, 7, 1) - my**2
        cov = F.avg_pool2d(x * y, 7, 1) - mx * my
        value = (2 * mx * my + 4e-4) * (2 * cov + 3.6e-3) / ((mx**2 + my**2 + 4e-4) * (vx + vy + 3.6e-3))
        total = total + value.mean((1, 2, 3)).reshape(a.shape[0], -1).mean(1) / scales
        x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
    return total


# ---- sampling ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sampler:
    """Structure cold, texture warm: where sections can only be guessed, guess their mean; where detail is free, draw
    it.

    Level i runs from `structure` to `finest`; levels at or below `warm` are re-noised up to `texture`.
    """

    steps: int = 4  # network evaluations; 1 = posterior mean
    temperature: float = 0.3  # scale of the noise in the structure levels (large sigma)
    texture: float = 1.0  # scale of the noise in the texture levels (small sigma)
    structure: float = 0.8  # first sigma after the one-step estimate
    warm: float = 0.35  # sigma from which the texture is drawn
    finest: float = 0.1  # last sigma

    def levels(self) -> list[float]:
        """Sigma of each evaluation after the first, falling geometrically."""
        n = self.steps - 1
        ratio = self.finest / self.structure
        return [self.structure * ratio ** (i / max(n - 1, 1)) for i in range(n)]


def sample(network: AnisoUNet3D, condition: Condition, noise: Callable[[int], Tensor], sampler: Sampler) -> Tensor:
    """Restore the targets: (B, 1, K, H, W) in [-1, 1]. noise(draw) -> the same shape, N(0, 1), a function of
    coordinates.

    Deterministic (DDIM, first order) between levels: x_i = clean + sigma_i * (eps + fresh), eps carried along.
    """
    batch = condition.sections.shape[0]
    x = SIGMA_MAX * noise(0)
    clean = _denoise(network, condition, x, SIGMA_MAX, batch)
    carried, amplitude = sampler.temperature * x / SIGMA_MAX, sampler.temperature
    for draw, sigma in enumerate(sampler.levels(), start=1):
        wanted = sampler.texture if sigma <= sampler.warm * 1.0001 else sampler.temperature
        fresh = max(wanted**2 - amplitude**2, 0.0) ** 0.5
        x = clean + sigma * (carried + (fresh * noise(draw) if fresh else 0.0))
        amplitude = max(wanted, amplitude)
        clean = _denoise(network, condition, x, sigma, batch)
        carried = (x - clean) / sigma
    return clean


def _denoise(network: AnisoUNet3D, condition: Condition, x: Tensor, sigma: float, batch: int) -> Tensor:
    level = torch.full((batch,), sigma, device=x.device)
    return project(evaluate(network, condition, x, level).clean.float(), condition.target, condition.target_known)


def project(clean: Tensor, truth: Tensor, known: Tensor) -> Tensor:
    """Put the known pixels into an estimate of x0 (DDNM for a mask), and let its error at their rim fade 8 px inwards.

    Training-free handling of partial damage: the same network restores whole and damaged sections. All (B, 1, K, H, W).
    """
    if not bool(known.any()):
        return clean
    error = (truth - clean) * known
    size, pad = 2 * _RAMP + 1, _RAMP
    near = F.avg_pool2d(error.flatten(0, 2)[:, None], size, 1, pad).reshape(clean.shape)
    share = F.avg_pool2d(known.flatten(0, 2)[:, None], size, 1, pad).reshape(clean.shape)
    rim = near * (1 / share.clamp(min=1e-6)).clamp(max=2.0)  # mean rim error times min(1, 2 share): 0 at 8 px
    return torch.where(known > 0.5, truth, clean + rim)
