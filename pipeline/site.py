"""Site: everything that cannot change a voxel: where slabs are worked on, by how many, and how big they are."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class Site(BaseModel):
    """What zmend.yaml says under `site`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["local"] = "local"
    workers: int = Field(1, ge=0, le=256, description="worker processes; 0 works in this process, without dask")
    threads: int | None = Field(None, ge=1, description="CPU threads per worker; default: the cores shared out")
    slab_px: Annotated[int, Field(ge=16)] | Literal["whole"] = Field(
        4096, description="lateral edge of a slab, px, or whole"
    )
    slab_sections: int = Field(8, ge=1, description="most sections of one slab")
    attempts: int = Field(3, ge=1, description="tries per slab before it counts as failed")
