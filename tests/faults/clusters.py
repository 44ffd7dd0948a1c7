"""Kinds of fault that need a driver, a scheduler and workers in processes of their own: slower, and fewer."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from pipeline.cluster import DASK_YAML
from pipeline.failpoint import ENV, MARKS, SEED
from tests.faults.buckets import s3_errors
from tests.faults.harness import Outcome, Stage, compared, finished, settled, tail
from tests.faults.rivals import THREADS, tree
from tests.s3.conftest import there

ROOT = Path(__file__).parents[2]
WORKERS = 2
PATIENCE_S = 240.0
LATER_S = 90.0  # for orphans to end


def begin(stage: Stage, *, faults: str = "", seed: int = 0, before: tuple[str, ...] = (), site: dict[str, object] | None = None, code: str = "", **env: str) -> subprocess.Popen[bytes]:
    """`zmend run` with workers, as people start it, in a group of its own. before: a command that it is given to. code: run first."""
    config = stage.world.config(stage.out, site={"workers": WORKERS, "slab_px": 32, **(site or {})})
    there = config.rename(stage.folder / "workers.yaml")
    stage.world.config(stage.out)  # what is run afterwards has no workers
    asked = {ENV: ",".join(filter(None, (faults, stage.note))), SEED: str(seed), MARKS: str(stage.folder / "marks"), "PYTHONPATH": str(ROOT)}
    words = [*before, sys.executable, *(["-c", f"{code}; from pipeline.cli import main; main()"] if code else ["-m", "pipeline"]), "run", str(there), "--json"]
    with stage.said.open("ab") as said:
        return subprocess.Popen(words, cwd=stage.folder, env={**os.environ, **asked, **env}, stdout=said, stderr=said, start_new_session=True)


def over(process: subprocess.Popen[bytes]) -> int:
    """Its exit code; one that hangs is killed with its group."""
    try:
        return process.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return -99


def group(leader: int) -> list[int]:
    """Living processes of a group."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[2] == str(leader) and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


def until(ready: Callable[[], object], seconds: float = PATIENCE_S) -> bool:
    end = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def spot(stage: Stage, rng: random.Random) -> str:
    """A place in a worker's work: each worker has about half of the slabs."""
    point = rng.choice(["read", "restore", "record", "write", "readback"])
    merged_too = point in ("write", "readback")  # by the driver, when all slabs are done
    return f"{point}={{}}@{1 if merged_too else rng.randint(1, len(stage.world.slabs) // 4)}"


def went(stage: Stage, outcome: Outcome, code: int, codes: set[int]) -> Outcome:
    """The run with workers has ended: well, or as it may; the next, if need be, mends it."""
    outcome.struck = outcome.struck or stage.struck > 0
    if code not in codes:
        outcome.wrong.append(f"exit code {code}: {tail(stage)}")
    return settled(outcome, stage)


def worker_is(deed: str, codes: set[int]) -> Callable[[Stage, random.Random, Outcome], Outcome]:
    """A worker dies, or is out of memory; the others, and the one that replaces it, do its slabs."""

    def play(stage: Stage, rng: random.Random, outcome: Outcome) -> Outcome:
        # each process meets memory's end at its fourth slab: at its first, nobody would ever do any
        outcome.what = spot(stage, rng).format(deed) if deed == "kill" else f"{rng.choice(['read', 'restore', 'record'])}=memory@4"
        return went(stage, outcome, over(begin(stage, faults=outcome.what)), codes)

    return play


def driver_killed(stage: Stage, rng: random.Random, outcome: Outcome) -> Outcome:
    """The driver, with the scheduler in it, is killed; its workers end by themselves."""
    wanted = rng.randrange(len(stage.world.slabs))
    outcome.what = f"driver killed after {wanted} slabs"
    process = begin(stage)
    until(lambda: len(finished(stage.out)) >= wanted or process.poll() is not None)
    time.sleep(rng.random() * 0.2)
    outcome.struck = process.poll() is None
    process.kill()
    process.wait()
    settled(outcome, stage)
    if not until(lambda: not group(process.pid), LATER_S):
        outcome.wrong.append(f"orphans live on: {group(process.pid)}")
    outcome.wrong += compared(stage)
    return outcome


def zombie_worker(stage: Stage, rng: random.Random, outcome: Outcome) -> Outcome:
    """A worker is stopped, its driver dies, another run ends the work; then the worker wakes, and writes nothing."""
    outcome.what = spot(stage, rng).format("stop")
    process = begin(stage, faults=outcome.what)
    until(lambda: stage.struck or process.poll() is not None)
    outcome.struck = process.poll() is None and stage.struck > 0
    process.kill()
    process.wait()
    settled(outcome, stage)
    outcome.wrong = [w for w in outcome.wrong if ".partial" not in w]
    before = tree(stage.out)
    for pid in group(process.pid):
        os.kill(pid, signal.SIGCONT)
    if not until(lambda: not group(process.pid), LATER_S):
        outcome.wrong.append(f"orphans live on: {group(process.pid)}")
    landed = [name for name, what in tree(stage.out).items() if before.get(name) != what]
    outcome.what += f", wrote {landed}"
    if len(landed) > THREADS:
        outcome.wrong.append(f"the zombie wrote {landed}")
    return settled(outcome, stage)


