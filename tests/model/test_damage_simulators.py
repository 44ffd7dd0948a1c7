"""Every simulator: seeded, damage inside the mask alone, a mask that is neither empty nor everything."""

from __future__ import annotations

import numpy as np
import pytest

from model.damage import SIMULATORS
from tests.model.phantoms import volume

SECTION = volume(edge=128).raw[0]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", sorted(SIMULATORS))
def test_damage_stays_inside_its_mask(name: str, seed: int) -> None:
    image, mask = SIMULATORS[name](SECTION, np.random.default_rng(seed))
    assert image.dtype == np.float32 and mask.dtype == bool and image.shape == mask.shape == SECTION.shape
    assert np.array_equal(image[~mask], SECTION[~mask])
    assert np.mean(image[mask] != SECTION[mask]) > 0.2
    assert 0.005 < mask.mean() < 0.7
    assert image.min() >= 0 and image.max() <= 1


@pytest.mark.parametrize("name", sorted(SIMULATORS))
def test_the_seed_decides(name: str) -> None:
    first, again, other = (SIMULATORS[name](SECTION, np.random.default_rng(s)) for s in (1, 1, 2))
    assert np.array_equal(first[0], again[0]) and np.array_equal(first[1], again[1])
    assert not np.array_equal(first[1], other[1])


def test_each_looks_like_its_name() -> None:
    made = {n: f(SECTION, np.random.default_rng(0)) for n, f in SIMULATORS.items()}
    assert made["fold"][0].min() < SECTION.min() and made["crack"][0].max() > SECTION.max() + 0.1
    image, mask = made["contamination"]
    assert (image[mask] < 0.46).all()
    image, mask = made["tile"]
    assert not image[mask].any() and mask.sum() == np.prod([np.ptp(np.nonzero(mask)[a]) + 1 for a in (0, 1)])
    mask = made["half"][1]
    assert 0.35 < mask.mean() < 0.65 and (mask.all(0) | ~mask.any(0)).all() | (mask.all(1) | ~mask.any(1)).all()
    image, mask = made["contrast"]
    assert np.corrcoef(image[mask], SECTION[mask])[0, 1] > 0.99  # the tissue is still there
