"""Harness: a small job, a fault, the same command again until it ends well, and the comparison with an undisturbed run.

World    a damaged volume, its configuration, and what an undisturbed run of it leaves
Stage    one output of a world, on which one fault is played
Outcome  what came of it
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pipeline.failpoint import ENV, MARKS, POINTS, SEED
from pipeline.flagfile import dump
from pipeline.ledger import Ledger
from tests.faults import child
from tests.faults.power import swap
from tests.jobs import save
from tests.stores import kind, write_volume
from tests.toys import weigh

TURNS = 6  # runs after a fault; who needs more never ends
PATIENCE_S = 300.0
RUN = ("run", "plan", "seconds", "digest")  # of a record: its history, not the slab
BASE: dict[str, Any] = {"pipeline.attempts.BASE_S": 0.002}  # what passes, passes at once here


@dataclass(frozen=True)
class World:
    """A job without an output. Parts go into its configuration, patches into its processes."""

    folder: Path
    name: str
    parts: Mapping[str, Any] = field(default_factory=dict)
    patches: Mapping[str, Any] = field(default_factory=dict)
    zarr_format: int = 3

    def make(self) -> World:
        """Write volume, mask and flags, and let a run pass undisturbed."""
        self.folder.mkdir(parents=True)
        rng = np.random.default_rng(5)
        fine = (rng.random((9, 64, 96)) * 60 + 60).astype(np.uint8)
        fine[5] = 0
        layout = kind("ome05" if self.zarr_format == 3 else "ome04")
        write_volume(self.folder / "raw.zarr", layout, [fine, fine[:, ::2, ::2].copy()], steps=[(1, 2, 2)], chunks=(4, 32, 32))
        mask = np.zeros(fine.shape, np.uint8)
        mask[2, 20:60, 10:50] = 1
        save(self.folder / "mask.zarr", mask, (1, 64, 96))
        weigh(self.folder / "heavy.safetensors")
        rows = [{"z_start": 5, "z_stop": 6, "class": "missing"}, {"z_start": 2, "z_stop": 3, "class": "crack", "mask": "mask.zarr"}]
        (self.folder / "flags.csv").write_text(dump(rows))
        assert self.undisturbed.settle() == [0], self.undisturbed.said.read_text()
        return self

    @cached_property
    def undisturbed(self) -> Stage:
        return Stage(self, "undisturbed", note=",".join(f"{p}=note@*" for p in POINTS))

    @cached_property
    def wanted(self) -> dict[str, str]:
        """What the undisturbed run left."""
        return contents(self.undisturbed.out)

    @cached_property
    def visits(self) -> Counter[str]:
        """How often the undisturbed run came by each point."""
        return Counter(point for point, *_ in self.undisturbed.notes)

    @cached_property
    def slabs(self) -> set[str]:
        return finished(self.undisturbed.out)

    def config(self, out: Path, **parts: Any) -> Path:
        body: dict[str, Any] = {
            "volume": {"path": str(self.folder / "raw.zarr")},
            "flags": str(self.folder / "flags.csv"),
            "output": {"path": str(out), "chunk_px": 32},
            "recipe": {"restorer": "tests.faults.toys:Heavy", "weights": str(self.folder / "heavy.safetensors")},
            "site": {"workers": 0, "slab_px": 32},
            "certificate": 0,
        }
        for key, value in {**self.parts, **parts}.items():
            body[key] = {**body[key], **value} if isinstance(value, dict) else value
        path = out.parents[1] / "zmend.yaml"
        path.write_text(yaml.safe_dump(body))
        return path


class Stage:
    """One output: out.zarr in a folder of its own, and what the processes that worked on it noted and said."""

    def __init__(self, world: World, name: str, note: str = "restore=note@*") -> None:
        self.world, self.note = world, note
        self.folder = world.folder / name
        (self.folder / "disk").mkdir(parents=True)
        (self.folder / "marks").mkdir()
        self.out, self.said = self.folder / "disk/out.zarr", self.folder / "said"
        self.config = world.config(self.out)
        self.took_s = 0.0  # of `settle`
        self.patches: dict[str, Any] = {}  # of its processes, besides the world's
        self.source = world.folder / "raw.zarr"

    def start(self, *args: str, faults: str = "", seed: int = 0, power: int | None = None, **env: str) -> Any:
        """Begin a command; `zmend run` where nothing is said."""
        asked = ",".join(filter(None, (faults, self.note)))
        env = {ENV: asked, SEED: str(seed), MARKS: str(self.folder / "marks"), **env}
        cut = None if power is None else (self.folder / "disk", power)
        return child.start(args or ("run", str(self.config), "--json"), self.said, env, {**BASE, **self.world.patches, **self.patches}, cut)

    def run(self, *args: str, **how: Any) -> int:
        """The exit code of a command; a signal is negative."""
        code = ended(self.start(*args, **how))
        if (self.folder / "left").exists():
            swap(self.folder / "disk", self.folder / "left")
        return code

    def settle(self) -> list[int]:
        """Run until all is well; the exit codes."""
        codes: list[int] = []
        began = time.monotonic()
        while (not codes or codes[-1]) and len(codes) < TURNS:
            redo = [part for slab in sorted(poisoned(self.out)) for part in ("--redo", slab)] if codes[-1:] == [4] else []
            codes.append(self.run("run", str(self.config), "--json", *redo))
        self.took_s = time.monotonic() - began
        return codes

    @property
    def notes(self) -> list[list[str]]:
        """point, deed, process, about of whatever a process came by."""
        path = self.folder / "marks/notes"
        return [line.split(" ", 3) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def struck(self) -> int:
        """How many deeds were done so far."""
        return sum(deed != "note" for _, deed, *_ in self.notes)

    def restored(self) -> list[str]:
        """The slabs that were restored so far, each as often as it was."""
        return [about for point, deed, _, about in self.notes if (point, deed) == ("restore", "note")]

    def remove(self) -> None:
        shutil.rmtree(self.folder)


def visit(stage: Stage, rng: random.Random, *points: str) -> tuple[str, int]:
    """One of the points, and one of the times that an undisturbed run comes by it."""
    visits = stage.world.visits
    point = rng.choice([p for p in points or sorted(visits) if visits[p]])
    return point, rng.randint(1, visits[point])


@dataclass
class Outcome:
    """What came of one fault."""

    kind: str
    seed: int
    what: str = ""  # the fault, in words
    struck: bool = False  # whether it happened: a kill may come too late
    wrong: list[str] = field(default_factory=list)  # what is not as it must be; nothing: the store is the undisturbed one
    slabs: int = 0
    again: int = 0  # finished slabs that were restored again, though nothing had damaged them
    in_hand: int = 0  # slabs that were restored again, for they had no record yet
    took_s: float = 0.0  # the fault and what followed


def ended(process: Any) -> int:
    """Wait for a process; its exit code. One that does not end in time is killed, with all of its group."""
    process.join(PATIENCE_S)
    if process.exitcode is None:
        strike(process, signal.SIGKILL)
        process.join()
        return -99
    return int(process.exitcode)


def strike(process: Any, number: int) -> None:
    """A signal to a process and all of its group; one that has just begun has none yet, one that has ended is no more."""
    for send in (os.killpg, os.kill):
        with suppress(ProcessLookupError):
            send(process.pid, number)
            return


def stopped(process: Any) -> bool:
    """Whether the process has been stopped; waits until it is, or has ended."""
    until = time.monotonic() + PATIENCE_S
    while process.exitcode is None and time.monotonic() < until:
        try:
            state = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return False
        if state == "T":
            return True
        time.sleep(0.005)
    return False


def finished(out: Path) -> set[str]:
    """The slabs that have a record."""
    return Ledger(str(out)).ids() if out.exists() else set()


def quarantined(out: Path) -> set[str]:
    """The slabs that were left as they were."""
    records = Ledger(str(out)).records() if out.exists() else ()
    return {slab for slab, record in records if record is not None and record["quarantined"]}


def poisoned(out: Path) -> set[str]:
    """Those of them that wait for --redo; what failed for what may pass, the next run tries again by itself."""
    return {slab for slab, record in Ledger(str(out)).records() if record and record["quarantined"] and not record.get("may_pass")}


def contents(out: Path) -> dict[str, str]:
    """sha256 of all that a run decides: every chunk, document and record, by place; no times, no history."""
    found: dict[str, str] = {}
    for path in sorted(p for p in out.rglob("*") if not p.is_dir()):
        name, body = path.relative_to(out).as_posix(), path.read_bytes()
        if name.startswith(("zmend/runs/", "zmend/plans/", "zmend/records/", "zmend/kept/")):
            continue  # history, or told apart below
        if name == "zmend/merge.json":
            body = _merged(body)
        if name == "zmend/seal.json":  # of merge.json it tells the times
            body = json.dumps(sorted(json.loads(body)["documents"])).encode()
        if path.suffix == ".json" or name.endswith(".zattrs"):
            body = json.dumps(json.loads(body), sort_keys=True).encode()  # keys stand in the order in which they came
        found[name] = hashlib.sha256(body).hexdigest()
    head = json.loads((out / ("zarr.json" if (out / "zarr.json").exists() else ".zattrs")).read_bytes())
    plan = head.get("attributes", head)["zmend"].get("head", "none")
    found["the plan in force"] = hashlib.sha256((out / f"zmend/plans/{plan}.json").read_bytes()).hexdigest()
    for slab, record in Ledger(str(out)).records():
        said = {k: v for k, v in (record or {}).items() if k not in RUN}
        found[f"record of {slab}"] = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
    return found


def _merged(body: bytes) -> bytes:
    """Which chunks a merge touched, and of which source; the rest are sizes and times."""
    said = json.loads(body)
    return json.dumps([said["source_manifest"], {k: sorted(v) for k, v in said["touched"].items()}]).encode()


def unlike(found: Mapping[str, str], wanted: Mapping[str, str]) -> list[str]:
    """What differs between two stores."""
    return [f"{name} differs" if name in found and name in wanted else f"{name} is {'missing' if name in wanted else 'too much'}"
            for name in sorted({*found, *wanted}) if found.get(name) != wanted.get(name)]  # fmt: skip


def leftovers(stage: Stage) -> list[str]:
    """Half-made files that nobody would ever remove."""
    return [f"{p.relative_to(stage.folder)} is left over" for p in (stage.folder / "disk").rglob("*.partial*")]


def compared(stage: Stage) -> list[str]:
    """What is wrong with a stage's store."""
    return unlike(contents(stage.out), stage.world.wanted) + leftovers(stage)


def judged(outcome: Outcome, stage: Stage, before: Sequence[str], kept: set[str], left: Set[str] = frozenset()) -> Outcome:
    """Count the work that was done twice, and compare. before: what was restored when the fault was over; kept: the
    slabs that had a good record then; left: those that were left as they were."""
    after = stage.restored()[len(before) :]
    outcome.slabs = len(stage.world.slabs)
    outcome.again += sum(slab in kept for slab in after)
    outcome.in_hand += sum(slab in set(before) - kept - left for slab in after)
    outcome.wrong += compared(stage)
    return outcome


def settled(outcome: Outcome, stage: Stage) -> Outcome:
    """What a user does after a fault: the same command again, to its end; then the verdict."""
    before, left = stage.restored(), quarantined(stage.out)
    kept = finished(stage.out) - left
    codes = stage.settle()
    if codes not in ([0], [4, 0]):
        outcome.wrong.append(f"the next runs ended with {codes}: {tail(stage)}")
        return outcome
    return judged(outcome, stage, before, kept, left)


def tail(stage: Stage) -> str:
    """The last words of the last command."""
    return " | ".join(stage.said.read_text().splitlines()[-6:]) if stage.said.exists() else ""
