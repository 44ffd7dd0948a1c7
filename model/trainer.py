"""Trainer: one training run in memory. Deterministic for a seed on one kind of CPU.

Its state is one safetensors file (weights, their moving average, the optimizer's moments, the best weights so far)
with the step in its metadata; nothing is ever unpickled. A batch depends on (seed, step) alone, so a resumed run goes
on with the bits it would have had.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from model import data, state
from model.data import condition_of
from model.diffusion import SIGMA_MIN, Condition, Estimate, evaluate
from model.network import AnisoUNet3D, NetworkConfig
from model.objective import LossWeights, loss
from model.sampler import SIGMA_MAX, Sampler
from model.validation import Score, Validation


@dataclass(frozen=True, slots=True)
class Settings:
    """What a training run is, apart from its data."""

    network: NetworkConfig = field(default_factory=NetworkConfig)
    sampler: Sampler = field(default_factory=Sampler)  # goes into the card; training does not look at it
    seed: int = 0
    steps: int = 5000  # the learning rate falls to nothing over the last `cooldown` of these
    size: int = 8  # windows a batch
    crop: int = 128  # pixels a side
    rate: float = 1e-3  # peak learning rate of AdamW
    warmup: int = 100  # steps
    cooldown: float = 0.35  # share of the steps
    clip: float = 1.0  # largest gradient norm
    average: float = 0.998  # moving average of the weights
    perturb: float = 0.1  # input perturbation gamma: x is built with eps + gamma xi (Ning et al., ICML 2023)
    rollout: float = 0.1  # share of steps whose input is the network's own output from a larger sigma
    blind: float = 0.4  # share of windows at SIGMA_MAX, the sampler's one-step estimate
    validate: int = 250  # steps between two looks at the validation stacks, if there are any
    patience: int = 12  # looks without a better score after which training stops early
    bf16: bool = True  # autocast: about 4 times faster where the CPU or GPU has bfloat16 matrix units
    weights: LossWeights = field(default_factory=LossWeights)


SCRATCH = "scratch"


def draw_sigma(rng: np.random.Generator, size: int, blind: float) -> np.ndarray:
    """Noise levels (B,): log-normal around 0.25, cut to [SIGMA_MIN, SIGMA_MAX], some at SIGMA_MAX."""
    sigma = np.exp(rng.normal(np.log(0.25), 1.2, size)).clip(SIGMA_MIN, SIGMA_MAX)
    return np.where(rng.random(size) < blind, SIGMA_MAX, sigma).astype(np.float32)


class Trainer:
    """Network, optimizer and moving average; `step` is a pure function of its state and the step number.

    With validation stacks, `best` keeps the averaged weights that scored best, and training may stop early.
    """

    def __init__(
        self,
        settings: Settings,
        stacks: Sequence[data.Stack],
        device: str = "cpu",
        validation: Sequence[data.Stack] = (),
    ) -> None:
        self.settings, self.stacks, self.device = settings, stacks, torch.device(device)
        torch.manual_seed(settings.seed)
        network = AnisoUNet3D(settings.network).to(self.device)
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = {k: v.detach().clone() for k, v in network.named_parameters()}
        self.optimizer = torch.optim.AdamW(network.parameters(), settings.rate, betas=(0.9, 0.99), weight_decay=1e-2)
        self.best = dict(self.average)
        self.best_score = -math.inf
        self.best_step: int | None = None  # none looked at yet; 0: the weights it began from are still the best
        self.done = 0
        self.seconds = 0.0
        s = settings
        self.begun = SCRATCH  # or the sha256 of the weights it began from
        self.validation = Validation(s.network, validation, s.crop, self.device) if validation else None
        together = dist.is_available() and dist.is_initialized()
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if together else (0, 1)

    def begin(self, weights: Mapping[str, Tensor], sha256: str) -> None:
        """Go on from weights that exist (fine-tuning): the network and its average start there. Before any step.

        Raises ValueError where they are another network's.
        """
        shapes = {k: v.shape for k, v in weights.items()}
        if shapes != {k: v.shape for k, v in self.network.named_parameters()}:
            raise ValueError("the weights of --from are of another network than --preset: leave --preset out")
        with torch.no_grad():
            for name, value in self.network.named_parameters():
                value.copy_(weights[name])
                self.average[name].copy_(weights[name])
        self.best, self.begun = dict(self.average), sha256

    def step(self) -> float:
        """One update; returns the loss."""
        s, number = self.settings, self.done
        mine = slice(self.rank, None, self.world)  # this process's windows of the batch
        batch = data.batch(self.stacks, seed=s.seed, step=number, size=s.size, crop=s.crop)
        condition, truth = condition_of(batch.take(mine), self.device)
        rng = np.random.default_rng([s.seed, number, 1])
        sigma = torch.from_numpy(draw_sigma(rng, s.size, s.blind)[mine]).to(self.device)
        noisy, eps = self._noisy(rng, condition, truth, sigma)
        value = loss(self._evaluate(condition, noisy, sigma), truth, eps, sigma, condition.target_known, s.weights)
        self._update(value)
        self.done += 1
        return float(value.detach())

    def _noisy(
        self, rng: np.random.Generator, condition: Condition, truth: Tensor, sigma: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The network's input and the noise it should find in it.

        Two guards against the training-testing discrepancy: input perturbation always; now and then a self-rollout, in
        which the input is the network's own step down from a larger sigma and the truth stays the truth.
        """
        shape = (2, self.settings.size, *truth.shape[1:])
        drawn = rng.standard_normal(shape, np.float32)[:, self.rank :: self.world]
        normal = torch.from_numpy(drawn).to(self.device)  # (2, B, 1, K, H, W)
        level = sigma[:, None, None, None, None]
        if rng.random() >= self.settings.rollout:
            return truth + level * (normal[0] + self.settings.perturb * normal[1]), normal[0]
        above = (sigma * float(rng.uniform(1.2, 2.0))).clamp(max=SIGMA_MAX)
        with torch.no_grad():
            estimate = self._evaluate(condition, truth + above[:, None, None, None, None] * normal[0], above)
        noisy = estimate.clean + level * estimate.noise
        return noisy, (noisy - truth) / level

    def _evaluate(self, condition: Condition, noisy: Tensor, sigma: Tensor) -> Estimate:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.bf16):
            return evaluate(self.network, condition, noisy, sigma)

    def _update(self, value: Tensor) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate()
        self.optimizer.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]
        if self.world > 1:
            self._share_gradient()
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.clip)
        if not bool(torch.isfinite(norm)):
            raise FloatingPointError(
                f"step {self.done}: the gradient is not finite; lower the rate or train with bf16=False"
            )
        self.optimizer.step()
        keep = min(self.settings.average, (1 + self.done) / (10 + self.done))
        with torch.no_grad():
            for name, value in self.network.named_parameters():
                self.average[name].lerp_(value, 1 - keep)

    @property
    def finished(self) -> bool:
        """All steps are done, or the validation score has stopped rising."""
        s, best = self.settings, self.best_step
        early = best is not None and self.done - best > s.patience * s.validate
        return early or self.done >= s.steps

    def validate(self) -> Score | None:
        """Look at the validation stacks, where there are any and it is time to; keep the best weights."""
        s = self.settings
        if self.validation is None or self.rank or (self.done % s.validate and self.done < s.steps):
            return None
        score = self.validation.score(self.average, bf16=s.bf16)
        if score.total > self.best_score:
            self.best_score, self.best_step = score.total, self.done
            self.best = {k: v.clone() for k, v in self.average.items()}
        return score

    @property
    def result(self) -> dict[str, Tensor]:
        """The weights to ship: the best ones where validation tells which, else the last average."""
        return self.average if self.best_step is None else self.best

    def _share_gradient(self) -> None:
        """Mean of all processes' gradients, as one message."""
        grads = [p.grad for p in self.network.parameters() if p.grad is not None]
        flat = torch.cat([g.reshape(-1) for g in grads])
        dist.all_reduce(flat)
        start = 0
        for grad in grads:
            grad.copy_(flat[start : start + grad.numel()].reshape(grad.shape) / self.world)
            start += grad.numel()

    def agree(self, value: bool) -> bool:
        """Rank 0's answer, for all: processes that stop at different steps would wait for each other for ever."""
        if self.world == 1:
            return value
        answer = torch.tensor([float(value)], device=self.device)
        dist.broadcast(answer, 0)
        return bool(answer.item())

    def rate(self) -> float:
        """Warm-up, constant, then linear to nothing."""
        s = self.settings
        left = (s.steps - self.done) / max(s.steps * s.cooldown, 1)
        return s.rate * min((self.done + 1) / s.warmup, 1.0, max(left, 0.0))

    def save(self, path: Path) -> None:
        """Write the state that `resume` continues from."""
        if self.rank:
            return
        tensors = {f"average.{k}": v for k, v in self.average.items()}
        if self.best_step is not None:
            tensors |= {f"best.{k}": v for k, v in self.best.items()}
        for name, value in self.network.named_parameters():
            tensors[f"network.{name}"] = value
            for key, moment in self.optimizer.state.get(value, {}).items():
                tensors[f"{key}.{name}"] = moment
        best = [self.best_step, 0.0 if self.best_step is None else self.best_score]
        state.write(path, tensors, {"done": str(self.done), "seconds": str(self.seconds), "made_by": self._made_by(),
                                    "best": json.dumps(best)})  # fmt: skip

    def _made_by(self) -> str:
        """What must not change between segments: the card tells of it, and resumed batches depend on it."""
        s = self.settings
        stacks = [f"{t.part.name}{list(t.raw.shape)}" for t in self.stacks]
        return (
            f"batch {s.size}, crop {s.crop}, seed {s.seed}, rate {s.rate:g}, blind {s.blind:g}, from {self.begun}, "
            f"data {stacks}, network {s.network.to_dict()}"
        )

    def _check_same(self, path: Path, said: str) -> None:
        if said != self._made_by():
            raise ValueError(f"{path} was trained with {said}: give the same, or another --state")

    def resume(self, path: Path) -> None:
        """Continue from a state that `save` wrote. Raises ValueError for another training's and StateError."""
        tensors, meta = state.read(path)
        self._check_same(path, meta.get("made_by", self._made_by()))
        try:
            self._take(tensors, meta)
        except (KeyError, ValueError, RuntimeError) as error:
            raise state.refused(path, f"{type(error).__name__}: {error}") from error

    def _take(self, tensors: Mapping[str, Tensor], meta: Mapping[str, str]) -> None:
        self.done, self.seconds = int(meta["done"]), float(meta["seconds"])
        step, score = json.loads(meta["best"])
        if any(k.startswith("best.") for k in tensors):  # older states say step 0 where there is none
            self.best_step, self.best_score = step, score
        for name, value in self.network.named_parameters():
            self.average[name] = tensors[f"average.{name}"].to(self.device)
            if self.best_step is not None:
                self.best[name] = tensors[f"best.{name}"].to(self.device)
            with torch.no_grad():
                value.copy_(tensors[f"network.{name}"])
            keys = [k for k in ("step", "exp_avg", "exp_avg_sq") if f"{k}.{name}" in tensors]
            self.optimizer.state[value] = {k: self._like(tensors[f"{k}.{name}"], value) for k in keys}

    @staticmethod
    def _like(moment: Tensor, value: Tensor) -> Tensor:
        """Same memory layout as the parameter, so that resumed arithmetic visits values in the same order."""
        return torch.empty_like(value).copy_(moment) if moment.shape == value.shape else moment  # the count of steps
