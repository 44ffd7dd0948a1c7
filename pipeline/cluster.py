"""Cluster: starts the workers that a site describes, and stops them. Only this module and `crew` may know dask."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pipeline.site import Site

SETTINGS = {
    # Our window bounds what is in flight; the scheduler's own queue would only add 470 µs a task to that.
    "distributed.scheduler.worker-saturation": "inf",
    # When a worker dies, every slab that it held is suspected, most of them wrongly: they go elsewhere at once,
    # and only one that has seen four workers die comes back to us as a failure.
    "distributed.scheduler.allowed-failures": 3,
    "distributed.scheduler.work-stealing": False,
    # Per-task logs are what grows in a run of a million slabs.
    "distributed.admin.log-length": 200,
    "distributed.admin.low-level-log-length": 200,
    # Slabs are big and few: a worker that pauses at 80 % of memory would never go on.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": False,
    "distributed.comm.timeouts.connect": "60s",
}


def threads_per_worker(site: Site) -> int:
    """CPU threads that the restorer of one worker may use; dask's nanny would leave it a single one."""
    return site.threads or max(1, (os.cpu_count() or 1) // max(1, site.workers))


@contextmanager
def connect(site: Site) -> Iterator[Any]:
    """A dask client on the cluster that the site describes; all of it is gone when the `with` ends."""
    import dask
    from distributed import Client, LocalCluster

    # Two slabs in a worker: while one computes, the other reads or writes. The restorer itself is behind a lock.
    with dask.config.set(SETTINGS):
        with _workers_ignore_interrupts():
            cluster = LocalCluster(
                n_workers=site.workers,
                threads_per_worker=2,
                processes=True,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",  # on loopback, any free port: two runs on one host do not quarrel
                silence_logs=logging.CRITICAL,
            )
        with cluster, Client(cluster, set_as_default=False) as client:
            yield client


@contextmanager
def _workers_ignore_interrupts() -> Iterator[None]:
    """A terminal sends Ctrl-C to every process of the group, but only the driver decides: children inherit "ignore"."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
