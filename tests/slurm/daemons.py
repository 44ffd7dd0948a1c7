"""A real SLURM on this one host: munged, slurmctld and three slurmd that pretend to be nodes with GPUs. Root, no systemd.

Everything lies in one folder and is reached through SLURM_CONF: a SLURM that this host may belong to is left alone.
Partitions: `normal`; `low`, whose jobs are requeued for jobs in `high`.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

NEEDED = ("munged", "mungekey", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol")
NODES, CPUS, MEMORY_MB, GPUS = 3, 4, 6000, 2

CONF = """\
ClusterName=zmendtest
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
# cred_expire is also how long a requeued job waits before it may start again: 120 s unless told otherwise
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdSpoolDir={folder}/spool-%n
# no cgroups, no accounting
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
# what the nodes have is what this file says, whatever the host has
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
# quick, for tests
SchedulerParameters=batch_sched_delay=0,bf_interval=2,sched_interval=2,sched_min_interval=0
KillWait=5
CompleteWait=0
SlurmdTimeout=10
ReturnToService=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=normal Nodes=ALL Default=YES MaxTime=1-0 DefaultTime=10 PriorityTier=10 PreemptMode=OFF
PartitionName=low Nodes=ALL MaxTime=1-0 DefaultTime=10 PriorityTier=1 PreemptMode=REQUEUE GraceTime=5
PartitionName=high Nodes=ALL MaxTime=1-0 DefaultTime=10 PriorityTier=100 PreemptMode=OFF
"""


def missing() -> str:
    """Why no SLURM can be started here; empty where one can."""
    if os.geteuid() != 0:
        return "only root can start SLURM's daemons"
    absent = [name for name in NEEDED if shutil.which(name) is None]
    return f"{absent[0]} is not installed (apt-get install slurm-wlm munge)" if absent else ""


class Slurm:
    """The daemons, for the length of a `with`; SLURM_CONF points to them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.before = folder, os.environ.get("SLURM_CONF")

    def __enter__(self) -> Slurm:
        for part in ("munge", "state", "gpu"):
            (self.folder / part).mkdir(parents=True)
        (self.folder / "munge").chmod(0o711)
        self._configure()
        os.environ["SLURM_CONF"] = str(self.folder / "slurm.conf")
        munge = self.folder / "munge"
        _run("mungekey", "--create", f"--keyfile={munge}/key")
        _run("munged", f"--socket={munge}/socket", f"--key-file={munge}/key", f"--pid-file={self.folder}/munged.pid",
             f"--seed-file={munge}/seed", f"--log-file={munge}/log", "--force")  # fmt: skip
        _run("slurmctld", "-c")
        for i in range(NODES):
            self.start_node(f"n{i}")
        self._until(lambda: self.state().count("idle") == NODES, "the nodes do not come up")
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["scancel", "--full", "--signal=KILL", "-u", "root"], check=False, capture_output=True)
        subprocess.run(["scancel", "-u", "root"], check=False, capture_output=True)
        self._until(lambda: not queue(), "jobs do not end", 20)
        for pid in self.folder.glob("*.pid"):
            self._kill(pid, signal.SIGTERM)
        self._until(lambda: not any(_alive(p) for p in self.folder.glob("*.pid")), "daemons do not end", 20)
        os.environ.pop("SLURM_CONF")
        os.environ.update({"SLURM_CONF": self.before} if self.before else {})

    def start_node(self, name: str) -> None:
        _run("slurmd", "-N", name)

    def kill_node(self, name: str) -> None:
        """SIGKILL: the daemon alone; what it has started lives on."""
        self._kill(self.folder / f"slurmd-{name}.pid", signal.SIGKILL)

    def state(self) -> list[str]:
        """One word a node: idle, mixed, allocated, down."""
        found = subprocess.run(["sinfo", "-h", "-N", "-p", "normal", "-o", "%T"], capture_output=True, text=True, check=False)
        return [word.strip("*") for word in found.stdout.split()]

    def _configure(self) -> None:
        port = _free_ports()
        text = CONF.format(host=socket.gethostname().partition(".")[0], port=port, folder=self.folder)
        for i in range(NODES):
            text += (f"NodeName=n{i} NodeHostname=n{i} NodeAddr=127.0.0.1 Port={port + 1 + i} CPUs={CPUS} "
                     f"RealMemory={MEMORY_MB} Gres=gpu:fake:{GPUS} State=UNKNOWN\n")  # fmt: skip
        (self.folder / "slurm.conf").write_text(text)
        for i in range(GPUS):  # slurmd wants devices whose names end in digits
            (self.folder / f"gpu/fake{i}").symlink_to("/dev/null")
        (self.folder / "gres.conf").write_text(f"Name=gpu Type=fake File={self.folder}/gpu/fake[0-{GPUS - 1}]\n")

    def _until(self, ready, what: str, seconds: float = 30) -> None:
        end = time.monotonic() + seconds
        while not ready():
            if time.monotonic() > end:
                logs = "\n".join(f"{p.name}: {p.read_text()[-800:]}" for p in self.folder.glob("*.log"))
                raise RuntimeError(f"{what}\n{logs}")
            time.sleep(0.1)

    def _kill(self, pid: Path, number: int) -> None:
        if _alive(pid):
            os.kill(int(pid.read_text()), number)


def queue() -> list[str]:
    """Ids of all jobs that wait, run or end."""
    found = subprocess.run(["squeue", "-h", "-o", "%A"], capture_output=True, text=True, check=False)
    return found.stdout.split()


def _alive(pid: Path) -> bool:
    try:
        return (Path("/proc") / pid.read_text().strip() / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"


def _free_ports() -> int:
    """The first of NODES + 1 ports that are free now, below the range that the system hands out."""
    for first in random.sample(range(20000, 32000, 10), 100):  # of two that start at once, each has its own
        try:
            for port in range(first, first + NODES + 1):
                with socket.socket() as s:
                    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    s.bind(("", port))
        except OSError:
            continue
        return first
    raise RuntimeError("no free ports")
