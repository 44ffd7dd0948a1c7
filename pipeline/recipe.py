"""Recipe: everything that can change a voxel. Two runs with equal recipe digests make equal voxels."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

GREY_PER_COUNT = 0.5  # grey levels (of 0..255) that one count of zmend/uncertainty stands for
SEEDS = 2**63
LATER = ("uncertainty", "refuse_above")  # settings that older recipes do not have


def digest(document: Any) -> str:
    """sha256 of a JSON document in its canonical form (sorted keys, no spaces)."""
    return hashlib.sha256(canonical(document).encode()).hexdigest()


def canonical(document: Any) -> str:
    """A JSON document in the one form that is hashed."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def reseeded(seed: int, attempt: int) -> int:
    """The seed of a slab that was rejected `attempt` times."""
    return (seed + attempt) % SEEDS


class Recipe(BaseModel):
    """How flagged voxels are made. What cannot change a voxel (workers, slab size) is the Site's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    restorer: str = Field("diffusion", description="diffusion, linear, nearest, or your own as module:Class")
    weights: str = Field("default", description="name of weights that ship with zmend, or a .safetensors path")
    steps: int = Field(4, ge=1, le=1000, description="network evaluations per sample")
    seed: int = Field(0, ge=0, lt=SEEDS, description="key of the noise; same seed, same voxels")
    batch: int = Field(
        1,
        ge=0,
        le=1024,
        description="tiles per network call, padded: part of the recipe since it can move the last bit; "
        "0: the fastest on the GPU of the host that plans, measured once and kept in the store",
    )
    feather_px: int = Field(8, ge=0, le=16, description="width of the ramp inside a damaged region, px")
    intensity: tuple[float, float] | None = Field(
        None, description="values shown as black and white; default: the whole dtype"
    )
    options: dict[str, float | int | str | bool] = Field(
        default_factory=dict, description="more settings of the restorer"
    )
    uncertainty: int = Field(0, ge=0, le=64, description="draws of the ensemble that tells the spread; 0: none")
    refuse_above: float | None = Field(
        None,
        gt=0,
        le=127,
        multiple_of=GREY_PER_COUNT,  # so that the stored counts alone tell which voxels are labelled
        description="spread in grey levels (of 0..255) above which a restored voxel is labelled uncertain",
    )

    @field_validator("uncertainty")
    @classmethod
    def _two_draws(cls, draws: int) -> int:
        if draws == 1:
            raise PydanticCustomError("zmend", "one draw has no spread", {"do": "give 2 to 64 draws, or 0 for none"})
        return draws

    @field_validator("refuse_above")
    @classmethod
    def _of_an_ensemble(cls, limit: float | None, info: ValidationInfo) -> float | None:
        if limit is not None and info.data.get("uncertainty") == 0:
            raise PydanticCustomError(
                "zmend",
                "without an ensemble there is no spread to compare with",
                {"do": "add 'uncertainty: 8' to the recipe, or leave refuse_above out"},
            )
        return limit

    def document(self) -> dict[str, Any]:
        """JSON-ready. Settings that older recipes do not have are left out where they are off: digests stay."""
        body = self.model_dump(mode="json")
        off = {k for k in LATER if body[k] == type(self).model_fields[k].default}
        return {k: v for k, v in body.items() if k not in off}

    def digest(self, restorer_digest: str, voxel_nm: tuple[float, float, float] | None, level: int) -> str:
        """sha256 over every setting, the restorer's own digest (weights and sampler), voxel size and level."""
        body = {k: v for k, v in self.document().items() if k != "weights"}
        return digest({"recipe": body, "restorer": restorer_digest, "voxel_nm": voxel_nm, "level": level})
