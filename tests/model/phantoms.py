"""Small synthetic tissue for the tests of the evaluation: dark lines on a bright ground that drift from section to section."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from scipy import ndimage

from model.scenes import Case, Volume, without


def volume(depth: int = 6, edge: int = 64, drift: int = 4, seed: int = 0) -> Volume:
    """Tissue that moves `drift` px a section along x; membranes are its dark lines."""
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.standard_normal((edge, edge + drift * depth)), 5)
    stack = [field[:, drift * z : drift * z + edge] for z in range(depth)]
    lines = np.stack([np.abs(s) < 0.008 for s in stack])
    return Volume((0.7 - 0.4 * lines).astype(np.float32), (47.5, 4.6, 4.6), lines)


def case(gap: int = 1, first: int = 2, **options: int) -> Case:
    return without(volume(depth=4 + gap + first, **options), first, gap, name=f"phantom {gap}")


def folder(path: Path, edge: int = 64) -> Path:
    """A data folder whose vnc_stack1, fib25_val_z000_239 and pinky_sample2 are phantoms of the shapes that scenes expects."""
    rng = np.random.default_rng(1)
    rows = np.concatenate([volume(20, edge, 2, s).raw for s in range(1024 // edge)], 1)  # (20, 1024, edge)
    drawn = rows < 0.5
    rows = np.clip(rows + 0.03 * rng.standard_normal(rows.shape), 0, 1)
    fib, pinky = volume(40, edge, 1, 50).raw, volume(5, edge, 1, 51).raw
    np.savez(path / "v.npz", raw=(rows * 255).astype(np.uint8), membranes=drawn)
    np.savez(path / "f.npz", raw=(fib * 255).astype(np.uint8))
    np.savez(path / "p.npz", raw=(pinky * 255).astype(np.uint8))
    sizes = {"vnc_stack1": ("v.npz", [47.5, 4.6, 4.6]), "fib25_val_z000_239": ("f.npz", [10, 10, 10]), "pinky_sample2": ("p.npz", [40, 7.16, 7.16])}
    (path / "manifest.json").write_text(json.dumps({n: {"file": f, "voxel_zyx_nm": v} for n, (f, v) in sizes.items()}))
    return path
