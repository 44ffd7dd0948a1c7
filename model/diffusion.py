"""The diffusion: noise, preconditioning, the joint estimate (MJS), its loss, and a sampler of few deterministic steps.

Process: x = x0 + sigma * eps (variance exploding, as in Karras et al. 2022, EDM). sigma is the noise's standard
deviation in units where a section spans [-1, 1]. At SIGMA_MAX the evaluation is blind: the target is not shown
at all, so it is the one-step estimate (posterior mean).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from model.blocks import warp
from model.network import AnisoUNet3D, Outputs

SIGMA_DATA = 0.4  # standard deviation of a section in [-1, 1] (vnc .43, isbi .35, fib25 .28)
SIGMA_MAX = 5.0  # twelve times the data's: x would hold no usable trace of the target, and is not shown
SIGMA_MIN = 0.02  # below the grey-level step of uint8 data (.008) times a few; also stands for "clean" in the embedding
VERSION = 1  # of everything here that can change a sampled voxel; part of the restorer's digest
_SEARCH = 3  # quarter-resolution pixels either way: a drift of 24 pixels between the neighbours
_STIFF = 0.1  # cost of a squared pixel of drift there: sections are nearly aligned, so small drifts are likelier
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
    """Start from the warped neighbours, re-noise to `structure`, and come down in few deterministic steps.

    Structure cold, texture warm: levels above `warm` carry noise of scale `temperature`, the others of scale `texture`.
    """

    steps: int = 4  # network evaluations; 1 = the blind one, the posterior mean
    structure: float = 0.4  # first sigma: detail coarser than this noise can hide comes from the start
    finest: float = 0.06  # last sigma
    warm: float = 0.4  # sigma from which the texture is drawn
    temperature: float = 0.5  # scale of the noise in the structure levels
    texture: float = 1.2  # scale of the noise in the texture levels; above 1 because the network keeps too little of it
    share: float = 0.75  # of the nearer neighbour in the start: half and half would show every membrane twice

    def levels(self) -> list[float]:
        """Sigma of each evaluation, falling geometrically."""
        ratio = self.finest / self.structure
        return [self.structure * ratio ** (i / max(self.steps - 1, 1)) for i in range(self.steps)]


def sample(network: AnisoUNet3D, condition: Condition, noise: Callable[[int], Tensor], sampler: Sampler) -> Tensor:
    """Restore the targets: (B, 1, K, H, W) in [-1, 1]. noise(draw) -> the same shape, N(0, 1), by global coordinates.

    Deterministic (DDIM, first order) between levels: x_i = clean + sigma_i * (eps + fresh), eps carried along.
    """
    if sampler.steps == 1:
        return _denoise(network, condition, torch.zeros_like(condition.target), SIGMA_MAX)
    clean = project(interpolate(condition, sampler.share), condition.target, condition.target_known)
    carried, amplitude = torch.zeros_like(clean), 0.0
    for draw, sigma in enumerate(sampler.levels()):
        wanted = sampler.texture if sigma <= sampler.warm * 1.0001 else sampler.temperature
        fresh = max(wanted**2 - amplitude**2, 0.0) ** 0.5
        x = clean + sigma * (carried + (fresh * noise(draw) if fresh else 0.0))
        amplitude = max(wanted, amplitude)
        clean = _denoise(network, condition, x, sigma)
        carried = (x - clean) / sigma
    return clean


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
    near = _box(error.flatten(0, 2)[:, None], 2 * _RAMP + 1).reshape(clean.shape)
    share = _box(known.flatten(0, 2)[:, None], 2 * _RAMP + 1).reshape(clean.shape)
    rim = near * (1 / share.clamp(min=1e-6)).clamp(max=2.0)  # mean rim error times min(1, 2 share): 0 at 8 px
    return torch.where(known > 0.5, truth, clean + rim)


def interpolate(condition: Condition, share: float) -> Tensor:
    """The two clean neighbours moved along the tissue's drift into each target's plane, and mixed: (B, 1, K, H, W)."""
    first, last = (side[:, :, 0].float() for side in condition.pair.chunk(2, 2))  # (B, 1, H, W)
    drift, gap = match(first, last), condition.targets[1] - condition.targets[0]
    planes = []
    for j in range(gap):
        t = (j + 1) / (gap + 1)  # how far from first to last
        before, after = warp(first, -2 * t * drift), warp(last, 2 * (1 - t) * drift)
        weight = share if t <= 0.5 else 1 - share
        planes.append(weight * before + (1 - weight) * after)
    return torch.stack(planes, 2)


def match(first: Tensor, last: Tensor) -> Tensor:
    """Half of the drift from first to last (B, 1, H, W), seen from the plane midway: (B, 2 = dy dx, H, W) in pixels.

    Symmetric block matching at 1/4 resolution on locally normalised sections, with a soft minimum. A window search as
    good as DIS flow here (validation: NCC .511 against .514, membrane F1 .443 against .446), but local: tiles agree.
    """
    a, b = (_normalised(F.avg_pool2d(_box(side, 3), 4)) for side in (first, last))  # (B, 1, h, w)
    h, w = a.shape[-2:]
    pa, pb = F.pad(a, [_SEARCH] * 4), F.pad(b, [_SEARCH] * 4)
    steps = range(-_SEARCH, _SEARCH + 1)
    offsets = [(dy, dx) for dy in steps for dx in steps]
    costs = [
        _box((_crop(pa, -dy, -dx, h, w) - _crop(pb, dy, dx, h, w)) ** 2, 9) + _STIFF * (dy * dy + dx * dx)
        for dy, dx in offsets
    ]
    weights = (-20 * torch.cat(costs, 1)).softmax(1)  # (B, offsets, h, w)
    grid = torch.tensor(offsets, dtype=weights.dtype, device=weights.device)  # (offsets, 2)
    drift = (weights[:, :, None] * grid[None, :, :, None, None]).sum(1)  # (B, 2, h, w)
    return F.interpolate(4 * drift, size=first.shape[-2:], mode="bilinear", align_corners=False)


def _box(x: Tensor, size: int) -> Tensor:
    return F.avg_pool2d(x, size, 1, size // 2)


def _normalised(x: Tensor) -> Tensor:
    """Zero mean and unit variance in a 17 x 17 window: sections differ in brightness and contrast."""
    mean = _box(x, 17)
    return (x - mean) * ((_box(x * x, 17) - mean * mean).clamp(min=0) + 1e-2).rsqrt()


def _crop(padded: Tensor, dy: int, dx: int, h: int, w: int) -> Tensor:
    """The h x w window shifted by (dy, dx) from the middle."""
    return padded[..., _SEARCH + dy : _SEARCH + dy + h, _SEARCH + dx : _SEARCH + dx + w]
