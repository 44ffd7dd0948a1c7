"""Drain: a worker that SLURM is about to end gives its slabs back, and leaves.

USR1 comes two minutes before the walltime, TERM when a job is preempted or cancelled. The scheduler is told to expect
it, so that no slab is suspected of having killed a worker: it goes elsewhere, and does not count as a failure.

Loaded by dask (DASK_DISTRIBUTED__NANNY__PRELOAD, ..WORKER..) into the process that starts workers, which SLURM
signals, and into the worker itself, which SLURM signals too and which must not leave before it is told to.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import Any

LEAVE_S = 15.0  # for the goodbye, on a machine that is busy; SLURM kills 30 s after TERM
_nannies: list[Any] = []  # dask-cuda has one for each GPU, all in one process, and a signal has one handler
_going: set[asyncio.Task[None]] = set()  # the loop itself keeps no hold of its tasks


def dask_setup(server: Any) -> None:
    """Called by dask with the nanny or the worker of the process, on its event loop."""
    loop = asyncio.get_running_loop()
    if hasattr(server, "worker_address"):  # a nanny
        _nannies.append(server)
        for number in (signal.SIGUSR1, signal.SIGTERM):
            loop.add_signal_handler(number, _start_leaving)
    else:  # a worker: its nanny says goodbye for it; but it waits for no nanny that is gone
        loop.add_signal_handler(signal.SIGTERM, loop.call_later, 1.5 * LEAVE_S, os._exit, 1)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def _start_leaving() -> None:
    if not _going:
        _going.update(asyncio.ensure_future(_leave(nanny)) for nanny in _nannies)


async def _leave(nanny: Any) -> None:
    nanny.close_gracefully()  # dask's word for: do not start the worker again, should it end first
    try:
        await asyncio.wait_for(_goodbye(nanny), LEAVE_S)
    except (TimeoutError, OSError, ValueError) as error:  # no scheduler, or it is busy: leave without goodbye
        print(f"drain: {type(error).__name__}: {error}", file=sys.stderr)
    await nanny.close(timeout=5, reason="drain")


async def _goodbye(nanny: Any) -> None:
    while nanny.process is not None and nanny.worker_address is None:
        await asyncio.sleep(0.05)  # the scheduler knows a worker that has just started sooner than its nanny does
    await nanny.scheduler.retire_workers(workers=[nanny.worker_address], close_workers=False, remove=True)
