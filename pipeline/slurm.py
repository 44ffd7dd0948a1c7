"""SLURM: the jobs that workers live in. What they are told, which are gone, how they are replaced and reaped.

SLURM's own queue is the only truth about a job: one that is in it may come back (preempted, requeued, its node
rebooted), one that is not has ended and is replaced. dask-jobqueue by itself replaces no job that was cancelled, and
would cancel one that SLURM has requeued.
"""

from __future__ import annotations

import getpass
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from pipeline.errors import UnfitError
from pipeline.site import Site

DASHBOARD = "127.0.0.1:0"
POLL_S = 10.0  # between two looks at SLURM's queue
SLOWEST_S = 600.0  # between two looks while jobs end without ever having worked
HOPELESS = 5  # times that all of them may
REAPED_S = 60.0  # for the jobs of a killed run to be gone
WORKERS = {False: "distributed.cli.dask_worker", True: "dask_cuda.cli"}  # without, with GPUs
DRAIN = tuple(f"""export DASK_DISTRIBUTED__{who}__PRELOAD='["pipeline.drain"]'""" for who in ("NANNY", "WORKER"))
KEYS = "tls-"  # folders of certificates begin so


def job_options(site: Site, lanes: int, dask_yaml: Path) -> dict[str, Any]:
    """What dask-jobqueue's SLURMCluster is given. lanes: dask threads of one worker."""
    return {
        "job_name": site.name,
        "queue": site.partition,
        "account": site.account,
        "walltime": site.walltime,
        "memory": site.memory,
        "job_cpu": site.cores,
        "cores": lanes * site.workers_per_job,  # dask's word for threads; what SLURM gives is job_cpu
        "processes": site.workers_per_job,
        # exec: the worker takes the shell's place, and gets the signals that SLURM sends to the shell. -P: modules of
        # the folder that it starts in must not be taken for the installed ones
        "python": f"exec {shlex.quote(sys.executable)} -P",
        "worker_command": WORKERS[site.gpus > 0],
        "worker_extra_args": worker_args(site),
        "job_extra_directives": directives(site),
        "job_script_prologue": [*site.setup, f"export DASK_CONFIG={shlex.quote(str(dask_yaml))}", *DRAIN],
        "death_timeout": site.death_timeout_s,
        "local_directory": site.local_directory,
        "interface": site.interface,
        "protocol": "tls://",
        "log_directory": site.folder,
        "scheduler_options": {"dashboard_address": DASHBOARD},
        "silence_logs": "critical",
    }


def worker_args(site: Site) -> list[str]:
    """Options of the worker's command, beyond where the scheduler is and how much there is of everything."""
    # dask-cuda's command knows no --preload-nanny, and minds DRAIN; dask's own has the option, and does not mind it
    return ["--dashboard-address", DASHBOARD, *([] if site.gpus else ["--preload-nanny", "pipeline.drain"])]


def directives(site: Site) -> list[str]:
    """#SBATCH lines of a worker beyond partition, account, cores, memory and walltime."""
    return [
        *([f"--qos={site.qos}"] if site.qos else []),
        *([f"--gres=gpu:{site.gpus}"] if site.gpus else []),
        "--requeue",
        "--open-mode=append",  # a requeued job goes on in its log
        "--signal=B:USR1@120",  # two minutes before the walltime: drain
        *site.directives,
    ]


def gone(jobs: Mapping[str, str], queued: set[str]) -> list[str]:
    """Names of the workers whose job SLURM does not know any more. jobs: job id by worker name."""
    return sorted(name for name, job in jobs.items() if job not in queued)


def queued(name: str) -> set[str] | None:
    """Ids of your jobs of that name that wait, run or end; None where SLURM does not answer."""
    found = _call("squeue", "--noheader", f"--user={getpass.getuser()}", f"--name={name}", "--format=%A")
    return set(found.stdout.split()) if found.returncode == 0 else None


