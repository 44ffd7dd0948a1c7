"""Kinds of fault that happen to what lies on the disk: a bit flips, a file is cut short or gone, in the store or the source.

Each must be found, by the next run or by verify, and mended by what they advise; what they refuse is put back, as from a
backup. A store that differs though run and verify are content is the one thing that must not be.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from tests.faults.harness import (
    Outcome,
    Stage,
    compared,
    ended,
    finished,
    judged,
    quarantined,
    settled,
    stopped,
    tail,
    visit,
)

Choose = Callable[[Stage, random.Random], tuple[Path, int]]  # a file, and how many slabs may be done again for it


def _some(rng: random.Random, stage: Stage, *patterns: str) -> Path:
    found = [p for pattern in patterns for p in sorted(stage.out.glob(pattern)) if p.is_file()]
    return rng.choice(found)


def chunk(stage: Stage, rng: random.Random) -> tuple[Path, int]:
    """A chunk of the overlay, the labels or the merged volume, touched or not, of any level."""
    arrays = ["zmend/overlay", "labels/synthetic/0", "labels/synthetic/1", "0", "1"]
    array = rng.choice([a for a in arrays if any(p.is_dir() for p in (stage.out / a).iterdir())])
    return _some(rng, stage, f"{array}/c/*/*/*", f"{array}/[0-9]*/*/*"), 1


def record(stage: Stage, rng: random.Random) -> tuple[Path, int]:
    """A record, or a pack of them."""
    return _some(rng, stage, "zmend/records/??/*.json", "zmend/records/packs/*"), len(stage.world.slabs)


def document(stage: Stage, rng: random.Random) -> tuple[Path, int]:
    """Plan, flags, journal, certificate, or what makes groups and arrays."""
    kinds = ("zmend/plans/*", "zmend/flags/*", "zmend/merge.json", "zmend/certificate.json", "*.json", ".zattrs", "*/*/zarr.json",
             "*/*/.zarray", "[01]/.zarray", "[01]/zarr.json", "labels/synthetic/*/.zarray")  # fmt: skip
    found = [k for k in kinds if any(stage.out.glob(k))]
    return _some(rng, stage, rng.choice(found)), 0


def spoil(path: Path, rng: random.Random) -> str:
    """Flip a bit, or cut the file short; its time may stay, as a disk has it, or change, as a user has it. In words."""
    whole, stat, way = path.read_bytes(), path.stat(), rng.choice(["bit", "bit", "cut", "gone"])
    at = rng.randrange(len(whole))
    path.unlink()  # it may be linked
    if way != "gone":
        path.write_bytes(whole[:at] if way == "cut" else whole[:at] + bytes([whole[at] ^ 1 << rng.randrange(8)]) + whole[at + 1 :])
        if rng.random() < 0.5:
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    return f"{way} at {at}"


def begun(stage: Stage, rng: random.Random) -> str:
    """A store that is finished, or whose run was killed somewhere."""
    if rng.random() < 0.5:
        shutil.copytree(stage.world.undisturbed.out, stage.out)
        return "finished"
    point, nth = visit(stage, rng, "record", "merge", "pyramid")
    stage.run(faults=f"{point}=kill@{nth + (point == 'record')}")
    return f"killed at {point} {nth}"


def in_store(choose: Choose) -> Callable[[Stage, random.Random, Outcome], Outcome]:
    """One file of the store is spoiled."""

    def play(stage: Stage, rng: random.Random, outcome: Outcome) -> Outcome:
        state = begun(stage, rng)
        path, limit = choose(stage, rng)
        backup = stage.folder / "backup"
        shutil.copy2(path, backup)
        outcome.struck, outcome.what = True, f"{state}, {path.relative_to(stage.out)}: {spoil(path, rng)}"
        before = stage.restored()
        kept = finished(stage.out)
        outcome.what += f"; {_mended(stage, path, backup)}"
        redone = [slab for slab in stage.restored()[len(before) :] if slab in kept]
        judged(outcome, stage, [*stage.restored()], kept)
        outcome.again += max(0, len(redone) - limit)
        return outcome

    return play


def _mended(stage: Stage, path: Path, backup: Path) -> str:
    """How the damage was found and mended. The store is as it was before, or the harness says what differs."""
    if content(stage):
        if means_the_same(path, backup):
            shutil.copy2(backup, path)
            return "the same voxels in other bytes"
        if f"{path.relative_to(stage.out)} is not what the last run left; if nobody meant that, stop" not in stage.said.read_text():
            return "mended by the next run"
        shutil.copy2(backup, path)  # a document that says the same in other bytes: told, and not made anew
        return "told by the next run, and put back" if content(stage) else f"not mended: {tail(stage)}"
    if redo(stage):
        return "found, and mended with --redo"
    if not path.is_dir():
        path.unlink(missing_ok=True)
        if content(stage) or redo(stage):
            return "found, and mended once it was deleted"
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(backup, path)
    return "refused until it was put back" if content(stage) else f"not mended: {tail(stage)}"


def means_the_same(path: Path, backup: Path) -> bool:
    """Whether a chunk is another encoding of the same voxels: zstd has a few bits that no reader looks at, and what a
    chunk holds beyond the edge of the volume is nobody's."""
    array = next((p for p in path.parents if (p / "zarr.json").exists() or (p / ".zarray").exists()), path)
    if not path.exists() or path.read_bytes() == backup.read_bytes():
        return False
    rotten = path.read_bytes()
    try:
        found = zarr.open_array(array, mode="r")[:]
        shutil.copy2(backup, path)
        return bool(np.array_equal(found, zarr.open_array(array, mode="r")[:]))
    except Exception:  # no array, or not to be decoded
        return False
    finally:
        path.write_bytes(rotten)


