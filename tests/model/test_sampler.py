"""What a draw costs is what is counted beforehand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from model import diffusion
from model.diffusion import Condition, sample
from model.sampler import SAMPLERS, Sampler, ensemble
from tests.model.tiny import alive

CASES = {
    "default": Sampler(), "one": Sampler(steps=1), "two": Sampler(steps=2), "match": Sampler(start="match"),
    "noise": Sampler(start="gaussian", steps=5), "heun": Sampler(solver="heun", steps=6),
    "heun from noise": Sampler(solver="heun", start="gaussian", steps=6), "heun odd": Sampler(solver="heun", start="match", steps=5),
    "dpm++": Sampler(solver="dpm++", steps=7), "ddpm": Sampler(solver="ddpm", steps=3), "ensemble": ensemble(Sampler()),
    "paper": replace(SAMPLERS["paper"], steps=9),
}  # fmt: skip


@pytest.mark.parametrize("sampler", CASES.values(), ids=CASES)
def test_a_draw_takes_the_evaluations_that_it_says(sampler: Sampler, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0
    real = diffusion.evaluate

    def counted(*given: Any) -> Any:
        nonlocal calls
        calls += 1
        return real(*given)

    monkeypatch.setattr(diffusion, "evaluate", counted)
    known = torch.ones(1, 1, 3, 32, 32)
    known[:, :, 1] = 0
    condition = Condition(torch.rand(1, 1, 3, 32, 32) * known, known, (1, 2), torch.zeros(1, 2))
    with torch.inference_mode():
        sample(alive(), condition, lambda draw: torch.zeros(1, 1, 1, 32, 32), sampler)
    assert calls == sampler.evaluations <= sampler.steps
