"""Training windows: stacks of real sections, random crops, augmentation, random damage.

A batch is a pure function of (seed, step), so an interrupted training resumes with the very batches it would have seen.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of one stack that may be trained on."""

    name: str  # stack name, as in manifest.json
    sections: tuple[int, int | None]  # half-open z range; None: to the end
    rows: tuple[int, int | None] = (0, None)  # half-open y range
    share: float = 1.0  # relative number of crops drawn from it
    isotropic: bool = False  # FIB-SEM: every 4th slice along any axis makes a stack with known truth between


# Test parts of the manifest (vnc_stack1 z 14-19, fib25_val, pinky) are absent. Rows 832.. of vnc_stack1 are kept for
# choosing the sampler (VALIDATION_ROWS), so that no test section is looked at for that.
VALIDATION_ROWS = (832, 1024)
TRAINING = (
    Part("vnc_stack1", (0, 14), (0, VALIDATION_ROWS[0]), 3.5),
    Part("vnc_stack2_z00_09", (0, 10), share=3.0),
    Part("isbi2012_train", (0, 30), share=1.3),
    Part("isbi2012_test", (0, 30), share=1.3),
    Part("fib25_train1", (0, 250), share=0.5, isotropic=True),
    Part("fib25_train2", (0, 250), share=0.5, isotropic=True),
)
_FIB_STEP = 4  # slices of 10 nm a section of 40 nm


@dataclass(frozen=True, slots=True)
class Stack:
    """One part in memory."""

    part: Part
    raw: npt.NDArray[np.uint8]  # (Z, H, W)
    voxel_nm: tuple[float, float, float]
    licence: str


@dataclass(frozen=True, slots=True)
class Batch:
    """B windows of D sections cut alike."""

    sections: Floats  # (B, D, H, W) in [-1, 1]
    known: Bools  # (B, D, H, W)
    targets: tuple[int, int]
    voxel_nm: Floats  # (B, 3)

    def take(self, items: slice) -> Batch:
        return Batch(self.sections[items], self.known[items], self.targets, self.voxel_nm[items])


def load(folder: Path, parts: Sequence[Part] | None = None) -> list[Stack]:
    """Read the parts (default: `parts_of` the manifest) from `folder`. Raises ValueError.

    The folder holds npz files, each with an array `raw`, uint8 (Z, H, W), and a manifest.json that says of each
    {name: {"file", "voxel_zyx_nm", "licence"}}.
    """
    path = folder / "manifest.json"
    if not path.is_file():
        raise ValueError(f"there is no {path}: --data names a folder with manifest.json and npz files")
    manifest = json.loads(path.read_text())
    stacks = []
    for part in parts if parts is not None else parts_of(manifest):
        entry = manifest[part.name]
        z, y = part.sections, part.rows
        with np.load(folder / entry["file"]) as arrays:
            raw = arrays["raw"][z[0] : z[1], y[0] : y[1]]
        size = entry["voxel_zyx_nm"]
        licence = entry.get("licence", "not stated")
        stacks.append(Stack(part, np.ascontiguousarray(raw), (size[0], size[1], size[2]), licence))
    return stacks


def parts_of(manifest: Mapping[str, Mapping[str, Any]]) -> list[Part]:
    """What to train on: the stacks behind the shipped weights, where all of them are there, else every stack whose
    "use" (if it says one) begins with "train"; "sections": [first, last) limits one.
    """
    if {p.name for p in TRAINING} <= set(manifest):
        return list(TRAINING)
    used = {n: e for n, e in manifest.items() if str(e.get("use", "train")).startswith("train")}
    if not used:
        raise ValueError('manifest.json names no stack to train on: give each an entry with "file" and "voxel_zyx_nm"')
    return [
        Part(name, tuple(e.get("sections", (0, None))), isotropic=len(set(e["voxel_zyx_nm"])) == 1)
        for name, e in used.items()
    ]


def batch(stacks: Sequence[Stack], *, seed: int, step: int, size: int, crop: int) -> Batch:
    """The batch of a step: `size` windows, `crop` pixels square, sharing one layout of clean sections and targets."""
    rng = np.random.default_rng([seed, step])
    before, after = rng.choice([1, 2], 2, p=[0.3, 0.7])
    gap = int(rng.choice([1, 2, 3], p=[0.7, 0.2, 0.1]))
    depth = int(before + gap + after)
    targets = (int(before), int(before) + gap)
    share = np.array([s.part.share for s in stacks])
    picks = rng.choice(len(stacks), size, p=share / share.sum())
    windows = [window(stacks[i], depth, crop, rng) for i in picks]
    known = np.ones((size, depth, crop, crop), bool)
    known[:, targets[0] : targets[1]] = [damage(gap, crop, rng) for _ in range(size)]
    return Batch(
        np.stack([w[0] for w in windows]) * np.float32(2) - np.float32(1),
        known,
        targets,
        np.array([w[1] for w in windows], np.float32),
    )


