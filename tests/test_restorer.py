"""The restorers that ship without torch, and the contract that every restorer keeps."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.errors import RestorerError
from pipeline.recipe import Recipe
from pipeline.restorer import Linear, Nearest, Needs, load

NM = (45.0, 4.6, 4.6)
ORIGIN = np.zeros((1, 3), np.int64)


def stack(values: list[float]) -> np.ndarray:
    return np.array(values, np.float32).reshape(1, -1, 1, 1) * np.ones((1, 1, 4, 4), np.float32)


def known(depth: int, targets: tuple[int, int]) -> np.ndarray:
    mask = np.ones((1, depth, 4, 4), bool)
    mask[:, targets[0] : targets[1]] = False
    return mask


@pytest.mark.parametrize(
    ("kind", "expected"), [(Nearest, [0.1, 0.1, 0.1, 0.5, 0.5]), (Linear, [0.1, 0.2, 0.3, 0.4, 0.5])]
)
def test_three_sections_by_hand(kind, expected) -> None:
    made = kind().restore(stack([0.1, 9, 9, 9, 0.5]), known(5, (1, 4)), (1, 4), ORIGIN)
    np.testing.assert_allclose(made[0, :, 0, 0], expected, atol=1e-6)


def test_nearest_works_at_either_end_of_a_volume() -> None:
    assert Nearest().restore(stack([9, 0.5]), known(2, (0, 1)), (0, 1), ORIGIN)[0, 0, 0, 0] == 0.5
    assert Nearest().restore(stack([0.5, 9]), known(2, (1, 2)), (1, 2), ORIGIN)[0, 1, 0, 0] == 0.5


def recipe(**kw: object) -> Recipe:
    return Recipe.model_validate(kw)


@pytest.mark.parametrize("name", ["nearest", "linear", "diffusion"])
def test_every_restorer_honours_the_contract(name: str) -> None:
    restorer, needs = load(recipe(restorer=name, steps=1), NM, threads=1)
    edge = needs.stride * 4 if name == "diffusion" else 48
    rng = np.random.default_rng(5)
    window = rng.random((2, 4, edge, edge), np.float32)
    mask = np.ones(window.shape, bool)
    mask[:, 1:3] = False
    mask[:, 1, : edge // 2] = True  # partly damaged
    origin = np.array([[3, -32, 96], [7, 0, 0]], np.int64)
    made = restorer.restore(window, mask, (1, 3), origin)
    assert made.dtype == np.float32
    assert made.shape == window.shape
    assert np.isfinite(made).all()
    np.testing.assert_array_equal(made[:, [0, 3]], window[:, [0, 3]])
    poisoned = np.where(mask, window, np.float32(np.nan))
    np.testing.assert_array_equal(made, restorer.restore(poisoned, mask, (1, 3), origin), "unknown voxels mean nothing")
    alone = restorer.restore(window[1:], mask[1:], (1, 3), origin[1:])
    np.testing.assert_array_equal(made[1:], alone, "bits do not depend on the batch")


def test_own_restorers_are_named_by_a_string() -> None:
    restorer, needs = load(recipe(restorer="pipeline.restorer:Nearest"), NM)
    assert isinstance(restorer, Nearest)
    assert needs.name == "nearest"


@pytest.mark.parametrize(
    ("settings", "words", "do"),
    [
        ({"restorer": "lineer"}, "there is no restorer 'lineer'", "diffusion, linear, nearest"),
        ({"restorer": "pipeline.restorer:Nothing"}, "there is no restorer", "module:Class"),
        ({"restorer": "diffusion", "weights": "/nowhere/w.safetensors"}, "refuses the recipe", "zmend doctor"),
        ({"restorer": "diffusion", "options": {"temprature": 1}}, "refuses the recipe", "mend the recipe"),
        ({"restorer": "linear", "options": {"sharpness": 1}}, "refuses the recipe", "mend the recipe"),
    ],
)
def test_refusals(settings, words, do) -> None:
    with pytest.raises(RestorerError, match=words) as e:
        load(recipe(**settings), NM)
    assert do in e.value.do


@pytest.mark.parametrize("name", ["nearest", "linear"])
def test_a_baseline_refuses_options_that_it_has_not(name: str) -> None:
    with pytest.raises(RestorerError) as e:
        load(recipe(restorer=name, options={"sharpness": 1, "stepz": 2}), NM)
    assert e.value.why == f"{name} has no options, and was given sharpness, stepz"
    with pytest.raises(RestorerError) as e:
        load(recipe(restorer=name, options={"stepz": 2}), NM)
    assert e.value.why == f"{name} has no options, and was given stepz; did you mean recipe.steps?"


def test_time_counts_every_draw_at_its_own_cost() -> None:
    needs = Needs("x", "0", 1, 1, 64, 16, mpx_s=2.0, draw_cost=1.5)
    assert needs.seconds(10_000_000) == 5
    assert needs.seconds(10_000_000, draws=4) == 5 * (1 + 4 * 1.5)
    assert Needs("x", "0", 1, 1, 64, 16).seconds(10_000_000, draws=4) == 0, "no pace is declared"


def test_diffusion_declares_what_its_settings_cost() -> None:
    def needs(**kw: object) -> Needs:
        return load(recipe(**kw), NM)[1]

    usual, mean, eight = needs(), needs(steps=1), needs(steps=8)
    # The first evaluation, in float32, takes as long as four others; a draw is six, all in bfloat16.
    costs = [round(6 / one.draw_cost, 2) for one in (usual, mean, eight)]
    assert costs == [4 + 3, 4, 4 + 7]
    assert [one.mpx_s * cost for one, cost in zip((usual, mean, eight), costs, strict=True)] == pytest.approx([usual.mpx_s * 7] * 3, rel=1e-3)


def test_diffusion_refuses_voxel_sizes_that_it_was_not_trained_for() -> None:
    with pytest.raises(RestorerError) as e:
        load(recipe(), (45.0, 400.0, 400.0))
    assert "400" in str(e.value)
    with pytest.raises(RestorerError, match="voxel size"):
        load(recipe(), None)


class Choosy:
    """As a restorer of somebody's own may be."""

    restore = Linear.restore

    def __init__(self, **_: object) -> None:
        self.needs = {"name": "choosy", "digest": "0", "context": 1, "max_gap": 1, "tile": 64, "halo": 16, "stride": 16,
                      "voxel_nm_min": [35, 4, 4], "voxel_nm_max": [60, 9, 9]}  # fmt: skip