def worker_sleeps(stage: Stage, rng: random.Random, outcome: Outcome) -> Outcome:
    """A worker is stopped for a while, as by a debugger or a laptop's lid, and goes on."""
    outcome.what = spot(stage, rng).format("stop")
    process = begin(stage, faults=outcome.what)
    until(lambda: stage.struck or process.poll() is not None)
    time.sleep(rng.random() * 3)
    for pid in group(process.pid):
        os.kill(pid, signal.SIGCONT)
    return went(stage, outcome, over(process), {0})


def hung_worker(stage: Stage, rng: random.Random, outcome: Outcome) -> Outcome:
    """A worker is stopped for longer than slabs may take: others do its slabs. When all have records it wakes, and
    commits late: what it writes changes nothing."""
    outcome.what = f"{rng.choice(['read', 'restore', 'record'])}=stop@{rng.randint(1, 2)}"
    process = begin(stage, faults=outcome.what, code="import pipeline.pace as p; p.LATE_S, p.ENOUGH = 0.5, 4")
    until(lambda: stage.struck or process.poll() is not None)
    outcome.struck = stage.struck > 0
    if not until(lambda: finished(stage.out) == stage.world.slabs or process.poll() is not None):
        outcome.wrong.append(f"the others did not do its slabs: {tail(stage)}")
    for pid in group(process.pid):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    return went(stage, outcome, over(process), {0})


def scheduler_killed(stage: Stage, rng: random.Random, outcome: Outcome) -> Outcome:
    """A scheduler of its own, with a worker, is killed in the middle: the driver gives up in words."""
    file, env = stage.folder / "scheduler.json", {**os.environ, "DASK_CONFIG": str(DASK_YAML), "PYTHONPATH": str(ROOT)}
    env |= {ENV: stage.note, MARKS: str(stage.folder / "marks")}
    words = ["--scheduler-file", str(file), "--dashboard-address", "127.0.0.1:0"]
    commands = (["dask_scheduler", "--host", "127.0.0.1", "--port", "0"], ["dask_worker", "--no-nanny", "--death-timeout", "20"])
    started = [subprocess.Popen([sys.executable, "-m", f"distributed.cli.{c}", *more, *words], env=env, stderr=subprocess.DEVNULL) for c, *more in commands]
    wanted = rng.randrange(len(stage.world.slabs) - 1)
    outcome.what = f"scheduler killed after {wanted} slabs"
    process = begin(stage, site={"kind": "scheduler", "workers": 1, "scheduler_file": str(file), "patience_s": 5})
    until(lambda: len(finished(stage.out)) >= wanted or process.poll() is not None)
    outcome.struck = process.poll() is None
    started[0].kill()
    code = over(process)
    for one in started:
        one.kill()
        one.wait()
    return went(stage, outcome, code, {0, 7})


def network_cut(stage: Stage, rng: random.Random, outcome: Outcome) -> Outcome:
    """In a network of its own the wire between driver, scheduler and workers is down for a while, once or twice."""
    process = begin(stage, before=("unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$0" "$@"'))
    cuts = [(rng.randrange(len(stage.world.slabs)), rng.uniform(0.2, 4)) for _ in range(rng.randint(1, 2))]
    outcome.what = "; ".join(f"cut for {s:.1f} s after {n} slabs" for n, s in sorted(cuts))
    for wanted, seconds in sorted(cuts):
        until(lambda wanted=wanted: len(finished(stage.out)) >= wanted or process.poll() is not None)
        if process.poll() is None:
            outcome.struck = _wire(process.pid, "down") or outcome.struck
            time.sleep(seconds)
            _wire(process.pid, "up")
    return went(stage, outcome, over(process), {0})


def _wire(pid: int, way: str) -> bool:
    return subprocess.run(["nsenter", "-t", str(pid), "-n", "ip", "link", "set", "lo", way], check=False).returncode == 0


def faked_time(stage: Stage, rng: random.Random, outcome: Outcome) -> Outcome:
    """The clock of the driver and all workers is set, by hours and by years, again and again (libfaketime)."""
    clock = stage.folder / "clock"
    clock.write_text("+0\n")
    fake = {"LD_PRELOAD": str(FAKETIME), "FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1", "NO_FAKE_STAT": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1"}  # fmt: skip
    workers = rng.choice([0, 0, 0, WORKERS])
    process = begin(stage, site={"workers": workers}, **fake)
    while process.poll() is None:
        aside = clock.with_name("clock.new")
        aside.write_text(rng.choice(["+0", "-2h", "+2h", "-1y", "+1y", "-3s"]) + "\n")
        aside.replace(clock)
        outcome.struck = outcome.struck or stage.out.exists()
        time.sleep(0.3)
    outcome.what = f"libfaketime, {workers} workers"
    # dask's own timeouts follow the clock that is set: it may give up. Nothing of ours does.
    return went(stage, outcome, over(process), {0, 7} if workers else {0})


FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")


def _may_cut() -> bool:
    if shutil.which("ip") is None or shutil.which("nsenter") is None:
        return False
    return subprocess.run(["unshare", "--net", "true"], check=False, capture_output=True).returncode == 0


KINDS = {
    "worker killed": worker_is("kill", {0}),
    "worker out of memory": worker_is("memory", {0, 4}),
    "driver killed": driver_killed,
    "zombie worker": zombie_worker,
    "worker sleeps": worker_sleeps,
    "hung worker": hung_worker,
    "scheduler killed": scheduler_killed,
    **({"network cut": network_cut} if _may_cut() else {}),
    **({"S3 errors": s3_errors} if there() else {}),
    **({"clock set": faked_time} if FAKETIME.exists() else {}),
}
