"""The whole command at a million slabs: plan, run, resume, status, verify, with a restorer that does nothing.

Each command is a process of its own, as people start it; its time and the most memory that it took are what `wait4`
tells of it. A slab is one chunk of 16 x 16 voxels, so that what is measured is what a slab costs whatever its size.

To work off a million such slabs takes hours on two cores. So all but the last LEFT of them may be put into the store
beforehand (`filled`): records as packs, made from a real one, and chunks as links to chunks that a real run wrote.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

SIZES = tuple(int(n) for n in os.environ.get("MILLION_SIZES", "10000,100000,1000000").split(","))
COMMANDS = {"plan": "zmend.yaml", "run": "zmend.yaml", "status": "out.zarr", "verify": "out.zarr"}
EDGE, ACROSS = 16, 100  # of a slab, voxels; slabs along y and along x of a section
LEFT = 500  # slabs that are restored for real after a resume
LINKS = 30_000  # names of one file; ext4 allows 65,000


class Ramp:
    """Restores anything to one ramp: as little work as is not refused."""

    def __init__(self, **_: object) -> None:
        self.ramp = np.linspace(0.1, 0.9, EDGE * EDGE, dtype=np.float32).reshape(EDGE, EDGE)

    @property
    def needs(self) -> Mapping[str, object]:
        return {"name": "ramp", "digest": "ramp", "context": 1, "max_gap": 1, "tile": EDGE, "halo": 0}

    def restore(self, window: Any, known: Any, targets: tuple[int, int], origin: Any) -> Any:
        out = window.copy()
        out[:, slice(*targets)] = self.ramp
        return out


def job(folder: Path, slabs: int, workers: int = 1) -> Path:
    """A configuration of so many slabs: every second section of an empty volume is missing."""
    from pipeline.volume import Volume

    sections, rest = divmod(slabs, ACROSS**2)
    assert not rest, f"multiples of {ACROSS**2}"
    edge = EDGE * ACROSS
    Volume.create(folder / "raw.zarr", shape=(2 * sections + 1, edge, edge), dtype=np.uint8, chunks=(1, edge, edge))
    rows = "".join(f"{2 * i + 1},{2 * i + 2},missing\n" for i in range(sections))
    (folder / "flags.csv").write_text("z_start,z_stop,class\n" + rows)
    config = folder / "zmend.yaml"
    config.write_text(
        f"""
volume: {{path: raw.zarr, missing_chunks: background}}
flags: flags.csv
output: {{path: out.zarr, mode: overlay, chunk_px: {EDGE}}}
recipe: {{restorer: "benchmarks.million:Ramp"}}
site: {{workers: {workers}, slab_px: {EDGE}, slab_sections: 1}}
certificate: 0
"""
    )
    return config


def fill(config: Path, left: int) -> None:
    """Make the store, and put every slab into it as if it were done, but for the last ones."""
    from pipeline.config import load
    from pipeline.job import install, make_store, propose
    from pipeline.ledger import Ledger
    from pipeline.lock import StoreLock
    from pipeline.store import update_attrs
    from pipeline.worker import Post, Task

    proposal = propose(load(config))
    plan, out = proposal.plan, proposal.config.output.path
    make_store(proposal)
    with StoreLock(out):
        install(proposal)
        update_attrs(out, zmend={"head": plan.hash, "weights": plan.header["restorer"]["digest"]})
        Task(Post(out, plan.hash), "before")(plan.slabs[0].row())
        ledger = Ledger(out)
        record = ledger.get(plan.slabs[0].id)
        rest = plan.slabs[1 : len(plan.slabs) - left]
        for start in range(0, len(rest), 8192):
            ledger.packs.append(_moved(record, slab) for slab in rest[start : start + 8192])
        for array in ("zmend/overlay", "labels/synthetic/0"):
            _link(Path(out) / array / "c", (slab.write.start for slab in rest))


def _moved(record: dict[str, Any], slab: Any) -> dict[str, Any]:
    """The record of a slab that was restored to what another one was."""
    boxes = {k: [list(getattr(slab, k).start), list(getattr(slab, k).stop)] for k in ("write", "read")}
    chunk = [[*boxes["write"], *record["chunks"][0][2:]]]
    return {**record, "slab": slab.id, **boxes, "chunks": chunk}


def _link(chunks: Path, corners: Iterator[tuple[int, int, int]]) -> None:
    """The first chunk of an array, under the names of others."""
    first = Path(f"{chunks}/1/0/0")
    source, folders = first, set()
    for n, (z, y, x) in enumerate(corners):
        folder = f"{chunks}/{z}/{y // EDGE}"
        if folder not in folders:
            os.makedirs(folder, exist_ok=True)
            folders.add(folder)
        target = f"{folder}/{x // EDGE}"
        if n % LINKS:
            os.link(source, target)
        else:
            Path(target).write_bytes(first.read_bytes())
            source = Path(target)


def _command(verb: str, folder: Path) -> dict[str, Any]:
    """One command's seconds, and the most memory that it, or a worker of it, took."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "pipeline", verb, COMMANDS[verb], "--json"]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    process = subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout
    said = json.loads(process.stdout.read().splitlines()[-1])
    _, status, used = os.wait4(process.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, said
    wall, cpu = time.perf_counter() - began, used.ru_utime + used.ru_stime
    return {"wall_s": round(wall, 1), "cpu_s": round(cpu, 1), "most_mib": round(used.ru_maxrss / 1024)}


def measure() -> list[dict[str, Any]]:
    """Every command at every size."""
    rows = []
    for slabs in SIZES:
        with TemporaryDirectory(prefix="zmend-million-") as folder:
            # In a process of its own: what this one took would be counted as its children's, which start as copies.
            subprocess.run([sys.executable, "-m", "benchmarks.million", folder, str(slabs)], check=True)
            for verb in COMMANDS:
                rows.append({"slabs": slabs, "command": verb, **_command(verb, Path(folder))})
                sys.stderr.write(f"{rows[-1]}\n")
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    head = f"The whole command on stores in which all slabs but {LEFT} are done; `run` does those.\n\n"
    columns = ("wall_s", "cpu_s", "most_mib")
    lines = ["| slabs | command | " + " | ".join(columns) + " |", "|---" * (len(columns) + 2) + "|"]
    lines += [f"| {r['slabs']:,} | {r['command']} | " + " | ".join(str(r[c]) for c in columns) + " |" for r in rows]
    return head + "\n".join(lines) + "\n"


if __name__ == "__main__":
    fill(job(Path(sys.argv[1]), int(sys.argv[2])), LEFT)
