"""Seating, checking and casting."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline import blend

rng = np.random.default_rng(3)


def test_a_brightness_step_at_the_rim_is_taken_out_and_fades_inside() -> None:
    source = np.full((96, 96), 0.6, np.float32)
    prediction = np.full((96, 96), 0.4, np.float32)  # the restorer guessed too dark
    unknown = np.zeros((96, 96), bool)
    unknown[32:64, 32:64] = True
    seated, band = blend.seat(prediction, source, unknown, 8)
    assert abs(seated[32, 48] - 0.6) < 0.05, "no step at the rim"
    assert seated[48, 48] == np.float32(0.4), "untouched deep inside"
    assert band.sum() == 32 * 32 - 16 * 16
    assert not band[~unknown].any()


def test_without_known_pixels_or_feather_nothing_is_shifted() -> None:
    image, everything = rng.random((40, 40), np.float32), np.ones((40, 40), bool)
    assert blend.seat(image, image * 0, everything, 8)[0] is image
    half = everything.copy()
    half[:, :20] = False
    assert blend.seat(image, image * 0, half, 0)[0] is image


def test_what_damaged_pixels_hold_does_not_matter() -> None:
    source, prediction = rng.random((2, 64, 64), np.float32)
    unknown = np.zeros((64, 64), bool)
    unknown[20:40, 10:50] = True
    poisoned = np.where(unknown, np.float32(np.nan), source)
    a, _ = blend.seat(prediction, source, unknown, 8)
    b, _ = blend.seat(prediction, poisoned, unknown, 8)
    np.testing.assert_array_equal(a, b)


def test_seating_looks_no_further_than_its_reach() -> None:
    source, prediction = rng.random((2, 160, 160), np.float32)
    unknown = rng.random((160, 160)) < 0.5
    whole, _ = blend.seat(prediction, source, unknown, 16)
    cut = (slice(80 - 16 - blend.REACH, 80 + 16 + blend.REACH),) * 2
    part, _ = blend.seat(prediction[cut], source[cut], unknown[cut], 16)
    middle = slice(blend.REACH, blend.REACH + 32)
    np.testing.assert_array_equal(part[middle, middle], whole[64:96, 64:96])


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda p: p.__setitem__((3, 3), np.nan), "1 of 1024 voxels are NaN"),
        (lambda p: p.__setitem__((3, 3), np.inf), "infinite"),
        (lambda p: p.__setitem__((3, 3), 7.0), "black is 0 and white is 1"),
        (lambda p: p.fill(0.5), "one constant value, 0.500"),
    ],
)
def test_output_that_no_tissue_could_give_is_refused(spoil, words) -> None:
    prediction, before, after = rng.random((3, 32, 32), np.float32)
    unknown = np.ones((32, 32), bool)
    assert not blend.fault(prediction, unknown, [before, after])
    spoil(prediction)
    assert words in blend.fault(prediction, unknown, [before, after])


def test_black_next_to_a_black_section_is_not_suspicious() -> None:
    black, tissue = np.zeros((32, 32), np.float32), rng.random((32, 32), np.float32)
    assert not blend.fault(black, np.ones((32, 32), bool), [tissue, black])


def test_black_padding_beside_tissue_is_not_suspicious() -> None:
    """Only where the prediction is used must the neighbours differ from a constant."""
    section = rng.random((64, 64), np.float32)
    section[:, :32] = 0
    unknown = np.zeros((64, 64), bool)
    unknown[10:50, 5:30] = True
    assert not blend.fault(section, unknown, [section, section])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_casting_clamps_and_comes_back(dtype) -> None:
    top = np.iinfo(dtype).max
    values = np.arange(0, top + 1, max(1, top // 4096)).astype(dtype)
    assert (blend.to_dtype(blend.to_unit(values, 0, top), 0, top, np.dtype(dtype)) == values).all()
    wild = blend.to_dtype(np.array([-0.4, 1.3], np.float32), 0, top, np.dtype(dtype))
    assert wild.tolist() == [0, top], "float → integer must not wrap around"
