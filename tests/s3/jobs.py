"""A small whole job, locally and in a bucket, and what two stores must have in common."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.files import Files
from pipeline.flagfile import dump
from pipeline.ledger import Ledger
from tests.jobs import save
from tests.stores import kind, write_volume

SHAPE = (12, 96, 96)
RECORD = ("slab", "run", "seconds", "digest", "plan", "flags")  # of this run, or of where the volume lies


def build(folder: Path) -> None:
    """raw.zarr with two coarser levels, mask.zarr, flags.csv."""
    rng = np.random.default_rng(5)
    fine = (rng.random(SHAPE) * 60 + 20 * np.arange(SHAPE[0])[:, None, None] / 3 + 60).astype(np.uint8)
    mask = np.zeros(SHAPE, np.uint8)
    mask[7, 20:60, 10:80] = 1
    levels = [fine, fine[:, ::2, ::2].copy(), fine[:, ::4, ::4].copy()]
    write_volume(folder / "raw.zarr", kind("ome05"), levels, steps=[(1, 2, 2), (1, 2, 2)], chunks=(4, 32, 32))
    save(folder / "mask.zarr", mask, (1, 96, 96))
    rows = [{"z_start": 3, "z_stop": 4, "class": "missing"}, {"z_start": 7, "z_stop": 8, "class": "crack", "mask": "mask.zarr"}]
    (folder / "flags.csv").write_text(dump(rows))


def upload(folder: Path, address: str) -> None:
    files = Files(address)
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        files.put(path.relative_to(folder).as_posix(), path.read_bytes())


def document(place: str, out: str = "", **parts: Any) -> dict[str, Any]:
    """A configuration with everything below `place`, a folder or s3://..."""
    body: dict[str, Any] = {
        "volume": {"path": f"{place}/raw.zarr"},
        "flags": f"{place}/flags.csv",
        "output": {"path": out or f"{place}/out.zarr", "chunk_px": 32},
        "recipe": {"restorer": "linear"},
        "site": {"workers": 0, "slab_px": 64},
        "certificate": 0,
    }
    for key, value in parts.items():
        body[key] = {**body[key], **value} if isinstance(value, dict) else value
    return body


def said(out: str) -> dict[str, str]:
    """sha256 of every chunk and document that does not tell of the run or the place; records by where they wrote."""
    files, found = Files(out), {}
    for stored in files.walk():
        key, body = stored.key, files.read(stored.key)
        assert body is not None
        if key.startswith(("zmend/runs/", "zmend/plans/", "zmend/flags/", "zmend/kept/", "zmend/records/")) or key in ("zmend/merge.json", "zmend/seal.json", "zarr.json"):
            continue
        if key == "zmend/certificate.json":
            told = json.loads(body)
            body = json.dumps([told["restored"], told["linear"], told["tiles"]], sort_keys=True).encode()
        found[key] = hashlib.sha256(body).hexdigest()
    for _, record in Ledger(out).records():  # loose, or in a pack
        told = {k: v for k, v in (record or {}).items() if k not in RECORD}
        found[f"record of {told['write']}"] = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
    return found


