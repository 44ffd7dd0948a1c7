"""Restorers for tests, named in recipes as tests.toys:Name."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from scipy import ndimage


class Textured:
    """Depends on everything that a real restorer may depend on: context, known pixels, global coordinates, halo."""

    halo = 32
    digest = "toy"
    max_gap = 3

    def __init__(self, *, seed: int = 0, sleep: float = 0.0, spoil: str = "", **_: object) -> None:
        self.seed, self.sleep, self.spoil = seed, sleep, spoil

    @property
    def needs(self) -> Mapping[str, object]:
        return {"name": "textured", "digest": self.digest, "context": 2, "max_gap": self.max_gap, "tile": 64, "halo": self.halo,
                "stride": 16, "batch": 1}  # fmt: skip

    def restore(self, window, known, targets, origin):
        time.sleep(self.sleep)
        out = window.copy()
        for b in range(len(window)):
            clean = np.where(known[b], window[b], 0).astype(np.float64)
            weight = ndimage.uniform_filter(known[b].astype(float), (0, 13, 13), mode="constant")
            local = ndimage.uniform_filter(clean, (0, 13, 13), mode="constant") / np.maximum(weight, 1e-6)
            for d in range(*targets):
                guess = 0.45 * clean[targets[0] - 1] + 0.35 * clean[targets[1]] + 0.1 * clean[0] + 0.1 * local[d]
                out[b, d] = guess + 0.02 * self._noise(origin[b] + (d, 0, 0), guess.shape)
        if self.spoil == "nan":
            out[:, targets[0], 5:, 5:] = np.nan
        return out

    def _noise(self, origin, shape):
        y = origin[1] + np.arange(shape[0])[:, None]
        x = origin[2] + np.arange(shape[1])[None, :]
        mixed = (origin[0] * 374761393 + y * 668265263 + x * 2147483647 + self.seed * 97) % 1000003
        return (mixed * mixed % 1009) / 1009.0 - 0.5


class Retrained(Textured):
    """The same with other weights."""

    digest = "toy, retrained"


class Flaky(Textured):
    """Fails the first two times that it is called with a folder of marks: a passing fault."""

    def __init__(self, *, marks: str = "", **kw) -> None:
        super().__init__(**kw)
        self.marks = Path(marks)

    def restore(self, window, known, targets, origin):
        if len(list(self.marks.iterdir())) < 2:
            (self.marks / f"{time.monotonic_ns()}").touch()
            raise OSError("a passing fault")
        return super().restore(window, known, targets, origin)


class Deadly(Textured):
    """Kills its own process the first time it is called in each folder of marks."""

    def __init__(self, *, marks: str = "", **kw) -> None:
        super().__init__(**kw)
        self.marks = Path(marks)

    def restore(self, window, known, targets, origin):
        if len(list(self.marks.iterdir())) < 2:
            (self.marks / str(os.getpid())).touch()
            os.kill(os.getpid(), 9)
        return super().restore(window, known, targets, origin)


class Broken(Textured):
    """Never works."""

    def restore(self, window, known, targets, origin):
        raise ArithmeticError("no such luck")
