"""Small whole jobs for tests: a damaged volume on disk, its flags, a configuration, and digests of what comes out."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pipeline.box import Box
from pipeline.config import Config, load
from pipeline.flagfile import dump
from pipeline.job import propose
from pipeline.phantom import damage, phantom
from pipeline.run import run
from pipeline.store import has_uncertainty, open_labels, open_merged, open_overlay, open_uncertainty
from pipeline.volume import Volume

ROOT = Path(__file__).parents[1]
SHAPE = (16, 300, 280)
NM = (45.0, 4.6, 4.6)
TOY = "tests.toys:Textured"
ENSEMBLE = {"restorer": "tests.toys:Ensemble", "uncertainty": 4, "refuse_above": 12.0}


@lru_cache(maxsize=4)
def tissue(shape: tuple[int, int, int] = SHAPE, seed: int = 3) -> np.ndarray:
    return phantom(shape, seed=seed, voxel_nm=NM)


@dataclass
class Job:
    """A folder with raw.zarr, mask.zarr, flags.csv; configurations are made per output."""

    folder: Path
    truth: np.ndarray
    damaged: np.ndarray
    flagged: np.ndarray  # bool, what may change

    @property
    def raw(self) -> Path:
        return self.folder / "raw.zarr"

    def config(self, out: str = "out.zarr", *, name: str = "zmend.yaml", **parts: Any) -> Path:
        """Write a configuration; parts such as site={"workers": 2} are merged into the defaults."""
        body: dict[str, Any] = {
            "volume": {"path": "raw.zarr"},
            "flags": "flags.csv",
            "output": {"path": out, "chunk_px": 128},
            "recipe": {"restorer": TOY},
            "site": {"workers": 0, "slab_px": 256},
        }
        for key, value in parts.items():
            body[key] = {**body[key], **value} if isinstance(value, dict) else value
        path = self.folder / name
        path.write_text(yaml.safe_dump(body))
        return path

    def run(self, out: str = "out.zarr", **parts: Any) -> dict[str, Any]:
        return run(propose(self.load(out, **parts)))

    def load(self, out: str = "out.zarr", **parts: Any) -> Config:
        return load(self.config(out, **parts))

    def flags(self, text: str) -> None:
        (self.folder / "flags.csv").write_text(text)


def build(folder: Path, shape: tuple[int, int, int] = SHAPE, *, dtype: Any = np.uint8, chunks: tuple[int, int, int] = (8, 128, 128),
          volume: np.ndarray | None = None, **create: Any) -> Job:  # fmt: skip
    """A phantom (or `volume`) with two missing places, a crack and a fold."""
    truth = (tissue(shape) if volume is None else volume).astype(np.uint8)
    damaged, rows, masks = damage(truth, seed=3)
    mask = np.zeros(truth.shape, np.uint8)
    for z, m in masks.items():
        mask[z] = m
    scale = np.iinfo(dtype).max // 255
    save(folder / "raw.zarr", damaged.astype(dtype) * dtype(scale), chunks, **create)
    save(folder / "mask.zarr", mask, (1, 128, 128))
    flagged = mask > 0
    for row in rows:
        if row["z_start"] in masks:
            row["mask"] = "mask.zarr"
        else:
            flagged[row["z_start"] : row["z_stop"]] = True
    (folder / "flags.csv").write_text(dump(rows))
    return Job(folder, truth, damaged.astype(dtype) * dtype(scale), flagged)


def save(path: Path, data: np.ndarray, chunks: tuple[int, int, int], **create: Any) -> Volume:
    Volume.create(str(path), shape=data.shape, dtype=data.dtype, chunks=chunks, voxel_nm=NM, **create)
    array = Volume.open(str(path), writable=True)
    array.write(Box.of(array.shape), data)
    return array


def voxels(out: Path | str, what: str = "merged") -> np.ndarray:
    """All voxels of the merged volume, the labels, the overlay or the uncertainty."""
    openers = {"merged": open_merged, "labels": open_labels, "overlay": open_overlay, "uncertainty": open_uncertainty}
    array = openers[what](str(out))
    return array.read(Box.of(array.shape))


def voxel_digest(out: Path | str) -> str:
    """sha256 over everything that a run decides: merged volume, labels, spread, and the overlay where labelled."""
    labels = voxels(out, "labels")
    overlay = np.where(labels > 0, voxels(out, "overlay"), 0)
    spread = voxels(out, "uncertainty").tobytes() if has_uncertainty(str(out)) else b""
    return hashlib.sha256(voxels(out).tobytes() + labels.tobytes() + overlay.tobytes() + spread).hexdigest()


def store_digest(out: Path | str) -> dict[str, str]:
    """sha256 of every file of the store but those that tell of the run itself (logs, times, who ran)."""
    found = {}
    for path in sorted(Path(out).rglob("*")):
        name = path.relative_to(out).as_posix()
        if path.is_dir() or name.startswith(("zmend/runs/", "zmend/plans/", "zmend/kept/")) or name in ("zmend/merge.json", "zmend/seal.json"):
            continue
        body = path.read_bytes()
        if name.startswith("zmend/records/"):
            record = json.loads(body)
            for key in ("run", "seconds", "digest"):
                record.pop(key)
            body = json.dumps(record, sort_keys=True).encode()
        found[name] = hashlib.sha256(body).hexdigest()
    return found


def tree(folder: Path) -> dict[str, tuple[str, int]]:
    """Content and time of every file."""
    return {
        p.relative_to(folder).as_posix(): (hashlib.sha256(p.read_bytes()).hexdigest(), p.stat().st_mtime_ns)
        for p in folder.rglob("*")
        if p.is_file()
    }


def command(*args: str, cwd: Path, **kw: Any) -> subprocess.Popen[str]:
    """The real command, in a process (and process group) of its own."""
    code = "from pipeline.cli import main\nif __name__ == '__main__': main()"
    script = cwd / "zmend_main.py"
    script.write_text(code)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, str(script), *args], cwd=cwd, env=env, text=True, start_new_session=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, **kw)  # fmt: skip


def put_back(finished: Job, tmp_path: Path) -> Iterator[Job]:
    """Lend a finished job to a test that may spoil it: afterwards all of it is put back, times and links included."""
    kept = tmp_path / "kept"
    subprocess.run(["cp", "-a", finished.folder, kept], check=True)
    yield finished
    shutil.rmtree(finished.folder)
    subprocess.run(["cp", "-a", kept, finished.folder], check=True)
