"""Training windows: stacks of real sections, random crops, augmentation, random damage.

A batch is a pure function of (seed, step), so an interrupted training resumes with the very batches it would have seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model import stacks
from model.augment import Bools, Floats, contrast, damage, dihedral, elastic, optics
from model.diffusion import Condition
from model.network import REFERENCE_NM
from model.stacks import Entry, Manifest, StackError, read_manifest, voxel_of


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
    Part("fib25_train1", (0, 250), share=1.0, isotropic=True),
    Part("fib25_train2", (0, 250), share=1.0, isotropic=True),
)
VALIDATION = (Part("vnc_stack1", (0, 14), VALIDATION_ROWS),)
DEEPEST = 7  # sections of a window: two clean ones, a gap of three, two clean ones
_FIB_STEP = 4  # slices of 10 nm a section of 40 nm


@dataclass(frozen=True, slots=True)
class Stack:
    """One part in memory."""

    part: Part
    raw: npt.NDArray[np.uint8]  # (Z, H, W)
    voxel_nm: tuple[float, float, float]
    licence: str

    @property
    def thickest(self) -> int:
        """Slices along z under the deepest window."""
        return (DEEPEST - 1) * (_FIB_STEP if self.part.isotropic else 1) + 1

    @property
    def narrowest(self) -> int:
        """Pixels a side of the largest crop; in an isotropic stack every axis may lie in the plane."""
        return int(min(self.raw.shape if self.part.isotropic else self.raw.shape[1:]))


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
    """Read the parts (default: `parts_of` the manifest) from `folder`. Raises StackError (see `stacks`)."""
    manifest = read_manifest(folder)
    return [_stack(folder, p, manifest[p.name]) for p in (parts if parts is not None else parts_of(manifest))]


def _stack(folder: Path, part: Part, entry: Entry) -> Stack:
    z, y = part.sections, part.rows
    raw = stacks.read(folder, part.name, entry)["raw"][z[0] : z[1], y[0] : y[1]]
    stack = Stack(part, np.ascontiguousarray(raw), voxel_of(entry), str(entry.get("licence", "not stated")))
    need, have = (stack.thickest, min(raw.shape)) if part.isotropic else (DEEPEST, len(raw))
    if have < need:
        what = "slices" if part.isotropic else "sections"
        raise StackError(
            f"stack {part.name!r} of {folder} has {have} {what} to learn from, and training cuts windows of up to "
            f"{need}: give a deeper stack, or leave this one out (--only)"
        )
    return stack


def parts_of(manifest: Manifest, only: Sequence[str] = ()) -> list[Part]:
    """What to train on: the stacks behind the shipped weights, where all of them are there, else every stack whose
    "use" (if it says one) begins with "train"; "sections": [first, last) limits one. `only` keeps the stacks named.
    """
    if unknown := sorted(set(only) - set(manifest)):
        raise StackError(f"manifest.json names no stack {', '.join(unknown)}; it names {', '.join(sorted(manifest))}")
    shipped = {p.name for p in TRAINING} <= set(manifest)
    parts = [p for p in (TRAINING if shipped else _used(manifest, "train")) if not only or p.name in only]
    if not parts:
        raise StackError('manifest.json names no stack to train on: give each an entry with "file" and "voxel_zyx_nm"')
    return parts


def validation_of(manifest: Manifest, only: Sequence[str] = ()) -> list[Part]:
    """What early stopping looks at: rows kept from the shipped stacks, else the stacks whose "use" begins with
    "validation"; none where there is none. `only` keeps the stacks named: weights must owe nothing to other data.
    """
    shipped = {p.name for p in TRAINING} <= set(manifest)
    parts = VALIDATION if shipped else _used(manifest, "validation")
    return [p for p in parts if not only or p.name in only]


def _used(manifest: Manifest, use: str) -> list[Part]:
    return [
        Part(name, tuple(e.get("sections", (0, None))), isotropic=len(set(e["voxel_zyx_nm"])) == 1)
        for name, e in manifest.items()
        if str(e.get("use", "train")).startswith(use)
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


def condition_of(batch: Batch, device: torch.device) -> tuple[Condition, Tensor]:
    """What the network may see of a batch, and the truth (B, 1, K, H, W)."""
    sections = torch.from_numpy(batch.sections)[:, None].to(device)  # (B, 1, D, H, W)
    known = torch.from_numpy(batch.known)[:, None].to(device).float()
    voxel = torch.from_numpy(np.log2(batch.voxel_nm[:, [0, 2]] / np.array(REFERENCE_NM, np.float32))).to(device)
    a, b = batch.targets
    return Condition(sections * known, known, batch.targets, voxel), sections[:, :, a:b]


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
    cut = elastic(dihedral(cut, rng), rng)
    return optics(contrast(cut, rng), rng), (dz, dy * scale, dx * scale)
