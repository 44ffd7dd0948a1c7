"""Detection: each kind of damage in synthetic tissue is found and named, where it is; intact sections are left alone."""

from __future__ import annotations

import math
from statistics import median
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.defects import DEFECTS
from pipeline import detectors as see
from pipeline.detect import FLOOR, LEAST_AROUND, _steps, detect, margin
from pipeline.errors import UsageError
from pipeline.thresholds import SCALED, Thresholds
from pipeline.view import Finding, View

N, EDGE, Z = 13, 192, 6


def tissue(n: int = N, edge: int = EDGE, seed: int = 0) -> NDArray[np.uint8]:
    """Profiles that wander a little from one section to the next, membranes around them, grain of its own in each."""
    rng = np.random.default_rng(seed)
    a, b = (cv2.GaussianBlur(rng.standard_normal((edge, edge)).astype(np.float32), (0, 0), 9) for _ in "ab")
    sections = []
    for z in range(n):
        turn = 0.12 * z
        field = np.cos(turn) * a + np.sin(turn) * b
        field /= field.std()
        grey = 150 - 90 * np.exp(-((field / 0.12) ** 2)) + 12 * np.sign(field)
        sections.append(np.clip(grey + rng.normal(0, 9, (edge, edge)), 0, 255))
    return np.round(sections).astype(np.uint8)


@pytest.fixture(scope="module")
def stack() -> NDArray[np.uint8]:
    return tissue()


def found(stack: NDArray[np.uint8], absent: int | None = None, t: Thresholds | None = None) -> list[Finding]:
    return detect(stack, [z == absent for z in range(len(stack))], t or Thresholds())[0]


def test_nothing_is_found_in_intact_tissue(stack: NDArray[np.uint8]) -> None:
    assert found(stack) == []


@pytest.mark.parametrize(
    "defect",
    ["missing", "blank", "duplicate", "missing tile", "brightness", "contrast", "blur", "noise", "charging", "fold", "crack"],
)
def test_damage_is_found_in_its_section_and_named(defect: str, stack: NDArray[np.uint8]) -> None:
    damaged = stack.copy()
    damaged[Z], mask = DEFECTS[defect][0](stack[Z], stack[Z - 1], 2, np.random.default_rng(4))
    flags = found(damaged, Z if defect == "missing" else None)
    assert {f.z for f in flags} == {Z}, flags
    assert DEFECTS[defect][1] in {f.kind for f in flags}
    named = next(f for f in flags if f.kind == DEFECTS[defect][1])
    assert named.score >= 1 and named.reason
    if mask is not None:
        assert named.mask is not None
        overlap = (mask & named.mask).sum() / (mask | named.mask).sum()
        assert overlap > (0.9 if defect == "missing tile" else 0.6)


def test_a_section_that_lies_elsewhere_is_misaligned_and_a_stack_that_goes_on_there_jumps() -> None:
    full = tissue(edge=256)
    here, aside = full[:, 32:224, 32:224].copy(), full[:, 32:224, 12:204]
    one = here.copy()
    one[Z] = aside[Z]
    flags, jumps = detect(one, [False] * N, Thresholds())
    assert [(f.z, f.kind) for f in flags] == [(Z, "misaligned")]
    assert not jumps
    here[Z:] = aside[Z:]
    flags, jumps = detect(here, [False] * N, Thresholds())
    assert not flags  # no section is bad: nothing must be restored
    assert [j.z for j in jumps] == [Z]


@pytest.mark.parametrize("grey", [0, 128, 255])
def test_a_section_with_a_lost_tile_lies_where_its_neighbours_do(grey: int) -> None:
    stack = tissue(13)
    for y, x in ((10, 20), (60, 90), (120, 100)):
        damaged = stack.copy()
        damaged[Z, y : y + 60, x : x + 70] = grey
        assert [(f.z, f.kind) for f in found(damaged)] == [(Z, "missing")]
    image, cells = damaged[Z], see.cells(damaged[Z])
    bare = see.empty(image, cells, 2)
    assert bare is not None and (see.filled(cells[0], bare, 140.0)[31:44, 26:41] == 140).all()


