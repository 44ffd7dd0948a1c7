"""Baselines against known answers for one, two and three missing sections and for partial damage; nobody sees the truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from model import metrics
from model.baselines import average, baselines, blurred, constant, copy, cubic, flow, lagrange, ours
from model.diffusion import Sampler
from model.scenes import HIDDEN, Case, Method, damaged
from tests.model.phantoms import case
from tests.model.tiny import alive

ALL: dict[str, Method] = {**baselines(), "ours": ours(alive(), Sampler(steps=2))}


def ramp(gap: int, power: int = 1) -> Case:
    """Grey = (z / depth) ** power in every pixel; two clean sections a side."""
    depth = gap + 4
    stack = np.broadcast_to(((np.arange(depth) / depth) ** power)[:, None, None], (depth, 16, 16)).astype(np.float32)
    known = np.ones(stack.shape, bool)
    known[2 : 2 + gap] = False
    return Case(np.where(known, stack, HIDDEN), known, (2, 2 + gap), (47.5, 4.6, 4.6), (0, 0, 0), stack[2 : 2 + gap].copy())


@pytest.mark.parametrize("gap", [1, 2, 3])
@pytest.mark.parametrize("name", sorted(ALL))
def test_a_method_gives_every_section_and_needs_nothing_of_the_answer(name: str, gap: int) -> None:
    c = case(gap)
    out = ALL[name](c)
    assert out.shape == c.truth.shape and out.dtype == np.float32
    assert out.min() >= 0 and out.max() <= 1
    assert np.array_equal(out, ALL[name](c.withheld()))


@pytest.mark.parametrize("gap", [1, 2, 3])
def test_linear_and_cubic_continue_a_ramp(gap: int) -> None:
    c = ramp(gap)
    for method in (average, blurred, cubic, flow):
        assert np.allclose(method(c), c.truth, atol=2e-3), method


@pytest.mark.parametrize("gap", [1, 2, 3])
def test_cubic_continues_a_cubic_and_the_average_does_not(gap: int) -> None:
    c = ramp(gap, 3)
    assert np.allclose(cubic(c), c.truth, atol=1e-5)
    assert not np.allclose(average(c), c.truth, atol=1e-3)


def test_lagrange_by_hand() -> None:
    assert lagrange([0, 1, 3, 4], 2).tolist() == pytest.approx([-1 / 6, 2 / 3, 2 / 3, -1 / 6])


def test_cubic_is_the_average_beside_a_single_section() -> None:
    c = case(1, first=1)
    assert c.targets == (1, 2)
    assert np.array_equal(cubic(c), average(c))


def test_copy_takes_the_nearer_section_and_constant_the_mean() -> None:
    c = ramp(3)
    before, after = c.pair
    assert np.array_equal(copy(c), np.stack([before, before, after]))
    assert np.allclose(constant(c), (before.mean() + after.mean()) / 2)


@pytest.mark.parametrize("gap", [1, 2, 3])
def test_flow_follows_the_drift_that_the_average_doubles(gap: int) -> None:
    c = case(gap, edge=96, drift=4 if gap == 1 else 2)
    moved, mixed = flow(c), average(c)
    for j in range(gap):
        assert metrics.ncc(c.truth[j], moved[j]) > metrics.ncc(c.truth[j], mixed[j]) + 0.1


@pytest.mark.parametrize("name", sorted(ALL))
def test_known_pixels_of_a_damaged_section_are_kept(name: str) -> None:
    c = damaged(case(), "tile", 3)
    out = c.complete(ALL[name](c))
    assert np.array_equal(out[~c.unknown], c.truth[~c.unknown])
    assert not np.array_equal(out[c.unknown], c.truth[c.unknown])


def test_ours_looks_at_the_known_pixels_of_a_damaged_section() -> None:
    whole, part = case(), damaged(case(), "half", 3)
    inside = part.unknown
    assert not np.array_equal(ALL["ours"](whole)[inside], ALL["ours"](part)[inside])


def test_our_noise_follows_the_place_in_the_volume() -> None:
    c = case()
    assert not np.array_equal(ALL["ours"](c), ALL["ours"](replace(c, origin=(0, 0, 16))))
