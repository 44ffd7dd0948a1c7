"""The second verifier, written from docs/format.md alone, agrees with `zmend verify`: on good stores and on tampered ones."""

from __future__ import annotations

import ast
import json
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import pipeline.ledger
from pipeline.verify import verify
from tests import golden, independent
from tests.jobs import ENSEMBLE, NM, ROOT, Job, build, put_back
from tests.stores import kind, write_volume

SOURCE = ROOT / "tests/independent.py"


def first_says(out: Path) -> bool:
    return bool(verify(str(out))["ok"])


def second_says(out: Path) -> bool:
    return not independent.verify(str(out))


def test_it_knows_nothing_of_zmend_and_is_short() -> None:
    tree = ast.parse(SOURCE.read_text())
    names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    names |= {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    ours = {"numpy", "zarr", "pyarrow"}
    assert {n for n in names if n.split(".")[0] not in sys.stdlib_module_names} == ours
    assert sum(bool(line.strip()) for line in SOURCE.read_text().splitlines()) <= 250


@pytest.mark.parametrize("name", golden.KINDS)
def test_golden_stores_of_every_version_are_read_and_verified(name: str, tmp_path: Path) -> None:
    out = golden.unpack(name, tmp_path)
    assert independent.verify(str(out)) == []
    found = verify(str(out), level="replay", replay=5)
    assert found["ok"], found["checks"]
    assert found["voxels_synthetic"] > 0 and found["voxels_left"] > 0


def test_golden_stores_are_small_and_name_no_place() -> None:
    for path in golden.HOME.glob("*.zip"):
        assert path.stem in golden.KINDS
        assert path.stat().st_size < 40_000


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A merged store with masks, loose records and packs, and an ensemble's spread."""
    job = build(tmp_path_factory.mktemp("finished"), (12, 140, 140), chunks=(2, 64, 64))
    parts = {"output": {"chunk_px": 64}, "site": {"slab_px": 64}, "recipe": ENSEMBLE, "certificate": 0}
    before, pipeline.ledger.PACK_AT = pipeline.ledger.PACK_AT, 1
    try:
        job.run(**parts)
    finally:
        pipeline.ledger.PACK_AT = before
    text = (job.folder / "flags.csv").read_text()
    job.flags(text + "8,9,missing,,,,,,,\n")  # some slabs are new: these records are loose
    job.run(**parts)
    records = job.folder / "out.zarr/zmend/records"
    assert list(records.glob("packs/*")) and list(records.glob("??/*.json"))
    return job


@pytest.fixture
def job(finished: Job, tmp_path: Path) -> Iterator[Job]:
    yield from put_back(finished, tmp_path)


def test_both_agree_on_a_good_store(job: Job) -> None:
    assert independent.verify(str(job.folder / "out.zarr")) == []
    assert first_says(job.folder / "out.zarr")


@pytest.mark.parametrize("sort", ["ome05", "ome04-xyz", "v3-sharded"])
def test_both_agree_on_pyramids_other_axes_and_shards(sort: str, tmp_path: Path) -> None:
    job = build(tmp_path, (12, 128, 128))
    shutil.rmtree(job.raw)
    coarse = job.damaged.reshape(12, 64, 2, 64, 2).mean((2, 4)).astype(np.uint8)
    write_volume(job.raw, kind(sort), [job.damaged, coarse], chunks=(2, 32, 32), shards=(2, 64, 64), voxel_nm=NM, steps=[(1, 2, 2)])
    job.run(output={"chunk_px": 64}, site={"slab_px": 64}, certificate=0)
    assert independent.verify(str(job.folder / "out.zarr")) == []
    assert first_says(job.folder / "out.zarr")
    if sort == "ome05":
        flip(max(chunks(job, "1"), key=lambda p: p.stat().st_size), 40)
        assert not first_says(job.folder / "out.zarr") and not second_says(job.folder / "out.zarr")


def chunks(job: Job, array: str) -> list[Path]:
    return sorted(p for p in (job.folder / "out.zarr" / array / "c").rglob("*") if p.is_file())


def flip(path: Path, at: int, bit: int = 2) -> None:
    """Flip a bit, in a new file: a linked one must not spoil its other name."""
    body = bytearray(path.read_bytes())
    body[at % len(body)] ^= 1 << bit
    path.unlink()
    path.write_bytes(body)


PLACES = {
    "overlay": "zmend/overlay/c/**/*",
    "labels": "labels/synthetic/0/c/**/*",
    "spread": "zmend/uncertainty/c/**/*",
    "merged": "0/c/**/*",
    "loose": "zmend/records/??/*.json",
    "pack": "zmend/records/packs/*.parquet",
    "flags": "zmend/flags/{flags}.csv",
    "plan": "zmend/plans/{head}.json",
}


def some_byte(job: Job, place: str, draw: random.Random) -> tuple[Path, int]:
    """A byte that says something: not where a plan says where things lie, which anyone may change who moves them."""
    out = job.folder / "out.zarr"
    said = independent.document(out)["attributes"]["zmend"]
    flags = json.loads((out / f"zmend/plans/{said['head']}.json").read_bytes())["flags"]["digest"]
    files = sorted(p for p in out.glob(PLACES[place].format(head=said["head"], flags=flags)) if p.is_file())
    path = draw.choice(files)
    body = path.read_bytes()
    free = [m.span() for m in re.finditer(rb'"(uri|path)": "[^"]*"', body)] if place == "plan" else []
    at = draw.choice([i for i in range(len(body)) if not any(a <= i < b for a, b in free)])
    return path, at


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("seed", range(3))
def test_one_flipped_bit_is_found_by_both(job: Job, place: str, seed: int) -> None:
    draw = random.Random(f"{place} {seed}")
    path, at = some_byte(job, place, draw)
    flip(path, at, bit := draw.randrange(8))
    said = f"bit {bit} of byte {at} of {path.name}"
    assert not first_says(job.folder / "out.zarr"), said
    assert not second_says(job.folder / "out.zarr"), said


def remove(pattern: str):
    return lambda job: next(p for p in sorted((job.folder / "out.zarr").glob(pattern)) if p.is_file()).unlink()


def copied(job: Job) -> None:
    """A chunk of the overlay and its label where nobody recorded one."""
    for array in ("zmend/overlay", "labels/synthetic/0"):
        there = job.folder / "out.zarr" / array / "c"
        shutil.copytree(next(p for p in there.iterdir() if p.is_dir()), there / "0", dirs_exist_ok=True)


def swapped(job: Job) -> None:
    """Two chunks of the overlay in each other's place: each can be decoded."""
    one, two, *_ = sorted(chunks(job, "zmend/overlay"), key=lambda p: -p.stat().st_size)
    a, b = one.read_bytes(), two.read_bytes()
    one.write_bytes(b)
    two.write_bytes(a)


def source(job: Job) -> None:
    flip(next(p for p in sorted((job.raw / "c").rglob("*")) if p.is_file()), 60)


def mask(job: Job) -> None:
    """The mask of a flag loses a chunk."""
    next(p for p in sorted((job.folder / "mask.zarr/c").rglob("*")) if p.is_file() and p.stat().st_size > 60).unlink()


TAMPERINGS = {
    "a loose record is gone": remove("zmend/records/??/*.json"),
    "a pack is gone": remove("zmend/records/packs/*.parquet"),
    "a chunk of the overlay is gone": remove("zmend/overlay/c/**/*"),
    "a chunk of the labels is gone": remove("labels/synthetic/0/c/**/*"),
    "a chunk of the spread is gone": remove("zmend/uncertainty/c/**/*"),
    "a merged chunk is gone": remove("0/c/**/*"),
    "the merge's note is gone": remove("zmend/merge.json"),
    "a chunk that nobody recorded": copied,
    "two chunks changed places": swapped,
    "the source": source,
    "a mask": mask,
}


@pytest.mark.parametrize("what", TAMPERINGS)
def test_a_tampering_is_found_by_both(job: Job, what: str) -> None:
    TAMPERINGS[what](job)
    assert not first_says(job.folder / "out.zarr")
    assert not second_says(job.folder / "out.zarr")


def test_as_a_command(job: Job) -> None:
    def ran() -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, str(SOURCE), str(job.folder / "out.zarr")], capture_output=True, text=True, check=False)

    assert (ran().stdout, ran().returncode) == ("verified\n", 0)
    remove("zmend/records/??/*.json")(job)
    assert "has no record" in ran().stdout and ran().returncode == 5
