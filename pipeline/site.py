"""Site: everything that cannot change a voxel: where slabs are worked on, by how many, and how big they are.

    local      processes on this host
    cuda       one process a GPU of this host (dask-cuda); where there is none: local, and says so
    slurm      jobs that the run submits, replaces when they are lost, and cancels at its end (dask-jobqueue)
    scheduler  a dask scheduler that is there already, with whatever workers come to it
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

Kind = Literal["local", "cuda", "slurm", "scheduler"]
SLURM_KEYS = (
    "partition", "account", "qos", "walltime", "memory", "cores", "gpus", "directives", "setup", "interface", "folder",
    "local_directory", "death_timeout_s", "driver_partition",
)  # fmt: skip
SCHEDULER_KEYS = ("address", "scheduler_file", "tls")
ELSEWHERE = (*SLURM_KEYS, *SCHEDULER_KEYS, "kind", "name", "workers", "threads", "patience_s")  # say nothing elsewhere
SIXTY = "[0-5]?[0-9]"
# minutes, m:s, h:m:s, d-h, d-h:m, d-h:m:s. SLURM would carry 99 seconds over, but whoever writes them is mistaken.
WALLTIME = re.compile(rf"[0-9]+|[0-9]+:{SIXTY}|[0-9]+:{SIXTY}:{SIXTY}|[0-9]+-(2[0-3]|[01]?[0-9])(:{SIXTY}){{0,2}}")
ALONE_S = {"local": 60.0, "cuda": 60.0}  # a nanny gives up on a worker that dies again and again
QUEUED_S = 86400.0  # a job may wait that long in a queue


class Budgets(BaseModel):
    """How often a slab is tried, by what went wrong; then it is given up, and the run goes on without it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    transient: int = Field(8, ge=1, description="disk, network, server: waits of 1 s, 2 s, … a minute between")
    lost: int = Field(5, ge=1, description="the slab came back because workers died under it, four each time")
    memory: int = Field(3, ge=1, description="did not fit into memory")
    error: int = Field(3, ge=1, description="anything else; two workers on which it fails alike end it sooner")


class Site(BaseModel):
    """What zmend.yaml says under `site`, and what a file given with --site holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind = "local"
    workers: int = Field(
        1,
        ge=0,
        le=4096,
        description="worker processes; 0 works in this process, without dask. Left out: 1, or 0 where it takes seconds",
    )
    threads: int | None = Field(None, ge=1, description="CPU threads per worker; default: the cores shared out")
    slab_px: Annotated[int, Field(ge=16)] | Literal["whole"] = Field(
        4096, description="lateral edge of a slab, px, or whole"
    )
    slab_sections: int = Field(8, ge=1, description="most sections of one slab")
    attempts: Budgets = Field(
        default_factory=lambda: Budgets.model_validate({}), description="tries per slab and cause of failure"
    )
    patience_s: float | None = Field(
        None, gt=0, description="without any worker before the run gives up; default: a minute, or a day in a queue"
    )

    # slurm
    partition: str | None = Field(None, description="of the workers; default: SLURM's own")
    driver_partition: str | None = Field(None, description="of the driver, where it is a job too (--render)")
    account: str | None = None
    qos: str | None = None
    walltime: str = Field("04:00:00", description="of one worker job; whoever reaches it leaves and is replaced")
    memory: str = Field("16GB", pattern=r"^\d+ ?[KMGT]i?B?$", description="of one worker job")
    cores: int = Field(4, ge=1, description="CPU cores of one worker job")
    gpus: int = Field(0, ge=0, le=16, description="GPUs of one worker job, a worker each; 0: a worker without one")
    directives: tuple[str, ...] = Field((), description="more #SBATCH lines: ['--constraint=a100']")
    setup: tuple[str, ...] = Field((), description="lines of shell before a worker starts: ['module load cuda']")
    interface: str | None = Field(None, description="network interface of scheduler and workers, as ib0")
    folder: str | None = Field(
        None, description="every node sees it; logs and certificates of jobs. Default: beside the output, OUT.jobs"
    )
    local_directory: str | None = Field(None, description="fast scratch of a node, as /scratch")
    death_timeout_s: int = Field(300, ge=15, description="after which a worker ends that finds no scheduler")

    # scheduler
    address: str | None = Field(None, description="of a dask scheduler: tls://host:8786")
    scheduler_file: str | None = Field(None, description="that a dask scheduler has written, or will")
    tls: str | None = Field(None, description="folder with ca.pem, cert.pem and key.pem")

    name: str | None = Field(None, description="of the jobs; default: made from the output's path")

    @field_validator("directives", "setup", mode="before")
    @classmethod
    def _a_list(cls, lines: Any) -> Any:
        return (lines,) if isinstance(lines, str) else lines

    @field_validator("walltime", mode="before")
    @classmethod
    def _a_time(cls, time: Any) -> Any:
        remedy = "put it in quotes: walltime: '12:00:00', or '2-00:00:00'"
        if not isinstance(time, str):  # YAML reads a bare 12:00:00 as 43200
            raise _unfit("walltime is no time of SLURM's", remedy)
        if not WALLTIME.fullmatch(time):
            raise _unfit("walltime is no time of SLURM's", f"minutes and seconds end at 59; {remedy}")
        if not walltime_s(time):  # SLURM's word for no limit at all, and of that nothing can be foreseen
            raise _unfit("walltime is no time at all", remedy)
        return time

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Site:
        for kind, keys in (("slurm", SLURM_KEYS), ("scheduler", SCHEDULER_KEYS)):
            if self.kind != kind and (idle := [k for k in keys if k in self.model_fields_set]):
                raise _unfit(f"'{idle[0]}' goes with kind: {kind}, and the kind is {self.kind}", f"add 'kind: {kind}'")
        if self.kind != "local" and self.workers == 0:
            raise _unfit("0 workers work in this process, without a cluster", "leave the kind out, or give workers")
        if self.kind == "scheduler" and (self.address is None) == (self.scheduler_file is None):
            raise _unfit("a scheduler has an address or a scheduler_file, one of the two", "address: tls://host:8786")
        return self

    @property
    def jobs(self) -> int:
        """Worker jobs: one holds as many workers as it has GPUs, or one."""
        return math.ceil(self.workers / self.workers_per_job)

    @property
    def workers_per_job(self) -> int:
        """Worker processes of one job."""
        return max(1, self.gpus)

    @property
    def walltime_s(self) -> int:
        """The walltime of one worker job, s."""
        return walltime_s(self.walltime)

    @property
    def alone_s(self) -> float:
        """How long a run waits without any worker, s."""
        return self.patience_s or ALONE_S.get(self.kind, QUEUED_S)


def walltime_s(text: str) -> int:
    """Seconds of a time as SLURM writes it: m, m:s, h:m:s, d-h, d-h:m or d-h:m:s."""
    days, _, rest = text.rpartition("-")
    parts = [int(p) for p in rest.split(":")]
    scale = (3600, 60, 1) if days or len(parts) == 3 else (60, 1)
    return int(days or 0) * 86400 + sum(p * s for p, s in zip(parts, scale, strict=False))


def _unfit(what: str, do: str) -> PydanticCustomError:
    return PydanticCustomError("zmend", "{what}", {"what": what, "do": do})