def test_a_lasting_change_of_the_stack_is_no_damage(stack: NDArray[np.uint8]) -> None:
    brighter = stack.copy()
    brighter[Z:] = np.clip(brighter[Z:].astype(int) + 40, 0, 255)
    assert found(brighter) == []


def test_background_is_no_damage(stack: NDArray[np.uint8]) -> None:
    padded = stack.copy()
    padded[:, :, :60] = 0
    assert found(padded) == []
    assert found(np.zeros_like(stack)) == []


def test_what_is_found_depends_on_sections_within_the_margin_alone() -> None:
    t = Thresholds()
    long = tissue(4 * margin(t) // 2 + 9, 96)
    for z, defect in ((9, "blank"), (15, "blur"), (20, "noise"), (26, "missing tile")):
        long[z], _ = DEFECTS[defect][0](long[z], long[z - 1], 1, np.random.default_rng(z))
    whole = [(f.z, f.kind, f.score) for f in found(long, t=t)]
    cut = 14
    first = long[: cut + margin(t)]
    second = long[cut - margin(t) if cut > margin(t) else 0 :]
    start = len(long) - len(second)
    parts = [(f.z, f.kind, f.score) for f in found(first, t=t) if f.z < cut]
    parts += [(f.z + start, f.kind, f.score) for f in found(second, t=t) if f.z + start >= cut]
    assert parts == whole
    assert len(whole) >= 4


def test_sensitivity_scales_thresholds_and_what_is_no_sensitivity_is_refused() -> None:
    high, low = Thresholds.at("high"), Thresholds.at("low")
    assert all(getattr(high, name) < getattr(Thresholds(), name) < getattr(low, name) for name in SCALED)
    assert Thresholds.at("1") == Thresholds.at("medium") == Thresholds()
    for wrong in ("loud", "0", "-1", "nan"):
        with pytest.raises(UsageError, match="is not understood"):
            Thresholds.at(wrong)


def test_length_and_width_of_a_band_and_of_a_disc() -> None:
    band, disc = np.zeros((100, 100), np.uint8), np.zeros((100, 100), np.uint8)
    cv2.line(band, (5, 50), (94, 50), 1, 7)
    cv2.circle(disc, (50, 50), 20, 1, -1)
    length, width = see.length_and_width(band.astype(bool))
    assert 70 < length < 110 and 6 < width < 11
    length, width = see.length_and_width(disc.astype(bool))
    assert length / width < 2.5


def test_offset_tells_where_an_image_lies() -> None:
    full = tissue(2, 256)
    here, other = (see.coarse(see.cells(crop)[0]) for crop in (full[0][32:224, 32:224], full[0][40:232, 20:212]))
    move, before, after = see.offset(here, other)
    assert move == (8, -12)
    assert after > before + 0.2
    back = see.moved(full[0][40:232, 20:212], move)
    assert np.array_equal(back[8:, :-12], full[0][32:224, 32:224][8:, :-12])


def test_shrink_is_the_mean_of_squares() -> None:
    image = np.arange(24, dtype=np.float32).reshape(4, 6)
    assert np.allclose(see.shrink(image, 2), image.reshape(2, 2, 3, 2).mean((1, 3)))
    assert see.shrink(image[:3, :5], 2).shape == (2, 3)
    grey = see.shrink(image.astype(np.uint8), 2)
    assert grey.dtype == np.uint8 and np.abs(grey - see.shrink(image, 2)).max() <= 0.5


def test_what_is_empty_is_found_by_cells_as_by_pixels() -> None:
    rng, box = np.random.default_rng(3), np.ones((7, 7), np.uint8)
    for trial in range(60):
        image = rng.integers(90, 160, (64, 80)).astype(np.uint8)
        y, x, h, w = rng.integers(0, 50), rng.integers(0, 60), *rng.integers(5, 20, 2)
        image[y : y + h, x : x + w] = 128 + rng.integers(0, 3, image[y : y + h, x : x + w].shape)
        span = cv2.dilate(image, box) - cv2.erode(image, box)
        plain = cv2.dilate((span <= 2).astype(np.uint8), box).astype(bool)
        found = see.empty(image, see.cells(image), 2)
        assert np.array_equal(plain, np.zeros_like(plain) if found is None else found), trial
    assert see.empty(tissue(1)[0], see.cells(tissue(1)[0]), 2) is None


def test_bands_of_rows_tell_what_all_rows_do(monkeypatch: pytest.MonkeyPatch) -> None:
    image = tissue(1, 512)[0]
    blurred, _ = DEFECTS["blur"][0](image, image, 0, np.random.default_rng(0))
    for one in (image, blurred):
        mean = see.cells(one)[0]
        few, fine = see.looks(one, mean, None, 2.0)
        with monkeypatch.context() as patch:
            patch.setattr(see, "ENOUGH", 10**9)
            see._bands.cache_clear()
            every, all_fine = see.looks(one, mean, None, 2.0)
        see._bands.cache_clear()
        assert fine.size < all_fine.size / 3
        assert (few.grey, few.low, few.high) == (every.grey, every.low, every.high)
        assert few.fine == pytest.approx(every.fine, rel=0.04) and few.finest == pytest.approx(every.finest, rel=0.04)
        assert few.streak == pytest.approx(every.streak, rel=0.25)
    smooth = cv2.GaussianBlur(image.astype(np.float32), (0, 0), 2.0)
    assert (few.low, few.grey, few.high) == pytest.approx(np.percentile(smooth, (16, 50, 84)), abs=4)
    plain = np.abs(image - cv2.GaussianBlur(image.astype(np.float32), (5, 5), 0)).reshape(32, 16, 32, 16).mean((1, 3))
    few, _ = see.looks(image, see.cells(image)[0], None, 2.0)
    assert (few.fine, few.finest) == pytest.approx(np.percentile(plain, (15, 70)), rel=0.04)


def _number(name: str, look: see.Looks) -> float:
    if name == "ratio":
        return math.log(look.fine * look.finest) / 2 - math.log(look.contrast)
    return float(getattr(look, name)) if name in ("low", "high") else math.log(getattr(look, name))


def test_how_far_a_section_is_from_those_around_is_what_its_definition_says() -> None:
    rng, t, depth = np.random.default_rng(1), Thresholds(), 19
    looks = [see.Looks(*rng.uniform(5, 50, 7).tolist(), 0.0) for _ in range(depth)]
    fit = [bool(v) for v in rng.random(depth) < 0.75]
    view = View([SimpleNamespace(look=look) for look in looks], t)  # type: ignore[misc]
    few, steps = _steps(view, fit)
    for z in range(depth):
        sides = view.around(z, fit)
        assert few[z] == (min(map(len, sides)) < LEAST_AROUND)
        for name, floor in FLOOR.items():
            value = [_number(name, look) for look in looks]
            near = [looks[k].contrast for side in sides for k in side]
            unit = median(near) if near and name in ("low", "high") else 1.0
            apart = [(value[z] - median([value[k] for k in side])) / unit for side in sides if len(side) >= LEAST_AROUND]
            step = min(apart, key=abs) if apart and min(apart) * max(apart) > 0 else 0.0
            spread = [abs(value[k] - median([value[i] for i in side])) / unit for side in sides for k in side]
            sigma = max(see.TO_SIGMA * median(spread), floor) if spread else floor
            assert (float(steps[name][0][z]), float(steps[name][1][z])) == pytest.approx((step, step / sigma))
