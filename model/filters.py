"""Filters: Gaussian and box windows. Each looks at a bounded neighbourhood, so that tiles agree."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def blur(x: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of (N, 1, H, W), cut at 3 sigma, edges repeated; in float32 wherever it is called."""
    reach = int(3 * sigma + 0.5)
    at = torch.arange(-reach, reach + 1, dtype=torch.float32, device=x.device)
    kernel = torch.exp(-0.5 * (at / sigma) ** 2)
    kernel = (kernel / kernel.sum())[None, None]  # (1, 1, n)
    with torch.autocast(x.device.type, enabled=False):
        rows = F.conv2d(F.pad(x, [0, 0, reach, reach], mode="replicate"), kernel[..., None])
        out: Tensor = F.conv2d(F.pad(rows, [reach, reach, 0, 0], mode="replicate"), kernel[:, :, None])
    return out


def box(x: Tensor, size: int) -> Tensor:
    """Mean over a size x size window (odd) of (N, C, H, W); beyond the edge there are zeros."""
    rows = F.avg_pool2d(x, (size, 1), 1, (size // 2, 0))
    return F.avg_pool2d(rows, (1, size), 1, (0, size // 2))
