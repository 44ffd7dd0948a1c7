"""Failpoints: the steps of the commit protocol by name, at which a test makes this process fail. Free where unset.

ZMEND_FAILPOINTS=record=kill@3,write=eio@p0.1   point=deed@when, as many as wanted; workers inherit it
ZMEND_FAILPOINTS_SEED=7                         for the chances
ZMEND_FAILPOINTS_MARKS=FOLDER                   there it is noted what was done; no deed ends a second process then

point   POINTS, in the order in which a slab, then a merge, come by
deed    kill term stop hang       this process is ended, asked to end, stopped, kept for ever
        eio enospc erofs memory   raised, as a disk or the memory would
        tear lose                 at fsync: what is not durable yet is cut in half or gone, and the process with it
        note                      nothing: it is noted who came by
when    3 the third time that this process comes by (1 where nothing is said), * each time, p0.1 with that chance
"""

from __future__ import annotations

import errno
import os
import random
import re
import signal
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import UsageError

ENV, SEED, MARKS = "ZMEND_FAILPOINTS", "ZMEND_FAILPOINTS_SEED", "ZMEND_FAILPOINTS_MARKS"
POINTS = ("read", "restore", "write", "readback", "fsync", "record", "pack", "merge", "pyramid", "attrs")
RAISED = {"eio": errno.EIO, "enospc": errno.ENOSPC, "erofs": errno.EROFS}
SIGNALS = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "stop": signal.SIGSTOP}
POWER = ("tear", "lose")
DEEDS = (*SIGNALS, "hang", *RAISED, "memory", *POWER, "note")
_ORDER = re.compile(r"(\w+)=(\w+)(?:@(\d+|\*|p[\d.]+))?")


def reach(point: str, about: str = "", paths: Sequence[Path] = ()) -> None:
    """Say that this process comes by a point; what the environment asks for happens there.

    about: slab or place, for the notes. paths: what is written here, and not yet durable.
    """
    if text := os.environ.get(ENV):
        _orders(text).reach(point, about, paths)


def armed() -> str:
    """What the environment asks for; nothing, but in tests. Raises UsageError where it cannot be understood."""
    text = os.environ.get(ENV, "")
    return text if not text or parse(text) else ""


@dataclass(frozen=True, slots=True)
class Order:
    """One deed at one point."""

    point: str
    deed: str
    nth: int = 0  # the visit of this process that it happens at; 0: any
    chance: float = 1.0

    def due(self, visit: int, draw: float) -> bool:
        """Whether it happens at this visit (from 1). draw: of [0, 1)."""
        return self.nth in (0, visit) and draw < self.chance


def parse(text: str) -> tuple[Order, ...]:
    """The orders of ZMEND_FAILPOINTS. Raises UsageError."""
    return tuple(_order(part.strip()) for part in text.split(","))


def _order(text: str) -> Order:
    found = _ORDER.fullmatch(text)
    point, deed, when = found.groups() if found else ("", "", "")
    misplaced = deed in POWER and point != "fsync"
    if point not in POINTS or deed not in DEEDS or misplaced:
        raise UsageError(
            f"'{text}' is no failpoint",
            where=ENV,
            why="tear and lose go with fsync" if misplaced else f"points: {' '.join(POINTS)}; deeds: {' '.join(DEEDS)}",
            do=f"write it like record=kill@3, or unset {ENV}: it is for tests alone",
        )
    if when and when[0] in "*p":
        return Order(point, deed, 0, float(when[1:] or 1))
    return Order(point, deed, int(when or 1))


class _Orders:
    """The orders of one environment, and how often this process came by each point."""

    def __init__(self, text: str, seed: str) -> None:
        self.text, self.all = text, parse(text)
        self._visits: Counter[str] = Counter()
        self._rng, self._lock = random.Random(seed), threading.Lock()

    def reach(self, point: str, about: str, paths: Sequence[Path]) -> None:
        with self._lock:
            self._visits[point] += 1
            draws = [(order, self._rng.random()) for order in self.all if order.point == point]
            due = [order for order, draw in draws if order.due(self._visits[point], draw)]
        for order in due:
            if _marked(order, about):
                _do(order, about, paths)


_LOCK, _KNOWN = threading.Lock(), dict[str, _Orders]()


def _orders(text: str) -> _Orders:
    with _LOCK:
        if text not in _KNOWN:
            _KNOWN[text] = _Orders(text, os.environ.get(SEED, "0"))
        return _KNOWN[text]


def _marked(order: Order, about: str) -> bool:
    """Note a deed before it is done; False where it would end a process, and has ended one before."""
    folder = os.environ.get(MARKS)
    if not folder:
        return True
    ends = order.deed in SIGNALS or order.deed in POWER or order.deed == "hang"
    try:
        if ends:
            (Path(folder) / f"{order.point}={order.deed}@{order.nth}").touch(exist_ok=False)
    except FileExistsError:
        return False
    with (Path(folder) / "notes").open("a") as notes:
        notes.write(f"{order.point} {order.deed} {os.getpid()} {about}\n")
    return True


def _do(order: Order, about: str, paths: Sequence[Path]) -> None:
    if order.deed in RAISED:
        number = RAISED[order.deed]
        raise OSError(number, f"{os.strerror(number)} (failpoint {order.point})", about or None)
    if order.deed == "memory":
        raise MemoryError(f"failpoint {order.point}")
    if order.deed in POWER:
        _power_cut(order.deed, paths)
    if order.deed == "hang":
        threading.Event().wait()
    if order.deed in SIGNALS:
        os.kill(os.getpid(), SIGNALS[order.deed])


def _power_cut(deed: str, paths: Sequence[Path]) -> None:
    """What a power cut leaves of files that were written and not synced, at its worst."""
    for path in paths:
        if deed == "lose":
            path.unlink(missing_ok=True)
        elif path.is_file():
            whole = path.read_bytes()
            path.unlink()  # it may be linked elsewhere
            path.write_bytes(whole[: len(whole) // 2])
    os.kill(os.getpid(), signal.SIGKILL)
