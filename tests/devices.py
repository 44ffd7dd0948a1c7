"""Restorers whose devices and memory fail, named in recipes as tests.devices:Name. They fail in workers alone."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path

import numpy as np

from pipeline import slab
from tests.toys import Textured


def in_worker() -> bool:
    """Whether this process was started by another one of Python's: a nanny."""
    return multiprocessing.parent_process() is not None


class Drifting(Textured):
    """Computes on some device; in a worker on another one, perhaps, which is off by some grey levels."""

    def __init__(self, *, device: str = "auto", kind: str = "cpu", off: float = 0.0, nan: bool = False, **kw) -> None:
        super().__init__(**kw)
        self.asked, self.kind, self.off, self.nan = device, kind, off, nan

    def device(self) -> str:
        return self.kind if in_worker() and self.asked != "cpu" else "cpu"

    def restore(self, window, known, targets, origin):
        made = super().restore(window, known, targets, origin)
        if in_worker():
            made = np.clip(made + np.float32(self.off / 255), 0, 1)
            made = np.full_like(made, np.nan) if self.nan else made
        return made


class Measured(Textured):
    """Its best batch is another one each time that it is measured."""

    measured = 0

    def best_batch(self) -> int:
        Measured.measured += 1
        return 4 * Measured.measured


class Tuned(Drifting):
    """A GPU would tell it its best batch."""

    def best_batch(self) -> int:
        return 8


class Lame(Drifting):
    """The first process that tests it computes nonsense, whatever it computes."""

    def __init__(self, *, marks: str = "", **kw) -> None:
        super().__init__(**kw)
        if in_worker() and not list(Path(marks).iterdir()):
            (Path(marks) / str(os.getpid())).touch()
            self.nan = True


class Marking(Textured):
    """Leaves a mark, the process's id, each time that it fails; at most so many times."""

    def __init__(self, *, marks: str = "", times: int = 1, **kw) -> None:
        super().__init__(**kw)
        self.marks, self.times = Path(marks), times

    def fails(self) -> bool:
        if not in_worker() or len(list(self.marks.iterdir())) >= self.times:
            return False
        (self.marks / f"{os.getpid()}.{time.monotonic_ns()}").touch()
        return True


class Hungry(Marking):
    """Memory is short, the first times."""

    def restore(self, window, known, targets, origin):
        if self.fails():
            raise MemoryError("the batch does not fit")
        return super().restore(window, known, targets, origin)


class Lost(Marking):
    """Its device is lost: from then on every call in that process fails, as CUDA has it."""

    gone = False

    def restore(self, window, known, targets, origin):
        if self.gone or self.fails():
            self.gone = True
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return super().restore(window, known, targets, origin)


class Slow(Textured):
    """Takes a while for a slab, and so do reading and writing, in workers."""

    def __init__(self, *, read_s: float = 0.0, restore_s: float = 0.0, write_s: float = 0.0, **kw) -> None:
        super().__init__(sleep=restore_s, **kw)
        if in_worker():
            slab.look = _after(read_s, slab.look)  # once a slab
            slab._write = _after(write_s, slab._write)  # once a chunk


def _after(seconds, function):
    def slow(*args):
        time.sleep(seconds)
        return function(*args)

    return function if function.__name__ == "slow" else slow
