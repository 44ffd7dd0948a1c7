"""Tamperings: one byte of a finished store is changed, anywhere, by someone who puts the file's time back. Who finds it?

    python -m tests.faults.tampering --count 1000 --seed 0

Both verifiers are asked about each. What is promised of a chunk is its voxels: bytes that decode to the same voxels are
counted apart. The store is small, but has everything: masks, a pyramid, a spread, packs and loose
records, a certificate, weights of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np

from pipeline.flagfile import dump
from pipeline.verify import verify
from tests import independent
from tests.faults import rot
from tests.jobs import ENSEMBLE, NM, Job, save, tissue
from tests.stores import kind, write_volume
from tests.toys import weigh

SHAPE = (8, 64, 64)
PLACES = {  # what is tampered with: where it lies, from the folder of the job
    "output chunk, mended level": "out.zarr/0/c/**/*",
    "output chunk, coarser level": "out.zarr/1/c/**/*",
    "label chunk": "out.zarr/labels/synthetic/0/c/**/*",
    "label chunk, coarser level": "out.zarr/labels/synthetic/1/c/**/*",
    "overlay chunk": "out.zarr/zmend/overlay/c/**/*",
    "spread chunk": "out.zarr/zmend/uncertainty/c/**/*",
    "mask chunk": "mask.zarr/c/5/**/*",
    "loose record": "out.zarr/zmend/records/??/*.json",
    "pack": "out.zarr/zmend/records/packs/*.parquet",
    "weights": "tiny.safetensors",
    "flags": "out.zarr/zmend/flags/{flags}.csv",
    "plan": "out.zarr/zmend/plans/{head}.json",
    "certificate": "out.zarr/zmend/certificate.json",
    "merge.json": "out.zarr/zmend/merge.json",
    "seal": "out.zarr/zmend/seal.json",
    "array metadata": "out.zarr/{{0,1,zmend/overlay,zmend/uncertainty,labels/synthetic/0,labels/synthetic/1}}/zarr.json",
    "group metadata": "out.zarr/{{.,zmend,labels,labels/synthetic}}/zarr.json",
}


@dataclass(frozen=True)
class Tampering:
    """One byte of one file."""

    place: str
    path: Path
    at: int
    value: int

    def __str__(self) -> str:
        before = self.path.read_bytes()[self.at]
        return f"{self.place}: byte {self.at} of {'/'.join(self.path.parts[-5:])}, {before:#04x} to {self.value:#04x}"


def build(folder: Path, late: int = 7) -> Job:
    """A finished job with everything that can be tampered with. late: the section of which the records are loose."""
    volume = tissue(SHAPE).astype(np.uint8)
    coarse = volume.reshape(8, 32, 2, 32, 2).mean((2, 4)).astype(np.uint8)
    write_volume(folder / "raw.zarr", kind("ome05"), [volume, coarse], chunks=(2, 32, 32), voxel_nm=NM, steps=[(1, 2, 2)])
    mask = np.zeros(SHAPE, np.uint8)
    mask[5, 8:30, 12:50] = 1
    save(folder / "mask.zarr", mask, (1, 32, 32))
    flags = [{"z_start": 2, "z_stop": 3, "class": "missing"}, {"z_start": 5, "z_stop": 6, "class": "fold", "mask": "mask.zarr"}]
    job = Job(folder, volume, volume, mask > 0)
    weigh(folder / "tiny.safetensors")
    recipe = {**ENSEMBLE, "restorer": "tests.toys:Weighed", "weights": "tiny.safetensors", "uncertainty": 2}
    parts = {"output": {"chunk_px": 32, "clone": "copy"}, "site": {"slab_px": 32}, "recipe": recipe, "certificate": 1}
    with patch("pipeline.ledger.PACK_AT", 1):
        job.flags(dump(flags))
        job.run(**parts)
    job.flags(dump([*flags, {"z_start": late, "z_stop": late + 1, "class": "missing"}]))
    job.run(**parts)  # some slabs are new: their records are loose
    return job


def files_of(job: Job) -> dict[str, list[Path]]:
    """Every file that can be tampered with, by place."""
    head = independent.document(job.folder / "out.zarr")["attributes"]["zmend"]["head"]
    plan = json.loads((job.folder / f"out.zarr/zmend/plans/{head}.json").read_bytes())
    found = {}
    for place, pattern in PLACES.items():
        text = pattern.format(head=head, flags=plan["flags"]["digest"])
        before, _, rest = text.partition("{")
        names, _, after = rest.partition("}")
        globs = [before + name + after for name in names.split(",")] if rest else [text]
        found[place] = sorted(p for g in globs for p in job.folder.glob(g) if p.is_file())
        assert found[place], place
    return found


def draw(job: Job, count: int, seed: int) -> Iterator[Tampering]:
    """Tamperings spread evenly over the places; which file, which byte and what it becomes is drawn."""
    rng, files = random.Random(seed), files_of(job)
    for n in range(count):
        place = list(PLACES)[n % len(PLACES)]
        path = rng.choice(files[place])
        body = path.read_bytes()
        at = rng.randrange(len(body))
        yield Tampering(place, path, at, rng.choice([v for v in range(256) if v != body[at]]))


@contextmanager
def carried_out(tampering: Tampering, aside: Path) -> Iterator[None]:
    """The byte is changed, in a new file of the same time; afterwards the old one is there again."""
    path, kept = tampering.path, aside / "kept"
    body, stat = bytearray(path.read_bytes()), path.stat()
    path.rename(kept)
    try:
        body[tampering.at] = tampering.value
        path.write_bytes(body)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        yield
    finally:
        kept.replace(path)


def first_finds(job: Job) -> bool:
    return not verify(str(job.folder / "out.zarr"), threads=1)["ok"]


def second_finds(job: Job) -> bool:
    return bool(independent.verify(str(job.folder / "out.zarr")))


def means_the_same(tampering: Tampering, before: Path) -> bool:
    """Whether a chunk is another encoding of the same voxels: zstd has a few bits that no reader looks at."""
    return "chunk" in tampering.place and rot.means_the_same(tampering.path, before)


def missed(job: Job, count: int, seed: int, aside: Path) -> tuple[dict[str, Counter[str]], list[str]]:
    """Carry tamperings out one by one; how many were found by whom, by place, and which were not."""
    table: dict[str, Counter[str]] = defaultdict(Counter)
    escaped = []
    for tampering in draw(job, count, seed):
        with carried_out(tampering, aside):
            found = {"zmend verify": first_finds(job), "independent.py": second_finds(job)}
            same = not all(found.values()) and means_the_same(tampering, aside / "kept")
        table[tampering.place].update({"tamperings": 1, "same voxels": same, **{who: int(did) for who, did in found.items()}})
        escaped += [f"not found by {who}: {tampering}" for who, did in found.items() if not did and not same]
    return table, escaped


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="tampering-"))
    (folder / "aside").mkdir()
    job = build(folder)
    assert not first_finds(job) and not second_finds(job), "both verify the store before anything is done to it"
    began = time.monotonic()
    table, escaped = missed(job, asked.count, asked.seed, folder / "aside")
    print(f"seed {asked.seed}, {asked.count} tamperings, {time.monotonic() - began:.0f} s")
    columns = ("tamperings", "zmend verify", "independent.py", "same voxels")
    print(f"{'one byte of':32}" + "".join(f"{c:>16}" for c in columns))
    for place, counts in table.items():
        print(f"{place:32}" + "".join(f"{counts[c]:16}" for c in columns))
    print(f"{'all':32}" + "".join(f"{sum(t[c] for t in table.values()):16}" for c in columns))
    print("\n".join(escaped) or "every one that changes something was found by both")
    assert not first_finds(job), "afterwards everything was put back"
    shutil.rmtree(folder)
    return 1 if escaped else 0


if __name__ == "__main__":
    sys.exit(main())