def content(stage: Stage) -> bool:
    """Whether a run, and verify after it, find nothing wrong any more."""
    return stage.run() == 0 and stage.run("verify", str(stage.out), "--json") == 0


def redo(stage: Stage) -> bool:
    """Do again what verify names; whether all is well then."""
    said = stage.said.stat().st_size
    stage.run("verify", str(stage.out), "--json")
    named = set(re.findall(r"slab ([0-9a-f]{32})", stage.said.read_text()[said:])) & finished(stage.out)
    if not named:
        return False
    asked = [part for slab in sorted(named) for part in ("--redo", slab)]
    return stage.run("run", str(stage.config), "--json", *asked) == 0 and content(stage)


@contextmanager
def lent(path: Path) -> Iterator[None]:
    """A file of the source that may be spoiled: afterwards it is as it was, its time included."""
    whole, stat = path.read_bytes(), path.stat()
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        path.write_bytes(whole)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def in_source(stage: Stage, rng: random.Random, outcome: Outcome) -> Outcome:
    """A chunk of the source, or of a mask, is spoiled or missing for the length of a run."""
    state = begun(stage, rng)
    chunks = sorted(p for name in ("raw.zarr", "mask.zarr") for p in (stage.world.folder / name).rglob("*") if p.is_file() and p.name[0].isdigit())
    path = rng.choice(chunks)
    with lent(path):
        outcome.struck, outcome.what = True, f"{state}, {path.relative_to(stage.world.folder)}: {spoil(path, rng)}"
        code = stage.run()
        if code not in (0, 3, 4):
            outcome.wrong.append(f"exit code {code}: {tail(stage)}")
    if not (content(stage) or redo(stage)):
        # found, and its copy in the merged volume is not told from a good one by size and time: it is deleted
        merged = stage.out.joinpath(path.relative_to(stage.source).as_posix()[1:])
        merged.unlink(missing_ok=True)
        if not (content(stage) or redo(stage)):
            outcome.wrong.append(f"not mended: {tail(stage)}")
    outcome.slabs = len(stage.world.slabs)
    outcome.wrong += compared(stage)
    return outcome


def in_weights(stage: Stage, rng: random.Random, outcome: Outcome) -> Outcome:
    """The weights rot before a run goes on, or in its midst: it is refused in words, and nothing is made of them."""
    path = stage.world.folder / "heavy.safetensors"
    if rng.random() < 0.5:
        state = begun(stage, rng)
        before = _files(stage.out)
        with lent(path):
            outcome.what, outcome.struck = f"{state}, weights: {spoil(path, rng)}", True
            code = stage.run()
        if code != 3 or "the weights are refused" not in tail(stage):
            outcome.wrong.append(f"exit code {code}: {tail(stage)}")
        if _files(stage.out) != before:
            outcome.wrong.append("a run that was refused changed the store")
        return settled(outcome, stage)
    point, nth = rng.choice([("attrs", 1), visit(stage, rng)])
    process = stage.start(faults=f"{point}=stop@{nth}")
    outcome.struck = stopped(process)
    with lent(path):
        outcome.what = f"stopped at {point} {nth}, weights: {spoil(path, rng)}"
        code = _woken(process)
    if code not in (0, 7) or (code == 7 and "the weights are refused" not in stage.said.read_text()):
        outcome.wrong.append(f"exit code {code}: {tail(stage)}")
    return settled(outcome, stage)