@pytest.mark.parametrize(
    ("size", "why", "do"),
    [
        ((400.0, 8.0, 8.0), "z is 400 nm, they know 35 to 60", "train on your own tissue: zmend train --help"),
        ((45.0, 3.0, 12.0), "y is 3 nm, they know 4 to 9; x is 12 nm, they know 4 to 9", "choose another volume.level, or train on your own tissue: zmend train --help"),
    ],
)
def test_of_a_voxel_size_the_axis_that_does_not_fit_is_named(size: tuple[float, float, float], why: str, do: str) -> None:
    with pytest.raises(RestorerError, match="is outside what the weights were trained for") as e:
        load(recipe(restorer="tests.test_restorer:Choosy"), size)
    assert (e.value.why, e.value.do) == (why, do)
    assert load(recipe(restorer="tests.test_restorer:Choosy"), (35.0, 9.0, 4.0))[1].name == "choosy"


def test_impossible_needs_are_refused() -> None:
    good = {"name": "x", "digest": "0", "context": 1, "max_gap": 1, "tile": 64, "halo": 16, "stride": 16}
    assert Needs.parse({**good, "more": 1}, "x").tile == 64
    with pytest.raises(RestorerError, match="does not declare"):
        Needs.parse({"name": "x"}, "x")
    with pytest.raises(RestorerError, match="impossible"):
        Needs.parse({**good, "tile": 0}, "x")
    with pytest.raises(RestorerError, match="not multiples of its stride"):
        Needs.parse({**good, "halo": 15}, "x")
