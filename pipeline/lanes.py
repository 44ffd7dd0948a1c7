"""Lanes: what the threads of one worker's process share, so that reading, restoring and writing of slabs overlap.

Budget   bytes in flight: a slab begins to read when it fits; one alone always may
Turn     one restoration at a time, so that a GPU, or all cores, serve one slab and the others read or write
Exit     how a process ends that cannot go on: its answer goes out, other lanes finish, then it is gone

    lane 1   read │ restore │ write │ read     │ restore …
    lane 2          read      │ restore │ write │ read …
    lane 3                 read         │ restore │ write …
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from types import TracebackType

LANES = 3  # slabs in a worker at once: one is read, one restored, one written; the restorer is behind a lock
EXIT_CODE = 70  # of a worker's process that ended itself; a nanny starts another
TELL_S = 3.0  # for the driver to fetch what this process says of the slab that failed; milliseconds, mostly
GRACE_S = 20.0  # for the slabs of other lanes; whatever is still at work then is done again elsewhere
_STICKY = ("StickyDeviceError", "AcceleratorError")
_CGROUP = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # version 2, and 1
_EXHAUSTED = ("OutOfMemoryError",)  # torch's own; a RuntimeError


def memory_here() -> int:
    """Bytes that this process may take: of the host, or of the group (cgroup) that holds us; 0 where nobody says."""
    told = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")] if hasattr(os, "sysconf") else []
    for path in _CGROUP:
        with suppress(OSError, ValueError):  # there is none, or it says "max"
            told.append(int(Path(path).read_text()))
    return min((n for n in told if n > 0), default=0)


def ends_process(error: BaseException) -> str:
    """Why a process that met this error must not go on: memory, device or nothing.

    By name, since this package knows no torch. After either nothing that the process computes can be relied on:
    what lies scattered in its memory stays there, and a CUDA context that failed once fails every call from then on.
    """
    names = {kind.__name__ for kind in type(error).__mro__}
    if isinstance(error, MemoryError) or names.intersection(_EXHAUSTED):
        return "memory"
    cuda = isinstance(error, RuntimeError) and "CUDA error" in str(error)
    return "device" if cuda or names.intersection(_STICKY) else ""


_HALT = threading.Event()


class HaltError(Exception):
    """Whoever was waited for has gone."""


@contextmanager
def halted() -> Iterator[None]:
    """Within, no lane of this process calls its restorer again: its slab is not done.

    It stays so for who is interrupted meanwhile: some lanes still run, and the process ends.
    """
    _HALT.set()
    yield
    _HALT.clear()


def go_on() -> None:
    """Raises HaltError while lanes are to stop."""
    if _HALT.is_set():
        raise HaltError("stopped at once")


class Budget:
    """Bytes that slabs in hand may take together. First come, first served; 0 bounds nothing."""

    def __init__(self, limit: int) -> None:
        self.limit, self.used, self.held = limit, 0, 0
        self._door, self._changed = threading.Lock(), threading.Condition()

    @contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Wait until `size` more bytes fit, or nobody else holds any."""
        with self._door, self._changed:  # behind the door, so that small slabs do not slip past a big one for ever
            self._changed.wait_for(lambda: not self.limit or not self.held or self.used + size <= self.limit)
            self._add(size, 1)
        try:
            yield
        finally:
            with self._changed:
                self._add(-size, -1)
                self._changed.notify_all()

    def _add(self, size: int, slabs: int) -> None:
        self.used, self.held = self.used + size, self.held + slabs


class Exit:
    """How a worker's process ends. Whoever enters a lane afterwards waits for the end, and is done elsewhere."""

    def __init__(self) -> None:
        self.reason = ""
        self._busy, self._changed = 0, threading.Condition()

    @contextmanager
    def lane(self) -> Iterator[None]:
        """One slab at work in this process."""
        self.wait_if_ending()
        self._count(1)
        try:
            yield
        finally:
            self._count(-1)

    def begin(self, reason: str) -> None:
        """End the process soon. Returns at once, so that the caller's error reaches the scheduler."""
        with self._changed:
            first, self.reason = not self.reason, self.reason or reason
        if first:
            logging.getLogger("zmend").warning("this worker's process ends: %s", reason)
            threading.Thread(target=self._end, daemon=True, name="end of process").start()

    def wait_if_ending(self, *, at_work: bool = False) -> None:
        """Returns where the process goes on; else never. `at_work`: the caller was counted in, and counts no more."""
        if self.reason:
            if at_work:
                self._count(-1)
            threading.Event().wait()

    def _count(self, change: int) -> None:
        with self._changed:
            self._busy += change
            self._changed.notify_all()

    def _end(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._busy <= 0, GRACE_S)
        time.sleep(TELL_S)
        os._exit(EXIT_CODE)


class Turn(AbstractContextManager["Turn"]):
    """The restorer, by one lane at a time. After an error that ends the process nobody gets another turn.

    end: told why, while the turn is still held: a lane that waits must not meet the same error and be blamed for it.
    """

    def __init__(self, exit: Exit | None = None) -> None:
        self._lock, self._exit = threading.Lock(), exit

    def __enter__(self) -> Turn:
        self._lock.acquire()
        if self._exit is not None and self._exit.reason:
            self._lock.release()
            self._exit.wait_if_ending(at_work=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._exit is not None and error is not None and ends_process(error):
            self._exit.begin(f"{type(error).__name__}: {error}")
        self._lock.release()
