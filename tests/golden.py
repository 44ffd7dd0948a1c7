"""Golden stores: of each version of the format a few tiny ones, which every later version must read and verify.

    python -m tests.golden        makes those of the present version anew (or those that are named); only where the format's version was raised

A zip holds `raw.zarr` (noise) and `out.zarr`, made at /golden. Times of files count in a store: they are all WHEN.
"""

from __future__ import annotations

import os
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.job import Proposal, propose
from pipeline.remerge import remerge
from pipeline.run import run
from pipeline.verdicts import read
from tests.jobs import ENSEMBLE, Job, save

HOME = Path(__file__).parent / "data/golden"
PLACE = "/golden"  # as absolute paths in the stores say
WHEN = 1_700_000_000
KINDS: dict[str, tuple[int, str, dict[str, Any]]] = {  # Zarr's version, mode, recipe
    "v1-volume": (3, "volume", {}),
    "v1-overlay-zarr2-packs-spread": (2, "overlay", ENSEMBLE),
    "v1-reviewed": (3, "volume", {}),  # one slab rejected and made again, one not accepted
}


def make(name: str, folder: Path) -> None:
    """Run a tiny job of this kind in a folder."""
    form, mode, recipe = KINDS[name]
    noise = np.random.default_rng(5).integers(100, 116, (8, 32, 48), np.uint8)
    save(folder / "raw.zarr", noise, (4, 32, 32), zarr_format=form)
    (folder / "flags.csv").write_text(
        "z_start,z_stop,class,y_start,y_stop,x_start,x_stop,source,note\n"
        "0,1,missing,,,,,golden,cannot be restored\n"
        "3,4,missing,,,,,golden,\n"
        "5,6,fold,4,20,6,30,golden,a region\n"
    )
    aged(folder)
    job = Job(folder, noise, noise, noise > 0)
    if mode == "overlay":
        import pipeline.ledger

        pipeline.ledger.PACK_AT = 1
    parts = {"output": {"chunk_px": 32, "mode": mode, "clone": "copy"}, "recipe": recipe, "site": {"slab_px": 32}, "certificate": 0}
    job.run(**parts)
    if name == "v1-reviewed":
        review(job, propose(job.load(**parts)))


def review(job: Job, proposal: Proposal) -> None:
    """Reject one slab of section 3, have it made again, and accept all slabs but the other one."""
    first, second, *_ = [s.id for s in proposal.plan.slabs if s.write.start[0] == 3]
    path = job.folder / "verdicts.csv"
    path.write_text(f"slab,verdict,note\n{first},reject,smeared\n")
    run(proposal, verdicts=read(str(path), proposal.plan.slabs))
    path.write_text("slab,verdict\n" + "".join(f"{s.id},accept\n" for s in proposal.plan.slabs if s.id != second))
    remerge(str(job.folder / "out.zarr"), "copy", accepted=str(path))


def aged(folder: Path) -> None:
    """Give every file the same time."""
    for path in folder.rglob("*"):
        if path.is_file():
            os.utime(path, (WHEN, WHEN))


def moved(folder: Path, before: str, after: str) -> None:
    """Say in all documents that the job lies elsewhere, as anyone may who moves one."""
    for path in [p for p in folder.rglob("*") if p.suffix == ".json" or p.name == ".zattrs"]:
        path.write_text(path.read_text().replace(before, after))


def unpack(name: str, folder: Path) -> Path:
    """Lay a golden store out in a folder; returns the store."""
    with zipfile.ZipFile(HOME / f"{name}.zip") as archive:
        archive.extractall(folder)
    moved(folder, f"{PLACE}/", f"{folder}/")
    aged(folder)
    return folder / "out.zarr"


def main() -> None:
    for name in sys.argv[1:] or KINDS:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            make(name, folder)
            moved(folder, f"{folder}/", f"{PLACE}/")
            files = [p for part in ("raw.zarr", "out.zarr") for p in sorted((folder / part).rglob("*")) if p.is_file()]
            with zipfile.ZipFile(HOME / f"{name}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
                for path in files:
                    entry = zipfile.ZipInfo(path.relative_to(folder).as_posix())
                    entry.compress_type = zipfile.ZIP_DEFLATED
                    archive.writestr(entry, path.read_bytes())


if __name__ == "__main__":
    main()
