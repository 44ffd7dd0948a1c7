"""Real small volumes that are not Zarr, written by tensorstore: Neuroglancer precomputed and N5. Voxels are (z, y, x)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from pipeline.box import Box

OFFSET = (64, 128, 7)  # x, y, z of voxel 0 in precomputed's own coordinates
BLOCK = (64, 64, 4)  # x, y, z
SHARDING = {
    "@type": "neuroglancer_uint64_sharded_v1", "preshift_bits": 1, "hash": "identity", "minishard_bits": 2, "shard_bits": 5,
    "minishard_index_encoding": "gzip", "data_encoding": "gzip",
}  # fmt: skip


def write_precomputed(
    path: Path, levels: Sequence[NDArray[Any]], nm: Sequence[float], *, encoding: str = "raw", sharding: dict[str, Any] | None = None,
    offset: Sequence[int] = OFFSET, hole: Box | None = None,
) -> str:  # fmt: skip
    """Levels that are each half as wide as the one before. sharding: `{}`, or what it is to say otherwise.
    hole: a chunk of the finest that is not written."""
    for i, voxels in enumerate(levels):
        z, y, x = voxels.shape
        scale: dict[str, Any] = {
            "size": [x, y, z], "resolution": [nm[2] * 2**i, nm[1] * 2**i, nm[0]], "key": f"s{i}",
            "voxel_offset": [offset[0] // 2**i, offset[1] // 2**i, offset[2]], "chunk_size": list(BLOCK), "encoding": encoding,
        }  # fmt: skip
        if sharding is not None:
            scale["sharding"] = SHARDING | sharding
        array = ts.open({
            "driver": "neuroglancer_precomputed", "kvstore": {"driver": "file", "path": f"{path}/"}, "create": True, "open": True,
            "multiscale_metadata": {"type": "image", "data_type": voxels.dtype.name, "num_channels": 1}, "scale_metadata": scale,
            "store_data_equal_to_fill_value": True,
        }).result()  # fmt: skip
        data, whole = voxels.transpose()[..., np.newaxis], Box.of(voxels.shape)
        array, chunks = array[ts.d[:].translate_to[0]], (chunk & whole for chunk in whole.cells(BLOCK[::-1]))
        with ts.Transaction() as together:  # a shard is written once
            for chunk in [whole] if hole is None or i else [c for c in chunks if c != hole]:
                at = chunk.within(whole)[::-1]
                array.with_transaction(together)[at].write(data[at]).result()
    return str(path)


def write_n5(path: Path, voxels: NDArray[Any], nm: Sequence[float] | None, *, compression: str = "gzip", **attributes: Any) -> str:
    """One array; x first, as N5 has it. `attributes`: its own besides."""
    told = {} if nm is None else {"axes": ["x", "y", "z"], "units": ["nm"] * 3, "resolution": list(nm)[::-1]}
    metadata = {"dimensions": list(voxels.shape[::-1]), "blockSize": list(BLOCK), "dataType": voxels.dtype.name, "compression": {"type": compression}}
    array = ts.open({
        "driver": "n5", "kvstore": {"driver": "file", "path": f"{path}/"}, "metadata": metadata | told | attributes, "create": True,
        "store_data_equal_to_fill_value": True,
    }).result()  # fmt: skip
    array.write(voxels.transpose()).result()
    return str(path)
