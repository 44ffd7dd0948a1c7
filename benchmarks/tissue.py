"""The volumes that are measured on: a real stack, tiled up, in any layout; where there is none, the phantom.

ZMEND_STACKS is the folder with the stacks. Which of the two it was, results say: smooth phantoms compress too well.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

VOXEL_NM = (45.0, 4.6, 4.6)
STACK = "vnc_stack1"


@dataclass(frozen=True)
class Layout:
    """How a volume lies in the store, (z, y, x)."""

    name: str
    chunks: tuple[int, int, int]
    shards: tuple[int, int, int] | None = None


LAYOUTS = (
    Layout("1 deep", (1, 1024, 1024)),
    Layout("16 deep", (16, 256, 256)),
    Layout("64 deep", (64, 128, 128)),
    Layout("shards 64 deep, chunks 1 deep", (1, 512, 512), (64, 512, 512)),
)


def what() -> str:
    """In words, for results."""
    return f"{STACK} (ssTEM, 4.6 nm), mirrored and tiled" if "ZMEND_STACKS" in os.environ else "phantom, tiled"


@lru_cache(maxsize=1)
def _stack() -> np.ndarray:
    if "ZMEND_STACKS" in os.environ:
        with np.load(Path(os.environ["ZMEND_STACKS"]) / f"{STACK}.npz") as file:
            return np.asarray(file["raw"])
    from pipeline.phantom import phantom

    return phantom((20, 512, 512))


def sections(z: int, shape: tuple[int, int, int]) -> np.ndarray:
    """Section z of a volume of this shape: the stack back and forth along z, mirrored from tile to tile."""
    stack = _stack()
    depth = len(stack)
    at = z % (2 * depth)
    one = stack[at if at < depth else 2 * depth - 1 - at]
    row = np.concatenate([one, one[:, ::-1]], axis=1)
    four = np.concatenate([row, row[::-1]], axis=0)
    return np.tile(four, [-(-n // m) for n, m in zip(shape[1:], four.shape, strict=True)])[: shape[1], : shape[2]]


def make(path: str, shape: tuple[int, int, int], layout: Layout, missing: tuple[int, ...] = ()) -> Any:
    """Write a volume and open it; `missing` sections are black. As zmend writes: zstd 1 with a checksum."""
    from pipeline.box import Box
    from pipeline.volume import Volume

    chunks = tuple(min(c, n) for c, n in zip(layout.chunks, shape, strict=True))
    made = Volume.create(path, shape=shape, dtype=np.uint8, chunks=chunks, shards=layout.shards, voxel_nm=VOXEL_NM)
    for z in range(0, shape[0], made.grain[0]):
        deep = range(z, min(z + made.grain[0], shape[0]))
        slab = np.stack([sections(d, shape) * (d not in missing) for d in deep]).astype(np.uint8)
        made.write(Box((z, 0, 0), (deep.stop, *shape[1:])), slab)
    return made


def flags(path: Path, missing: tuple[int, ...]) -> str:
    """A file that flags these sections; its path."""
    path.write_text("".join(f"{z}\n" for z in missing))
    return str(path)