def in_mid_run(stage: Stage, rng: random.Random, outcome: Outcome) -> Outcome:
    """Plan or flags rot in the store while a run is under way: the next run, or verify, finds and mends it."""
    point, nth = visit(stage, rng, "read", "write", "record", "merge", "pyramid")
    process = stage.start(faults=f"{point}=stop@{nth}")
    outcome.struck = stopped(process)
    path, backup = _some(rng, stage, "zmend/plans/*", "zmend/flags/*"), stage.folder / "backup"
    shutil.copy2(path, backup)
    outcome.what = f"stopped at {point} {nth}, {path.relative_to(stage.out)}: {spoil(path, rng)}"
    code = _woken(process)
    if code not in (0, 3):
        outcome.wrong.append(f"exit code {code}: {tail(stage)}")
    before, kept = stage.restored(), finished(stage.out)
    outcome.what += f"; {_mended(stage, path, backup)}"
    return judged(outcome, stage, before, kept)


def _woken(process: Any) -> int:
    if process.is_alive():
        os.kill(process.pid, signal.SIGCONT)
    return ended(process)


def _files(out: Path) -> dict[str, bytes]:
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}


def behind_a_link(stage: Stage, rng: random.Random, outcome: Outcome) -> Outcome:
    """A chunk of the source rots in place, and with it the merged volume, which shares it: verify finds it. The source
    is brought back from a copy, and `zmend merge --anew` brings it over."""
    stage.settle()
    shared = [p for p in sorted(stage.source.rglob("*")) if p.is_file() and _linked(stage, p)]
    path, rotten, backup = rng.choice(shared), stage.folder / "rotten", stage.folder / "backup"
    shutil.copy2(path, backup)
    os.link(path, rotten)
    try:
        _in_place(rotten, backup.read_bytes()[: rng.randrange(8)], backup)  # whatever reads it, sees it
        outcome.struck, outcome.what = True, f"{path.relative_to(stage.source)} cut short in place"
        if (code := stage.run("verify", str(stage.out), "--json")) != 5:
            outcome.wrong.append(f"verify of a rotten source: {code}: {tail(stage)}")
        shutil.copy2(backup, path.with_name("fresh"))
        path.with_name("fresh").replace(path)
        code = stage.run("verify", str(stage.out), "--json")
        if code != 5 or "zmend merge STORE --anew" not in stage.said.read_text():
            outcome.wrong.append(f"verify of a rotten copy: {code}: {tail(stage)}")
        codes = [stage.run("merge", str(stage.out), *how) for how in ([], ["--anew"])]
        if codes != [0, 0] or not content(stage):
            outcome.wrong.append(f"not mended: {codes}: {tail(stage)}")
    finally:
        _in_place(rotten, backup.read_bytes(), backup)  # other stages share it too
        rotten.replace(path)
    outcome.slabs = len(stage.world.slabs)
    outcome.wrong += compared(stage)
    return outcome


def _linked(stage: Stage, path: Path) -> bool:
    mine = stage.out / path.relative_to(stage.source).as_posix()[1:]  # levels are called s0, s1 there
    return mine.exists() and mine.samefile(path)


def _in_place(path: Path, body: bytes, like: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(0)
        file.write(body)
    os.utime(path, ns=(like.stat().st_atime_ns, like.stat().st_mtime_ns))


def in_mood(stage: Stage, rng: random.Random, outcome: Outcome) -> Outcome:
    """The restorer returns what is no tissue, or fails, at one section: its slabs are left, and said so."""
    from tests.faults.toys import MOOD, MOODS

    z = rng.choice([2, 5])
    outcome.what, outcome.struck = f"{rng.choice(MOODS)}:{z}", True
    code = stage.run(**{MOOD: outcome.what})
    if code != 4 or not quarantined(stage.out):
        outcome.wrong.append(f"exit code {code}, {len(quarantined(stage.out))} quarantined: {tail(stage)}")
    if (verified := stage.run("verify", str(stage.out), "--json")) != 0:
        outcome.wrong.append(f"verify: {verified}: {tail(stage)}")
    return settled(outcome, stage)


