"""Noise is a function of global coordinates, and it is Philox's, and it is normal."""

from __future__ import annotations

import numpy as np
import pytest

from model.noise import normal, philox


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [  # known answers of the Random123 distribution, kat_vectors, philox4x32 10
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_known_answers(
    counter: tuple[int, ...], key: tuple[int, int], words: tuple[int, ...]
) -> None:
    c = [np.array([v], np.uint32) for v in counter]
    assert tuple(int(w[0]) for w in philox((c[0], c[1], c[2], c[3]), key)) == words


@pytest.mark.parametrize("origin", [(0, 0, 0), (5, -7, -9), (3, 1_000_000_001, 2_000_000_003)])
def test_overlapping_boxes_agree_bit_for_bit(origin: tuple[int, int, int]) -> None:
    big = normal(origin, (3, 20, 33), seed=7)
    for z, y, x in [(0, 0, 0), (1, 3, 1), (2, 4, 2), (0, 5, 3), (1, 1, 6)]:
        small = normal((origin[0] + z, origin[1] + y, origin[2] + x), (1, 11, 13), seed=7)
        assert np.array_equal(small, big[z : z + 1, y : y + 11, x : x + 13])


def test_noise_is_standard_normal_and_uncorrelated() -> None:
    x = normal((0, 0, 0), (4, 256, 256), seed=1).astype(float)
    assert abs(x.mean()) < 0.01 and abs(x.std() - 1) < 0.01
    assert abs((x**4).mean() - 3) < 0.1
    for shifted in (x[1:] * x[:-1], x[:, 1:] * x[:, :-1], x[..., 1:] * x[..., :-1], x[..., 4:] * x[..., :-4]):
        assert abs(shifted.mean()) < 0.01


def test_seed_stream_and_draw_each_give_other_noise() -> None:
    base = {"seed": 1, "stream": 0, "draw": 0}
    first = normal((0, 0, 0), (1, 64, 64), **base)
    for change in ({"seed": 2}, {"stream": 1}, {"draw": 1}):
        other = normal((0, 0, 0), (1, 64, 64), **{**base, **change})
        assert abs(float((first * other).mean())) < 0.06


def test_a_seed_beyond_32_bits_is_refused() -> None:
    with pytest.raises(ValueError, match="choose a smaller seed"):
        normal((0, 0, 0), (1, 4, 4), seed=2**32)