def reap(site: Site) -> None:
    """Cancel what a killed run has left behind: its jobs, by their name, and its keys. Raises UnfitError."""
    name, folder = str(site.name), Path(str(site.folder))
    folder.mkdir(parents=True, exist_ok=True)
    if queued(name) is None:
        raise UnfitError(
            "SLURM does not answer",
            why="squeue failed on this host",
            do="run on a host with SLURM's commands; zmend doctor --site checks it",
        )
    _call("scancel", f"--user={getpass.getuser()}", f"--name={name}")
    until = time.monotonic() + REAPED_S
    while queued(name):
        if time.monotonic() > until:
            raise UnfitError(
                f"jobs of an earlier run still run: {name}", do=f"look at them: squeue --name={name}, then run again"
            )
        time.sleep(0.5)
    for keys in folder.glob(f"{KEYS}*"):
        shutil.rmtree(keys, ignore_errors=True)


def _call(*command: str, script: str = "") -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, input=script, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as e:
        return subprocess.CompletedProcess(command, 127, "", str(e))


class Watch:
    """Looks at SLURM's queue now and then, and replaces the jobs that are gone, while the `with` lasts."""

    def __init__(self, site: Site, cluster: Any, tell: Callable[[dict[str, Any]], None]) -> None:
        self.site, self.cluster, self.tell = site, cluster, tell
        self.failure: UnfitError | None = None
        self._idle, self._over = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="zmend-slurm")

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()
        for job in self.cluster.workers.values():
            if job.job_id is None:  # sbatch failed; dask would wonder how a job has neither begun nor ended
                job.status = type(job.status).failed

    def submit(self) -> None:
        """Hand in the jobs, and watch them from now on. Raises UnfitError where SLURM refuses them."""
        tried = _call("sbatch", "--test-only", script=self.cluster.job_script())
        if tried.returncode != 0:
            raise UnfitError(
                "SLURM refuses the worker jobs",
                why=" ".join(tried.stderr.split()),
                do="mend the site's partition, account, walltime, memory or gpus; zmend doctor --site checks them",
            )
        self.cluster.scale(jobs=self.site.jobs)
        self._thread.start()

    def check(self) -> None:
        """Raises the UnfitError that the watch has ended with, if it has."""
        if self.failure is not None:
            raise self.failure

    def _watch(self) -> None:
        while not self._over.wait(min(POLL_S * 2**self._idle, SLOWEST_S)):
            try:
                self._look()
            except UnfitError as e:
                self.failure = e
                return

    def _look(self) -> None:
        """Replace what is gone; raises UnfitError once jobs have ended again and again without one worker."""
        jobs = {name: job.job_id for name, job in list(self.cluster.workers.items())}  # before asking: none is newer
        known = queued(str(self.site.name))
        lost = gone(jobs, known) if known is not None else []
        if self.cluster.scheduler.workers:
            self._idle = 0
        elif lost:
            self._idle += 1
        if self._idle >= HOPELESS:
            raise UnfitError(
                f"worker jobs end before they work, {HOPELESS} times in a row",
                where=str(self.site.folder),
                why=last_words(Path(str(self.site.folder)), str(self.site.name)),
                do="read the newest log there; often it is a missing module: site.setup",
            )
        if lost:
            self.tell({"kind": "warning", "text": f"{len(lost)} worker jobs have ended and are replaced"})
            self._replace(lost)

    def _replace(self, lost: list[str]) -> None:
        async def forget() -> None:
            for name in lost:
                self.cluster.workers.pop(name, None)

        self.cluster.sync(forget)
        self.cluster.scale(jobs=self.site.jobs)


def last_words(folder: Path, name: str) -> str:
    """The last line of the newest log of a job."""
    logs = sorted((p for p in folder.glob(f"{name}-*.err") if p.stat().st_size), key=lambda p: p.stat().st_mtime)
    return logs[-1].read_text(errors="replace").strip().splitlines()[-1] if logs else "they have left no log"
