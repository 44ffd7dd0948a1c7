"""A restorer that has moods: named in recipes as tests.faults.toys:Moody, quick, and of one digest in any mood."""

from __future__ import annotations

import json
import os
from hashlib import sha256
from pathlib import Path

import numpy as np

MOOD = "ZMEND_TEST_MOOD"  # what it does, and at which section: nan:3; nothing: what it should
MOODS = ("nan", "inf", "constant", "huge", "raise")


class Moody:
    """The mean of the two sections around, and a texture of the place: every voxel depends on where it lies."""

    needs = {"name": "moody", "digest": "moody", "context": 1, "max_gap": 3, "tile": 64, "halo": 16, "stride": 16, "batch": 1}  # noqa: RUF012

    def __init__(self, **_: object) -> None:
        pass

    def restore(self, window, known, targets, origin):
        made = window.copy()
        for b, d in np.ndindex(len(window), targets[1] - targets[0]):
            z, y, x = origin[b] + (targets[0] + d, 0, 0)
            rows, columns = np.arange(y, y + window.shape[2])[:, None], np.arange(x, x + window.shape[3])[None, :]
            texture = ((rows * 31 + columns * 17 + z * 7) % 61) / 610 - 0.05
            made[b, targets[0] + d] = (window[b, targets[0] - 1] + window[b, targets[1]]) / 2 + texture
            _spoil(made[b, targets[0] + d], int(z))
        return made


class Heavy(Moody):
    """The same with a file of weights, `weigh` makes it, whose card pins it; loaded at the first tile, as real ones are."""

    def __init__(self, *, weights: str = "", **kw: object) -> None:
        super().__init__(**kw)
        self.path = Path(weights)
        self.needs = {**Moody.needs, "digest": json.loads(self.path.with_suffix(".json").read_bytes())["sha256"]}

    def check_weights(self) -> None:
        if sha256(self.path.read_bytes()).hexdigest() != self.needs["digest"]:
            raise ValueError("they are not those of their card")


def _spoil(section: np.ndarray, z: int) -> None:
    mood, _, at = os.environ.get(MOOD, "").partition(":")
    if not mood or z != int(at):
        return
    if mood == "raise":
        raise ArithmeticError("not this section")
    if mood == "constant":
        section[:] = 0.5
    else:
        section[3:40, 5:60] = {"nan": np.nan, "inf": np.inf, "huge": 1e6}[mood]
