"""Fitness: can the site do the job? SLURM and its partition, walltime and memory against a slab, GPUs, networks.

Each finding says what is so, and where it is not fit what to change: {name, ok, detail, do}.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.batch import memory_bytes
from pipeline.cluster import connect, visible_gpus, workers
from pipeline.errors import UnfitError
from pipeline.lanes import LANES
from pipeline.site import Site, walltime_s

COMMANDS = ("sbatch", "squeue", "scancel", "scontrol", "sinfo")
LEAVE_S = 120  # before the walltime a worker leaves
NETWORKS = Path("/sys/class/net")
Json = dict[str, Any]


def finding(name: str, ok: bool, detail: str, do: str = "") -> Json:
    """One line of the doctor's: the remedy only where there is something to mend."""
    return {"name": name, "ok": ok, "detail": detail, "do": "" if ok else do}


def examine_site(site: Site, totals: Mapping[str, int] | None = None) -> list[Json]:
    """What can be found out on this host about a site. totals: a plan's, where a job is known."""
    found = [loopback()]
    if site.kind == "cuda":
        count, why = visible_gpus()
        found.append(finding("gpus", count > 0, why or f"{count} for dask-cuda", "mend that, or take kind: local"))
    if site.kind == "scheduler":
        found.append(scheduler(site))
    if site.kind == "slurm":
        found += [*commands(), *([] if site.interface is None else [interface(site.interface)])]
        if all(f["ok"] for f in found):
            found.append(partition(site, partitions(site.partition)))
        found += job(site, totals) if totals else []
    return found


def loopback() -> Json:
    """Whether processes of this host can meet on 127.0.0.1, on a port that the system chooses."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), timeout=5).close()
    except OSError as e:
        return finding("loopback", False, str(e), "allow connections to 127.0.0.1: driver and workers meet there")
    return finding("loopback", True, "ports open and answer")


def scheduler(site: Site) -> Json:
    """Whether a scheduler that should be there answers, to these certificates, and how many workers it has."""
    name = str(site.address or site.scheduler_file)
    try:
        address = site.address or json.loads(Path(name).read_text())["address"]
        host, _, port = address.partition("://")[2].rpartition(":")
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()  # dask would try for a minute
        with connect(site) as client:
            return finding("scheduler", True, f"{address} answers, {workers(client)} workers are there")
    except UnfitError as e:
        return finding("scheduler", False, " ".join(f"{e.what} {e.why}".split()), e.do)
    except (OSError, ValueError, KeyError, TypeError) as e:
        return finding("scheduler", False, f"{name}: {e}", "start it first; site.address, site.scheduler_file")


def commands() -> list[Json]:
    """SLURM's commands, and whether it answers."""
    absent = [c for c in COMMANDS if shutil.which(c) is None]
    if absent:
        return [finding("SLURM", False, f"{absent[0]} is not here", "run on a login node, or load SLURM's module")]
    done = _asked("sinfo", "--version")
    pinged = _asked("scontrol", "ping")
    ok = done.returncode == pinged.returncode == 0
    said = done.stdout.strip() if ok else " ".join((done.stderr + pinged.stdout + pinged.stderr).split())
    return [finding("SLURM", ok, said, "ask those who run it: its controller does not answer")]


def partitions(name: str | None) -> list[list[str]]:
    """[name, state, time limit, gres] of a partition, or of all; a default one has a star."""
    asked = _asked("sinfo", "--noheader", *([f"--partition={name}"] if name else []), "--format=%P|%a|%l|%G")
    return [line.split("|") for line in asked.stdout.splitlines() if line.count("|") == 3]


def partition(site: Site, rows: Sequence[Sequence[str]]) -> Json:
    """Whether the site's partition is there, up, long enough, and has GPUs where they are asked for."""
    rows = [r for r in rows if site.partition or r[0].endswith("*")]
    if not rows:
        wanted = site.partition or "by default"
        return finding("partition", False, f"there is no partition {wanted}", "sinfo shows them: site.partition")
    name, state, limit = rows[0][0].rstrip("*"), rows[0][1], rows[0][2]
    if state != "up":
        return finding("partition", False, f"{name} is {state}", "wait, or name another: site.partition")
    if limit != "infinite" and walltime_s(limit) < site.walltime_s:
        return finding(
            "partition", False, f"{name} allows {limit}, the site asks for {site.walltime}", f"site.walltime: '{limit}'"
        )
    if site.gpus and not any("gpu" in r[3] for r in rows):
        return finding("partition", False, f"{name} has no GPUs", "gpus: 0, or name another: site.partition")
    return finding("partition", True, f"{name} is up, limit {limit}")


def interface(name: str) -> Json:
    """Whether this host has the network that the driver is to listen on."""
    there = sorted(p.name for p in NETWORKS.glob("*"))
    if name in there:
        return finding("interface", True, name)
    return finding("interface", False, f"no {name}, but {', '.join(there)}", "name one of these: site.interface")


def job(site: Site, totals: Mapping[str, int]) -> list[Json]:
    """A slab's time and memory against what one worker job is given."""
    if not totals["slabs"]:
        return []
    seconds = LANES * totals["seconds"] / totals["slabs"]  # those in hand, one behind the other
    room = site.walltime_s - LEAVE_S
    least, most = totals["least_memory_bytes"], totals["peak_memory_bytes"]
    given = memory_bytes(site.memory) // site.workers_per_job
    return [
        finding(
            "walltime",
            2 * seconds < room,
            f"{site.walltime}; {LANES} slabs take about {seconds:.0f} s on a CPU",
            "a longer site.walltime, or smaller slabs: site.slab_px. Else most of what is begun is never ended",
        ),
        finding(
            "memory of a worker",
            least < given,
            f"{given / 2**30:.1f} GiB; one slab takes {least / 2**30:.1f}, {LANES} at once {most / 2**30:.1f} GiB",
            "more site.memory, or smaller slabs: site.slab_px",
        ),
    ]


def _asked(*command: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as e:
        return subprocess.CompletedProcess(command, 127, "", str(e))
