"""A share of `make faults`: every quick kind, with seeds of its own. The long one: python -m tests.faults."""

from __future__ import annotations

import random

import pytest

from tests.faults.__main__ import play, worlds
from tests.faults.harness import World
from tests.faults.kinds import KINDS

SEED, EACH, MOST = 20, 2, 8


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> list[World]:
    return worlds(tmp_path_factory.mktemp("worlds"))


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_whatever_happens_the_store_is_the_undisturbed_one(kind: str, made: list[World]) -> None:
    outcomes = []
    for seed in range(SEED, SEED + MOST):
        outcomes.append(play(seed, made, [kind]))
        if len(outcomes) >= EACH and any(o.struck for o in outcomes):
            break  # else all came too late, which depends on the machine
    assert [(o.seed, o.what, o.wrong, o.again) for o in outcomes if o.wrong or o.again] == []
    assert any(o.struck for o in outcomes)


def test_one_number_is_one_fault() -> None:
    first, second = (random.Random(7).choices(list(KINDS), [w for w, _ in KINDS.values()]) for _ in range(2))
    assert first == second
