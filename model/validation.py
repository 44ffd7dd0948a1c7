"""Validation: how good the averaged weights are on windows kept from training, and pictures of what they make.

The windows never change, so scores of different steps compare. Higher is better; training keeps the best weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from model import data
from model.diffusion import Condition, evaluate
from model.network import AnisoUNet3D, NetworkConfig
from model.sampler import SIGMA_MAX

FINE = 0.2  # noise level at which texture is looked at
_SEED = 2**31 - 1  # no training run has it
_BATCHES, _SIZE = 4, 8
_SHOWN = 4  # windows in a picture


@dataclass(frozen=True, slots=True)
class Score:
    """Mean squared error in the voxels to restore, in dB below that of a constant (the neighbours' mean)."""

    blind: float  # of the posterior mean: the target is not shown
    fine: float  # of the denoised target at sigma FINE

    @property
    def total(self) -> float:
        """What the best weights are best at: structure counts twice, texture once."""
        return (2 * self.blind + self.fine) / 3


class Validation:
    """Fixed windows of the validation stacks, and a network of its own to look at them with."""

    def __init__(self, network: NetworkConfig, stacks: Sequence[data.Stack], crop: int, device: torch.device) -> None:
        self.network = AnisoUNet3D(network).to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self.device = device
        crop = min(crop, *(min(s.raw.shape[1:]) // network.stride * network.stride for s in stacks))
        self.batches = [data.batch(stacks, seed=_SEED, step=i, size=_SIZE, crop=crop) for i in range(_BATCHES)]

    def score(self, weights: Mapping[str, Tensor], *, bf16: bool) -> Score:
        """Score of weights {parameter name: tensor}."""
        self.network.load_state_dict(dict(weights), strict=False)  # buffers are the same in every network
        errors = np.zeros(3)
        for number, batch in enumerate(self.batches):
            condition, truth = data.condition_of(batch, self.device)
            lost = 1 - condition.target_known
            flat = condition.pair.mean((2, 3, 4), keepdim=True)  # (B, 1, 1, 1, 1)
            blind = self._clean(condition, torch.zeros_like(truth), SIGMA_MAX, bf16)
            noise = np.random.default_rng([_SEED, number]).standard_normal(truth.shape, np.float32)
            fine = self._clean(condition, truth + FINE * torch.from_numpy(noise).to(self.device), FINE, bf16)
            errors += [float((lost * (x - truth) ** 2).sum()) for x in (flat, blind, fine)]
        constant, *ours = np.maximum(errors, 1e-12)
        return Score(*(float(10 * np.log10(constant / e)) for e in ours))

    def _clean(self, condition: Condition, noisy: Tensor, sigma: float, bf16: bool) -> Tensor:
        level = torch.full((len(noisy),), sigma, device=self.device)
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
            return evaluate(self.network, condition, noisy, level).clean.float()

    def picture(self, path: Path, *, bf16: bool) -> None:
        """Rows: previous, truth, posterior mean, next, of the first windows; with the weights scored last."""
        condition, truth = data.condition_of(self.batches[0], self.device)
        mean = self._clean(condition, torch.zeros_like(truth), SIGMA_MAX, bf16)
        pair = condition.pair
        shown = [pair[:, 0, 0], truth[:, 0, 0], mean[:, 0, 0], pair[:, 0, 1]]
        rows = [torch.cat(list(x[:_SHOWN]), 1) for x in shown]  # each (H, SHOWN * W)
        grey = ((torch.cat(rows).cpu().numpy() + 1) * 127.5).clip(0, 255).astype(np.uint8)
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), grey)