def window(stack: Stack, depth: int, crop: int, rng: np.random.Generator) -> tuple[Floats, tuple[float, float, float]]:
    """A random crop (D, crop, crop) in [0, 1] with dihedral, z-flip, scale and contrast augmentation, and its voxel
    size.
    """
    raw, (dz, dy, dx) = stack.raw, stack.voxel_nm
    if stack.part.isotropic:
        raw, dz = raw.transpose(rng.permutation(3)), dz * _FIB_STEP
    step = _FIB_STEP if stack.part.isotropic else 1
    scale = 2 if not stack.part.isotropic and min(raw.shape[1:]) >= 2 * crop and rng.random() < 0.25 else 1
    side = crop * scale
    z = rng.integers(raw.shape[0] - (depth - 1) * step)
    y, x = rng.integers(raw.shape[1] - side + 1), rng.integers(raw.shape[2] - side + 1)
    cut = raw[z : z + (depth - 1) * step + 1 : step, y : y + side, x : x + side].astype(np.float32) / np.float32(255)
    if scale == 2:
        cut = cut.reshape(depth, crop, 2, crop, 2).mean((2, 4), dtype=np.float32)
    return contrast(dihedral(cut, rng), rng), (dz, dy * scale, dx * scale)


def dihedral(cut: Floats, rng: np.random.Generator) -> Floats:
    """One of the 8 symmetries of the square, and a z flip half of the time."""
    cut = np.rot90(cut, int(rng.integers(4)), (1, 2))
    if rng.random() < 0.5:
        cut = cut[:, :, ::-1]
    return np.ascontiguousarray(cut[::-1] if rng.random() < 0.5 else cut)


def contrast(cut: Floats, rng: np.random.Generator) -> Floats:
    """Gain and offset of the whole window (staining, microscope) and a little of each section (real steps)."""
    depth = cut.shape[0]
    gain = np.exp(rng.normal(0, 0.15)) * np.exp(rng.normal(0, 0.04, (depth, 1, 1)))
    offset = rng.normal(0, 0.05) + rng.normal(0, 0.015, (depth, 1, 1))
    mean = cut.mean()
    return np.asarray(np.clip((cut - mean) * gain + mean + offset, 0, 1), np.float32)


def damage(gap: int, crop: int, rng: np.random.Generator) -> Bools:
    """Which target pixels are known, (K, crop, crop): none in three windows of four, else random holes in each section.

    Only shapes are drawn; no artefact is simulated, because damaged pixels are hidden from the network anyway.
    """
    if rng.random() < 0.75:
        return np.zeros((gap, crop, crop), bool)
    return np.stack([_SHAPES[rng.integers(len(_SHAPES))](crop, rng) for _ in range(gap)])


def _missing(crop: int, rng: np.random.Generator) -> Bools:
    return np.zeros((crop, crop), bool)


def _band(crop: int, rng: np.random.Generator) -> Bools:
    """A fold or crack: a band of any direction is lost."""
    return np.abs(_ramp(crop, rng)) > rng.uniform(0.03, 0.25) * crop


def _side(crop: int, rng: np.random.Generator) -> Bools:
    """A missing tile's edge: everything on one side is lost."""
    return _ramp(crop, rng) > 0


def _blobs(crop: int, rng: np.random.Generator) -> Bools:
    """Contamination: smooth blobs are lost, 10-60 % of the area."""
    field = ndimage.gaussian_filter(rng.standard_normal((crop, crop)), rng.uniform(4, 14), mode="wrap")
    return np.asarray(field > np.quantile(field, rng.uniform(0.1, 0.6)))


def _ramp(crop: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Signed distance in pixels from a random line near the middle."""
    angle, shift = rng.uniform(0, 2 * np.pi), rng.normal(0, 0.2) * crop
    at = np.arange(crop) - crop / 2
    return np.asarray(np.cos(angle) * at[:, None] + np.sin(angle) * at[None, :] + shift)


_SHAPES = (_missing, _band, _side, _blobs)
