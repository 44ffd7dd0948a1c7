"""Restorers for tests, named in recipes as tests.toys:Name."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from hashlib import sha256
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


class Held(Textured):
    """Is at work, as the file `begun` in the folder `marks` says, until `on` lies there."""

    def __init__(self, *, marks: str, **options: object) -> None:
        super().__init__(**options)
        self.marks = Path(marks)

    def restore(self, window, known, targets, origin):
        (self.marks / "begun").touch()
        while not (self.marks / "on").exists():
            time.sleep(0.01)
        return super().restore(window, known, targets, origin)


class Ensemble(Textured):
    """Can say how sure it is: the spread follows the tissue, the place and the number of draws."""

    def restore_with_spread(self, window, known, targets, origin, draws):
        spread = np.zeros_like(window)
        for b in range(len(window)):
            unlike = ndimage.uniform_filter(np.abs(window[b, targets[0] - 1] - window[b, targets[1]]), 13, mode="constant")
            for d in range(*targets):
                samples = [self._noise(origin[b] + (d + 1000 * (k + 1), 0, 0), unlike.shape) for k in range(draws)]
                spread[b, d] = (0.05 + unlike) * np.std(samples, 0)
        return self.restore(window, known, targets, origin), spread


def weigh(path: Path) -> None:
    """Weights for `Weighed`, with their card beside them, as `zmend train` names its own."""
    path.write_bytes(bytes(range(256)) * 4)
    path.with_suffix(".json").write_text(json.dumps({"sha256": sha256(path.read_bytes()).hexdigest()}))


class Weighed(Ensemble):
    """Has a file of weights, which its card pins, and small tiles."""

    def __init__(self, *, weights: str = "", **kw) -> None:
        super().__init__(**kw)
        self.path = Path(weights)
        self.card = json.loads(self.path.with_suffix(".json").read_bytes())

    @property
    def needs(self):
        return {**super().needs, "digest": self.card["sha256"], "context": 1, "tile": 32, "halo": 16}

    def check_weights(self) -> None:
        if sha256(self.path.read_bytes()).hexdigest() != self.card["sha256"]:
            raise ValueError("they are not those of their card")


class Copier(Textured):
    """So simple that a test knows what comes out: the section before a gap, a few grey levels brighter."""

    digest, step, max_gap = "copier", 1, 2

    @property
    def needs(self):
        return {**super().needs, "name": "copier", "digest": self.digest, "context": 1, "max_gap": self.max_gap, "tile": 32, "halo": 0}

    def restore(self, window, known, targets, origin):
        out = window.copy()
        for d in range(*targets):
            out[:, d] = window[:, targets[0] - 1] + np.float32((self.step + self.seed) / 255)
        return out


class CopierRetrained(Copier):
    """The same with other weights."""

    digest, step = "copier, retrained", 9


class Shy(Ensemble):
    """Has the method, but not with these settings."""

    @property
    def needs(self):
        return {**super().needs, "spread": False}


class Adrift(Ensemble):
    """Its spread is no spread."""

    def __init__(self, *, value: float = 0.0, rows: int = 0, **kw) -> None:
        super().__init__(**kw)
        self.value, self.rows = value, rows

    def restore_with_spread(self, window, known, targets, origin, draws):
        made, spread = super().restore_with_spread(window, known, targets, origin, draws)
        spread[:, targets[0], 40, 50] = self.value
        return made, spread[..., self.rows :, :]


class Peeking(Textured):
    """Cheats: returns what the window holds, though it is said not to be known."""

    def restore(self, window, known, targets, origin):
        return window.copy() + np.float32(0.01) * self._noise(origin[0], window.shape[2:]).astype(np.float32)


class Picky(Textured):
    """Restores gaps that begin at some sections only, and fails at all others."""

    def __init__(self, *, only: str = "", exit: bool = False, **kw) -> None:
        super().__init__(**kw)
        self.only, self.exit = [int(z) for z in only.split(",")], exit

    def restore(self, window, known, targets, origin):
        if any(int(o[0]) + targets[0] not in self.only for o in origin):
            if self.exit:
                os.kill(os.getpid(), 9)
            raise ArithmeticError("not this section")
        return super().restore(window, known, targets, origin)


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


class Fickle(Textured):
    """Fails at one section as disks do, until the file of marks is there, and at another for good."""

    def __init__(self, *, outage: int = -1, poison: int = -1, marks: str = "", **kw) -> None:
        super().__init__(**kw)
        self.outage, self.poison, self.marks = outage, poison, Path(marks)

    def restore(self, window, known, targets, origin):
        at = {int(o[0]) + targets[0] for o in origin}
        if self.outage in at and not self.marks.exists():
            raise OSError("the disk is away")
        if self.poison in at:
            raise ArithmeticError("not this section")
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


# --- tasks for crews: what a worker makes of a slab's row


def _once(marks: str, name: str) -> bool:
    """Whether nobody has been here before."""
    try:
        os.close(os.open(f"{marks}/{name}", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


class Echo:
    """Says which slab it was given, and which process it is."""

    def __init__(self, marks: str = "", *, seconds: float = 0.0, victim: int = -1) -> None:
        self.marks, self.seconds, self.victim = marks, seconds, f"{victim:032x}"

    def __call__(self, row):
        time.sleep(self.seconds)
        if row[0] == self.victim:
            self.strike()
        return {"slab": row[0], "pid": os.getpid()}

    def strike(self) -> None: ...


class Tallied(Echo):
    """Leaves a mark each time that a slab is done."""

    def __call__(self, row):
        found = super().__call__(row)
        _once(self.marks, f"{row[0]}.{time.monotonic_ns()}")
        return found


class Slowed(Echo):
    """One slab takes for ever, the first time."""

    def strike(self) -> None:
        time.sleep(120 if _once(self.marks, "slow") else 0)


class Heals(Echo):
    """One slab fails twice as disks do."""

    def strike(self) -> None:
        if _once(self.marks, "one") or _once(self.marks, "two"):
            raise OSError("a passing fault")


class Poisoned(Echo):
    """One slab fails wherever it is tried; who tried is marked."""

    def strike(self) -> None:
        _once(self.marks, str(os.getpid()))
        raise ValueError(f"bad tile at {id(self):#x}")


class Murderous(Echo):
    """One slab kills each worker that tries it."""

    def strike(self) -> None:
        _once(self.marks, str(time.monotonic_ns()))
        os.kill(os.getpid(), 9)


class Stranger(Echo):
    """The first process that gets a slab cannot do any."""

    def __call__(self, row):
        from pipeline.errors import UnfitWorkerError

        mine = Path(self.marks, f"{os.getpid()}.{threading.get_ident()}")
        mine.write_text(str(os.getpid()))
        with suppress(FileExistsError):
            os.link(mine, Path(self.marks, "pid"))  # whole or not there: workers have several threads
        if (Path(self.marks) / "pid").read_text() == str(os.getpid()):
            raise UnfitWorkerError("no GPU here")
        return super().__call__(row)


class Unpicklable(Echo):
    """Fails with an error that cannot travel."""

    def strike(self) -> None:
        class Odd(Exception):
            def __init__(self, one, two):
                self.handle = open(os.devnull)  # noqa: SIM115
                super().__init__(f"{one} and {two}")

        raise Odd("this", "that")
