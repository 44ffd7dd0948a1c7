"""The ablation's table: what each variant changes, and how long it may learn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from model.network import PRESETS
from model.trainer import Settings

_ENDLESS = 1 << 40  # steps; the minutes end it


@dataclass(frozen=True, slots=True)
class Variant:
    """What is changed, each as {field: value}; everything else is as in `full`."""

    says: str
    network: Mapping[str, Any] = field(default_factory=dict)  # of NetworkConfig
    settings: Mapping[str, Any] = field(default_factory=dict)  # of trainer.Settings
    sampler: Mapping[str, Any] = field(default_factory=dict)  # of Sampler
    mean: bool = True  # whether it has a posterior mean of its own
    against: str = "full"  # the variant that it differs from in one thing

    @property
    def trained(self) -> bool:
        """Whether it needs weights of its own."""
        return bool(self.network or self.settings)


_EPS = replace(Settings().weights, clean=0.0, charbonnier=0.0, joint=0.0)  # heads that are not used are not trained
_X0 = replace(Settings().weights, noise=0.0, joint=0.0)

VARIANTS: Mapping[str, Variant] = {
    "full": Variant("everything on"),
    "asymmetric": Variant("1x3x3 convolutions only", {"symmetric": False}),
    "symmetric": Variant("3x3x3 convolutions only", {"asymmetric": False}),
    "no-flab": Variant("no First and Last slices Attention Block", {"flab": False}),
    "no-alr": Variant("no Adaptive and Learnable Reconstruction", {"alr": False}),
    "not-aligned": Variant("neighbours where they lie, not moved along the drift", {"aligned": False}),
    "x0": Variant("x0 head alone", {"outputs": "x0"}, {"weights": _X0}),
    "eps+x0": Variant("both heads, fixed gate", {"outputs": "eps+x0"}),
    "no-correction": Variant("no input perturbation, no rollout", {}, {"perturb": 0.0, "rollout": 0.0}),
    "no-bridge": Variant("sampled from pure noise", sampler={"start": "gaussian"}, mean=False),
    "match": Variant("sampled from moved neighbours", sampler={"start": "match"}, mean=False),
    # The noise head alone cannot answer blind: it has no posterior mean, no bridge, and nothing to learn there
    "eps": Variant("noise head alone", {"outputs": "eps"}, {"blind": 0.0, "weights": _EPS}, {"start": "match"},
                   mean=False, against="match"),
    **{f"steps-{n}": Variant(f"{n} network evaluations", sampler={"steps": n}, mean=False) for n in (1, 2, 4, 8, 16)},
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Budget:
    """How each variant is trained: until `steps` or `minutes`, whichever is given, or the first of both."""

    steps: int | None
    minutes: float | None
    size: int = 8  # windows a batch
    crop: int = 128  # pixels a side
    seed: int = 0
    preset: str = "cpu"

    def __post_init__(self) -> None:
        if not (self.steps or 0) > 0 and not (self.minutes or 0) > 0:
            raise ValueError("say how long each variant is trained: --minutes 20, or --steps 1000")

    def settings(self, variant: Variant) -> Settings:
        network = replace(PRESETS[self.preset], **variant.network)
        base = Settings(network, seed=self.seed, steps=self.steps or _ENDLESS, size=self.size, crop=self.crop)
        return replace(base, **variant.settings)

    def steps_at(self, done: int, seconds: float) -> int:
        """Steps that will be done when the budget ends, at the pace so far; the learning rate comes down towards it."""
        limit = self.steps or _ENDLESS
        if not self.minutes:
            return limit
        left = max(60 * self.minutes - seconds, 0.0)
        return min(limit, done + int(left * done / max(seconds, 1e-9)))
