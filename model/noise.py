"""Standard normal noise as a pure function of global coordinates.

Philox 4x32-10 (Salmon et al., SC 2011): key = (seed, stream), counter = (x // 4, y, z, draw); the four words it returns
serve the four voxels of one x group. Two boxes that overlap therefore agree bit for bit where they do, whatever was
asked for first, on whichever machine: tiles, workers and reruns need no shared state.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_LOW = np.uint64(0xFFFFFFFF)
_WORD = 2.0**-32
_GROUP = 4  # voxels along x that share one counter

Words = npt.NDArray[np.uint32]


def philox(counter: tuple[Words, Words, Words, Words], key: tuple[int, int]) -> tuple[Words, Words, Words, Words]:
    """Four random words for every counter (arrays broadcast together)."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        high0, low0 = _multiply(_MULTIPLIERS[0], c0)
        high1, low1 = _multiply(_MULTIPLIERS[1], c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ np.uint32(k0), low1, high0 ^ c3 ^ np.uint32(k1), low0
        k0, k1 = (k0 + _WEYL[0]) & 0xFFFFFFFF, (k1 + _WEYL[1]) & 0xFFFFFFFF
    return c0, c1, c2, c3


def _multiply(factor: np.uint64, word: Words) -> tuple[Words, Words]:
    product = word.astype(np.uint64) * factor
    return (product >> np.uint64(32)).astype(np.uint32), (product & _LOW).astype(np.uint32)


def normal(
    origin: Sequence[int], shape: tuple[int, int, int], *, seed: int, stream: int = 0, draw: int = 0
) -> npt.NDArray[np.float32]:
    """Noise of the box (z, y, x) at `origin` (may be negative: padding goes beyond the volume), float32, N(0, 1)."""
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed {seed} is outside 0 .. 4294967295: Philox takes a 32-bit word; choose a smaller seed")
    z0, y0, x0 = (int(o) for o in origin)
    first, last = x0 // _GROUP, -((-(x0 + shape[2])) // _GROUP)  # groups that touch the box
    x, y, z = _words(first, last - first), _words(y0, shape[1]), _words(z0, shape[0])
    groups = np.broadcast_arrays(x[None, None, :], y[None, :, None], z[:, None, None], np.uint32(draw))
    words = philox((groups[0], groups[1], groups[2], groups[3]), (seed, stream))
    values = np.stack([*_box_muller(words[0], words[1]), *_box_muller(words[2], words[3])], -1)  # (Z, Y, groups, 4)
    rows = values.reshape(shape[0], shape[1], -1)
    skip = x0 - first * _GROUP
    return np.ascontiguousarray(rows[:, :, skip : skip + shape[2]])


def _words(start: int, count: int) -> Words:
    """Coordinates as 32-bit words; negative ones wrap to the top of the range, which no volume reaches."""
    return np.arange(start, start + count, dtype=np.int64).astype(np.uint32)


def _box_muller(a: Words, b: Words) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Two normals from two words, in float64 so that libm's last bit cannot show in the float32."""
    radius = np.sqrt(-2.0 * np.log((a + 0.5) * _WORD))
    angle = (2.0 * np.pi * _WORD) * (b + 0.5)
    return (radius * np.cos(angle)).astype(np.float32), (radius * np.sin(angle)).astype(np.float32)
