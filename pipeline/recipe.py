"""Recipe: everything that can change a voxel. Two runs with equal recipe digests make equal voxels."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


def digest(document: Any) -> str:
    """sha256 of a JSON document in its canonical form (sorted keys, no spaces)."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


class Recipe(BaseModel):
    """How flagged voxels are made. What cannot change a voxel (workers, slab size) is the Site's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    restorer: str = Field("diffusion", description="diffusion, linear, nearest, or your own as module:Class")
    weights: str = Field("default", description="name of weights that ship with zmend, or a .safetensors path")
    steps: int = Field(4, ge=1, le=1000, description="network evaluations per sample")
    seed: int = Field(0, ge=0, lt=2**63, description="key of the noise; same seed, same voxels")
    batch: int = Field(
        1,
        ge=1,
        le=1024,
        description="tiles per network call, padded: part of the recipe since it can move the last bit",
    )
    feather_px: int = Field(8, ge=0, le=16, description="width of the ramp inside a damaged region, px")
    intensity: tuple[float, float] | None = Field(
        None, description="values shown as black and white; default: the whole dtype"
    )
    options: dict[str, float | int | str | bool] = Field(
        default_factory=dict, description="more settings of the restorer"
    )

    def digest(self, restorer_digest: str, voxel_nm: tuple[float, float, float] | None, level: int) -> str:
        """sha256 over every setting, the restorer's own digest (weights and sampler), voxel size and level."""
        body = self.model_dump(mode="json", exclude={"weights"})
        return digest({"recipe": body, "restorer": restorer_digest, "voxel_nm": voxel_nm, "level": level})
