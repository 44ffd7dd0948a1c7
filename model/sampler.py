"""Sampler: the settings of a draw. Free of torch, so that a wrong one is refused before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

SIGMA_MAX = 5.0  # twelve times the data's: x would hold no usable trace of the target, and is not shown
STARTS = ("bridge", "match", "gaussian")
SOLVERS = ("ddim", "ddpm", "heun", "dpm++")
SCHEDULES = ("geometric", "karras")
_RANGES = {
    "structure": (0.02, SIGMA_MAX), "finest": (0.001, 1.0), "warm": (0.0, SIGMA_MAX), "temperature": (0.0, 5.0),
    "texture": (0.0, 5.0), "sharpen": (0.0, 2.0), "detail": (0.0, 2.0), "share": (0.0, 1.0),
}  # fmt: skip
_STEPS, _WARMTH = 6, 1.4  # of ensembles


@dataclass(frozen=True, slots=True)
class Sampler:
    """How the targets are drawn: from where, through which noise levels, by which solver, how boldly.

    Structure cold, texture warm: levels above `warm` carry noise of scale `temperature`, the others of scale `texture`.
    """

    steps: int = 4  # network evaluations in all; 1 = the blind one alone, the posterior mean
    start: str = "bridge"  # "bridge": the sharpened posterior mean (one of the steps); "match": neighbours moved into
    # place; "gaussian": noise alone, as in a textbook diffusion
    solver: str = "ddim"  # "ddim", "ddpm" (ancestral), "heun" (second order, two evaluations a level), "dpm++" (2M)
    schedule: str = "geometric"  # spacing of the levels; "karras": EDM's rho = 7
    structure: float = 0.4  # first sigma after the start; "gaussian" begins at SIGMA_MAX instead
    finest: float = 0.06  # last sigma
    warm: float = 0.4  # sigma from which the texture is drawn
    temperature: float = 0.5  # scale of the noise in the structure levels
    texture: float = 1.2  # scale of the noise in the texture levels; above 1 because the network keeps too little of it
    fuse: bool = True  # where the posterior mean is the answer (steps 1): put into it what both neighbours share
    sharpen: float = 1.0  # how far the start's faded bands are raised to the neighbours' energy; 0 = not at all
    detail: float = 0.0  # how far the result's finest band is brought to the neighbours' energy; 0 = not at all
    share: float = 0.75  # of the nearer neighbour in "match": half and half would show every membrane twice

    def __post_init__(self) -> None:
        """Raises ValueError for what no sampler can do."""
        for name, allowed in (("start", STARTS), ("solver", SOLVERS), ("schedule", SCHEDULES)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} {getattr(self, name)!r} is not one of {', '.join(allowed)}")
        if type(self.steps) is not int or self.steps < 1 or type(self.fuse) is not bool:
            raise ValueError(f"steps {self.steps!r} must be a whole number from 1, fuse {self.fuse!r} true or false")
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:  # nor NaN
                raise ValueError(f"{name} {value!r} must be a number from {low} to {high}")
        if self.finest >= self.structure:
            raise ValueError(f"finest {self.finest} must be below structure {self.structure}: levels fall")

    def levels(self) -> list[float]:
        """Sigma of each level, falling. At most `steps` evaluations, the bridge's blind one among them."""
        count = self.steps - (self.start == "bridge")
        count = max((count + 1) // 2 if self.solver == "heun" else count, 1)  # the last level is first order
        first, last = SIGMA_MAX if self.start == "gaussian" else self.structure, self.finest
        at = [i / max(count - 1, 1) for i in range(count)]
        if self.schedule == "karras":  # Karras et al. 2022, equation 5
            a, b = first ** (1 / 7), last ** (1 / 7)
            return [(a + t * (b - a)) ** 7 for t in at]
        return [first * (last / first) ** t for t in at]

    @property
    def evaluations(self) -> int:
        """Of the network, in one draw: what it costs."""
        count = len(self.levels())
        blind = int(self.start == "bridge")
        return 1 if self.steps == 1 else blind + (2 * count - 1 if self.solver == "heun" else count)

    def scale(self, sigma: float) -> float:
        """Of the noise that a level should carry."""
        return self.texture if sigma <= self.warm * 1.0001 else self.temperature


def ensemble(sampler: Sampler) -> Sampler:
    """The sampler whose draws lie as far apart as the truth may: from noise alone, none of it cooled.

    `_WARMTH` is measured on validation rows (spread over skill .68 at 1.0, 1.00 at 1.4, 1.20 at 1.8; four draws): few
    steps of an undertrained network lose spread on the way down.
    """
    return replace(
        sampler, steps=_STEPS, start="gaussian", solver="ddim", temperature=_WARMTH, texture=_WARMTH, detail=0.0
    )


# What a preset of `network.PRESETS` is sampled with, until validation rows say better
SAMPLERS: Mapping[str, Sampler] = {
    "cpu": Sampler(structure=0.8, texture=1.2, detail=1.0),
    "bridge": Sampler(structure=0.8, texture=1.2, detail=1.0),
    # nearest to the letter of the paper: from noise alone, ancestral, no estimate to start from
    "paper": Sampler(steps=50, start="gaussian", solver="ddpm", temperature=1.0, texture=1.0, fuse=False, finest=0.02),
}
