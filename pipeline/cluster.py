"""Cluster: starts the workers that a site describes, and stops them. Only this module and `crew` may know dask.

Nothing listens off loopback without TLS: local workers stay on 127.0.0.1, jobs speak TLS with certificates made for one
run, and a scheduler elsewhere is only spoken to with certificates. Dashboards are on 127.0.0.1, everywhere.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from weakref import WeakKeyDictionary

import yaml

from pipeline import slurm
from pipeline.errors import UnfitError
from pipeline.lanes import LANES, memory_here
from pipeline.site import Site

Tell = Callable[[dict[str, Any]], None]

LOOPBACK = "127.0.0.1"
DASHBOARD = slurm.DASHBOARD  # any free port: two runs on one host do not quarrel
GLANCE_S = 1.0  # how old the count of a scheduler's workers may be, where asking takes a trip
FILE_S = 120.0  # to wait for a scheduler's file: shared file systems show files late
DASK_YAML = Path(__file__).parents[1] / "deploy" / "dask.yaml"
PEMS = {"ca_file": "ca.pem", "cert": "cert.pem", "key": "key.pem"}  # one pair for all: who holds it belongs to the run


def _flat(tree: dict[str, Any], above: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} as {"a.b": 1}: dask.config.set would replace whole branches."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= _flat(value, f"{above}{key}.") if isinstance(value, dict) else {above + key: value}
    return found


SETTINGS = _flat(yaml.safe_load(DASK_YAML.read_text(encoding="utf-8")))  # the reasons stand in that file


def threads_per_worker(site: Site) -> int:
    """CPU threads that the restorer of one worker may use; dask's nanny would leave it a single one."""
    if site.kind in ("slurm", "scheduler"):  # what this host has says nothing about theirs
        return site.threads or max(1, site.cores // site.workers_per_job)
    return site.threads or max(1, (os.cpu_count() or 1) // max(1, processes_here(site)))


def memory_per_worker(site: Site) -> int:
    """Bytes that one worker process may take; 0 where nobody here knows."""
    if site.kind == "scheduler":
        return 0
    if site.kind == "slurm":
        from dask.utils import parse_bytes

        return int(parse_bytes(site.memory)) // site.workers_per_job
    return memory_here() // max(1, processes_here(site))


def memory_per_process(site: Site) -> int:
    """Bytes that one process that restores may take: a worker, or the driver; 0 where nobody here knows."""
    return memory_per_worker(site) if site.workers else memory_here()


def processes_here(site: Site) -> int:
    """Worker processes that share this host: of `cuda` one a GPU, unless fewer are asked for."""
    gpus = visible_gpus()[0] if site.kind == "cuda" else 0
    if not gpus:
        return site.workers
    return min(gpus, site.workers) if "workers" in site.model_fields_set else gpus


@contextmanager
def connect(site: Site, tell: Tell = lambda _: None) -> Iterator[Any]:
    """A dask client on the cluster that the site describes; all of it is gone when the `with` ends.

    tell hears of what is not as asked for, as {"kind": "warning", "text"}. Raises UnfitError.
    """
    import dask
    import distributed  # noqa: F401  # before the settings: on import it adds its defaults, which would leave with them

    doors = {"local": _local, "cuda": _cuda, "slurm": _slurm, "scheduler": _scheduler}
    with dask.config.set(SETTINGS), doors[site.kind](site, tell) as client:
        _forget_groups(client)
        yield client


def _forget_groups(client: Any) -> None:
    """Each slab is a group of tasks, of which dask keeps 2 kB for ever in a "span" for its pages: 2 GB of a million.

    A scheduler elsewhere is let alone: it may be others', too.
    """
    from distributed.spans import SpansSchedulerExtension

    class NoSpans(SpansSchedulerExtension):  # type: ignore[misc]
        def observe_tasks(self, *_: Any, **__: Any) -> dict[Any, Any]:
            return {}

        def heartbeat(self, *_: Any) -> None:
            pass

    if (scheduler := _own(client)) is not None:
        scheduler.extensions["spans"] = NoSpans(scheduler)


def cut_off(client: Any, name: str | None) -> bool:
    """Whether the way to the scheduler is broken, and dask looks for it still. Raises UnfitError once it has given up.

    name: the address, or the file, of a scheduler that is not this process's own.
    """
    if client.status != "closed":
        return bool(client.status != "running")
    raise UnfitError(
        "the scheduler is gone",
        where=name or "",
        why="the connection broke, and for a minute nobody has answered there: it has ended, or its host has",
        do="start it again (its log tells why it ended), and run again: finished slabs are kept",
    )


def present(client: Any) -> tuple[str, ...]:
    """The addresses of the workers that there are now. Raises UnfitError where there will never be any."""
    if not workers(client):
        return ()
    if (scheduler := _own(client)) is not None:  # no trip, and no wait behind its other work
        return tuple(scheduler.workers)
    try:
        return tuple(client.nthreads())
    except OSError:  # the scheduler went away this very moment
        return ()


def workers(client: Any) -> int:
    """How many workers there are now. Raises UnfitError where there will never be any."""
    if (watch := _WATCHES.get(client)) is not None:
        watch.check()
    if (scheduler := _own(client)) is not None:
        return len(scheduler.workers)
    at, count = _GLANCES.get(client, (-GLANCE_S, 0))
    if time.monotonic() - at >= GLANCE_S:
        at, count = time.monotonic(), _asked(client)
        _GLANCES[client] = at, count
    return count


_WATCHES: WeakKeyDictionary[Any, slurm.Watch] = WeakKeyDictionary()
_GLANCES: WeakKeyDictionary[Any, tuple[float, int]] = WeakKeyDictionary()


def _own(client: Any) -> Any:
    """The scheduler of a cluster that this process has started, or None."""
    return getattr(client.cluster, "scheduler", None)


def _asked(client: Any) -> int:
    try:
        return int(client.scheduler_info(n_workers=0)["n_workers"])
    except (OSError, TimeoutError, KeyError):
        return 0  # it is away, or coming back


# --- this host


@contextmanager
def _ended(cluster: Any) -> Iterator[None]:
    """End a cluster with the `with`. On a very busy host dask may give up waiting for processes that it has killed:
    that must not undo a run whose slabs are all done."""
    cluster.__enter__()
    try:
        yield
    finally:
        with suppress(TimeoutError):
            cluster.__exit__(None, None, None)


def _started(make: Callable[[], Any]) -> Any:
    """A cluster; tried twice, for a worker may be killed while it starts. Raises UnfitError."""
    for last in (False, True):
        try:
            return make()
        except RuntimeError as error:  # dask gives no more of a kind to it
            if last:
                raise UnfitError(
                    "the workers do not start",
                    why=f"{error} Twice one ended before it was ready: out of memory, or killed from outside",
                    do="give them more memory or take fewer (site.workers), and run again: finished slabs are kept",
                ) from error
    raise AssertionError("one of the two returns or raises")


@contextmanager
def _local(site: Site, tell: Tell) -> Iterator[Any]:
    from distributed import Client, LocalCluster

    with _workers_ignore_interrupts():
        cluster = _started(lambda: LocalCluster(n_workers=site.workers, processes=True, **_on_loopback()))
    with _ended(cluster), Client(cluster, set_as_default=False) as client:
        yield client


@contextmanager
def _cuda(site: Site, tell: Tell) -> Iterator[Any]:
    gpus, why = visible_gpus()
    if not gpus:
        tell({"kind": "warning", "text": f"site.kind is cuda, but {why}: the CPU is used, by local workers"})
        with _local(site, tell) as client:
            yield client
        return
    from dask_cuda import LocalCUDACluster
    from distributed import Client

    with _workers_ignore_interrupts():
        cluster = LocalCUDACluster(n_workers=processes_here(site), **_on_loopback())
    with _ended(cluster), Client(cluster, set_as_default=False) as client:
        yield client


def visible_gpus() -> tuple[int, str]:
    """GPUs that dask-cuda could use here, and if none, why. It fails in many ways: each is found out beforehand."""
    if importlib.util.find_spec("dask_cuda") is None:
        return 0, "dask-cuda is not installed (pip install 'zmend[gpu]')"
    try:
        import dask_cuda  # noqa: F401
        import pynvml  # of dask-cuda
    except ImportError as e:  # without its extra cu12 or cu13 it cannot be imported
        return 0, f"dask-cuda cannot be imported ({e})"
    try:
        pynvml.nvmlInit()
        count = int(pynvml.nvmlDeviceGetCount())
    except pynvml.NVMLError as e:
        return 0, f"the NVIDIA driver does not answer ({e})"
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = count if chosen is None else min(count, len([c for c in chosen.split(",") if c.strip()]))
    return count, "" if count else "no GPU is visible"


def _on_loopback() -> dict[str, Any]:
    return {
        "threads_per_worker": LANES,
        "host": LOOPBACK,
        "dashboard_address": DASHBOARD,
        "worker_dashboard_address": DASHBOARD,
        "silence_logs": logging.CRITICAL,
    }


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


# --- SLURM


def reap(site: Site) -> None:
    """End what a driver that was killed has left running. Raises UnfitError."""
    if site.kind == "slurm":
        slurm.reap(site)


@contextmanager
def _slurm(site: Site, tell: Tell) -> Iterator[Any]:
    from dask_jobqueue import SLURMCluster
    from distributed import Client

    slurm.reap(site)
    with TemporaryDirectory(prefix=slurm.KEYS, dir=site.folder) as keys:
        make_certificates(Path(keys))
        options = slurm.job_options(site, LANES, DASK_YAML)
        try:
            cluster = SLURMCluster(security=read_certificates(Path(keys)), **options)
        except (RuntimeError, ValueError, OSError) as e:
            raise UnfitError(
                "the scheduler of the jobs cannot be started on this host",
                where=f"site.interface {site.interface}" if site.interface else "site",
                why=" ".join(str(e).split()),
                do="name an interface that this host and the workers share: site.interface; `ip address` lists them",
            ) from e
        watched = slurm.Watch(site, cluster, tell)
        with _ended(cluster), Client(cluster, set_as_default=False) as client, watched as watch:
            watch.submit()
            _WATCHES[client] = watch
            yield client


# --- a scheduler that is there already


@contextmanager
def _scheduler(site: Site, tell: Tell) -> Iterator[Any]:
    from distributed import Client

    address = site.address or _announced(Path(str(site.scheduler_file)), FILE_S)
    security = read_certificates(Path(site.tls)) if site.tls else None
    if security is None and not _stays_here(address):
        raise UnfitError(
            f"the scheduler at {address} is spoken to without TLS",
            why="whoever reaches its port may run code as you",
            do="start it with --tls-ca-file, --tls-cert and --tls-key, and name their folder: site.tls",
        )
    try:
        client = Client(address, security=security, set_as_default=False)
    except (OSError, TimeoutError) as e:
        raise UnfitError(
            "the scheduler does not answer",
            where=address,
            why=" ".join(str(e).split()) or type(e).__name__,
            do="check that it runs, that this host reaches its port, and that site.tls holds its certificates",
        ) from e
    with client:
        yield client


def _announced(path: Path, patience_s: float) -> str:
    """The address in a scheduler's file, once it is there."""
    until = time.monotonic() + patience_s
    while True:
        try:
            return str(json.loads(path.read_text())["address"])
        except (OSError, ValueError, KeyError) as e:  # not there, or not whole yet
            if time.monotonic() > until:
                raise UnfitError(
                    "no scheduler has announced itself",
                    where=str(path),
                    why=f"its file is not there after {patience_s:.0f} s",
                    do="start it: dask scheduler --scheduler-file ..., or name its address: site.address",
                ) from e
        time.sleep(0.5)


def _stays_here(address: str) -> bool:
    host = address.partition("://")[2].rpartition(":")[0].strip("[]")
    return host in ("localhost", "::1") or host.startswith("127.")


def make_certificates(folder: Path) -> None:
    """Write ca.pem, cert.pem and key.pem of a new self-signed pair, for you alone to read; valid for a year."""
    from distributed.security import Security

    made = Security.temporary().get_tls_config_for_role("scheduler")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for what, name in PEMS.items():
        (folder / name).unlink(missing_ok=True)
        with os.fdopen(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as f:
            f.write(made[what])


def read_certificates(folder: Path) -> Any:
    """dask's Security from a folder that `make_certificates` has written. Raises UnfitError."""
    from distributed.security import Security

    if missing := [name for name in PEMS.values() if not (folder / name).is_file()]:
        raise UnfitError(
            f"{missing[0]} is missing",
            where=str(folder),
            do=f"site.tls is a folder with {', '.join(PEMS.values())}, the same that the scheduler was started with",
        )
    files = {what: str(folder / name) for what, name in PEMS.items()}
    pairs = [(role, what) for role in ("client", "scheduler", "worker") for what in ("cert", "key")]
    roles = {f"tls_{role}_{what}": files[what] for role, what in pairs}
    return Security(require_encryption=True, tls_ca_file=files["ca_file"], **roles)
