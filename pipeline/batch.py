"""Batch: plain sbatch scripts for a site, for those who want to see, change and keep what SLURM is given.

A job for the driver and an array of jobs for the workers, from the templates in deploy/slurm. They meet through a
scheduler's file and certificates in one folder that all nodes see. Decides what is written; writes nothing itself.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import UsageError
from pipeline.site import ELSEWHERE, Site
from pipeline.slurm import DASHBOARD, DRAIN, WORKERS, directives, worker_args

DRIVER_CORES, DRIVER_MEMORY = 2, "4G"  # a scheduler, a driver and the merge: none holds voxels of more than a chunk
TRIAL_S = 60  # that a worker tries one scheduler before it looks for a newer one
TEMPLATES = Path(__file__).parents[1] / "deploy" / "slurm"
UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def render(site: Site, config: Path, folder: Path, *, lanes: int, dask_yaml: Path) -> dict[str, str]:
    """The text of each file by name: driver.sbatch, workers.sbatch, driver-site.yaml. Raises UsageError.

    folder: where they will lie, seen by every node. lanes: dask threads of one worker.
    """
    if site.kind != "slurm":
        raise UsageError(
            f"--render writes scripts for SLURM, and the site's kind is {site.kind}",
            do="name a site of kind: slurm; deploy/site-slurm.yaml is one to start from",
        )
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    jinja = Environment(
        loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    jinja.filters["quote"] = lambda value: shlex.quote(str(value))
    jinja.filters["pattern"] = pattern
    values = {
        "site": site,
        "config": config,
        "folder": folder,
        "lanes": lanes,
        "python": sys.executable,
        "dask_yaml": dask_yaml,
        "dashboard": DASHBOARD,
        "drain": DRAIN,
        "worker_command": WORKERS[site.gpus > 0],
        "directives": directives(site),
        "worker_args": worker_args(site),
        "memory_mb": memory_bytes(site.memory) // 2**20,
        "trial_s": min(TRIAL_S, site.death_timeout_s),
        "driver_cores": DRIVER_CORES,
        "driver_memory": DRIVER_MEMORY,
    }
    scripts = {name: jinja.get_template(f"{name}.j2").render(values) for name in ("driver.sbatch", "workers.sbatch")}
    return {**scripts, "driver-site.yaml": yaml.safe_dump(driver_site(site, folder), sort_keys=False)}


def driver_site(site: Site, folder: Path) -> dict[str, Any]:
    """What the driver's own site file says: the scheduler is there already; all else as for the workers."""
    kept = site.model_dump(mode="json", exclude_unset=True, exclude=set(ELSEWHERE))
    return {
        "kind": "scheduler",
        "scheduler_file": str(folder / "scheduler.json"),
        "tls": str(folder / "tls"),
        "workers": site.workers,
        "threads": site.threads or max(1, site.cores // site.workers_per_job),
        **kept,
    }


def pattern(path: str) -> str:
    """A file as `#SBATCH --output=` takes it: quoted for blanks, and no part of its name a pattern of SLURM's."""
    return '"{}"'.format(path.replace('"', r"\"").replace("%", "%%"))


def memory_bytes(text: str) -> int:
    """16GB, 16 GiB and 16G alike: SLURM, too, means powers of two by all of them."""
    number, unit = text.rstrip("iB").rstrip(), 1
    if number[-1] in UNITS:
        number, unit = number[:-1].rstrip(), UNITS[number[-1]]
    return int(number) * unit
