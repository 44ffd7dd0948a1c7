"""The training objective: the MJS loss of one evaluation, and MS-SSIM for its fifth term."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from model.diffusion import SIGMA_DATA, Estimate
from model.sampler import SIGMA_MAX


@dataclass(frozen=True, slots=True)
class LossWeights:
    """Weights lambda of the MJS loss's five terms; terms and weights are our guess, the paper's are not public."""

    noise: float = 1.0  # lambda_1: |eps_hat - eps|^2
    clean: float = 1.0  # lambda_2: min(1 + SNR, 5) |x0_hat - x0|^2
    joint: float = 1.0  # lambda_3: |eps* - eps|^2, which trains the gate alone
    charbonnier: float = 0.1  # lambda_4: sqrt(|x0_hat - x0|^2 + 1e-4)
    ssim: float = 0.05  # lambda_5: 1 - MS-SSIM(x0*, x0) where sigma < sigma_data
    known: float = 0.1  # weight of pixels that were given, beside 1 for those to restore


def loss(estimate: Estimate, truth: Tensor, eps: Tensor, sigma: Tensor, known: Tensor, weights: LossWeights) -> Tensor:
    """MJS loss of a batch; truth x0, eps, known (B, 1, K, H, W), sigma (B,). Scalar.

        L = lambda_1 |eps_hat - eps|^2 + lambda_2 min(1 + SNR, 5) |x0_hat - x0|^2 + lambda_3 |eps* - eps|^2
            + lambda_4 Charbonnier(x0_hat, x0) + lambda_5 (1 - MS-SSIM(x0*, x0)),   SNR = (sigma_data / sigma)^2

    eps*, x0*: the joint estimate, as `diffusion.evaluate` has it. x0 errors are in sigma_data. Deviations: plain
    min-SNR (Hang et al., ICCV 2023) would be min(SNR, 5), which leaves x0 untrained at large sigma, where the sampler
    needs it most; and no term that speaks of noise counts where the evaluation is blind.
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
