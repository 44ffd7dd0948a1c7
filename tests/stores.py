"""Real small Zarr volumes of every layout that zmend reads, written with zarr alone, not with the code under test."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import zarr
from numcodecs import Blosc
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, GzipCodec

Voxels = NDArray[Any]
ZYX = tuple[int, int, int]
VOXEL_NM = (40.0, 8.0, 8.0)


@dataclass(frozen=True)
class Kind:
    """One way to store a volume."""

    name: str
    zarr_format: int = 3
    dims: tuple[str, ...] = ("z", "y", "x")
    ome: bool = True
    named: bool = True  # whether the array itself names its axes
    sharded: bool = False
    dtype: str = "uint8"
    separator: str = "/"
    codec: Any = "auto"

    @property
    def version(self) -> str:
        return "0.4" if self.zarr_format == 2 else "0.5"


KINDS = (
    Kind("v2", zarr_format=2, ome=False),
    Kind("v2-unnamed-dots-blosc-u2", 2, ome=False, named=False, separator=".", dtype="<u2", codec=Blosc("lz4")),
    Kind("v2-big-endian", 2, ome=False, dtype=">u2"),
    Kind("v3", ome=False),
    Kind("v3-unnamed-gzip-u2", ome=False, named=False, dtype="uint16", codec=GzipCodec()),
    Kind("v3-sharded", ome=False, sharded=True),
    Kind("v3-cxyz", ome=False, dims=("c", "x", "y", "z")),
    Kind("ome04", zarr_format=2),
    Kind("ome04-tczyx-u2", zarr_format=2, dims=("t", "c", "z", "y", "x"), named=False, dtype="<u2"),
    Kind("ome04-xyz", zarr_format=2, dims=("x", "y", "z"), named=False),
    Kind("ome05", codec=BloscCodec(cname="lz4")),
    Kind("ome05-sharded-u2", sharded=True, dtype="uint16"),
    Kind("ome05-xyz-sharded", dims=("x", "y", "z"), sharded=True, named=False),
    Kind("ome05-czyx", dims=("c", "z", "y", "x")),
)


def kind(name: str, **changes: Any) -> Kind:
    """The kind of that name, or a variant of it."""
    return replace(next(k for k in KINDS if k.name == name), **changes)


def noise(shape: Sequence[int], dtype: str = "uint8", seed: int = 0) -> Voxels:
    """Voxels without structure: any misplaced or changed one shows."""
    top = np.iinfo(np.dtype(dtype)).max
    return np.random.default_rng(seed).integers(1, top, shape, dtype=np.dtype(dtype).newbyteorder("="), endpoint=True)


def along(kind: Kind, zyx: Sequence[Any], other: Any = 1) -> tuple[Any, ...]:
    """A (z, y, x) triple in the kind's stored axis order."""
    named = dict(zip("zyx", zyx, strict=True))
    return tuple(named.get(d, other) for d in kind.dims)


def write_array(path: Path, kind: Kind, voxels: Voxels, chunks: ZYX, shards: ZYX) -> None:
    """One (z, y, x) array in the kind's layout."""
    attributes = {"_ARRAY_DIMENSIONS": list(kind.dims)} if kind.named and kind.zarr_format == 2 else {}
    array = zarr.create_array(
        str(path),
        shape=along(kind, voxels.shape),
        dtype=kind.dtype,
        chunks=along(kind, chunks),
        shards=along(kind, shards) if kind.sharded else None,
        compressors=kind.codec,
        fill_value=0,
        zarr_format=kind.zarr_format,
        dimension_names=kind.dims if kind.named and kind.zarr_format == 3 else None,
        chunk_key_encoding={"name": "v2" if kind.zarr_format == 2 else "default", "separator": kind.separator},
        attributes=attributes,
        config={"write_empty_chunks": True},
    )
    others = [d for d in kind.dims if d not in "zyx"]
    order = [[*others, "z", "y", "x"].index(d) for d in kind.dims]
    array[...] = voxels.reshape((1,) * len(others) + voxels.shape).transpose(order)


def write_volume(
    path: Path,
    kind: Kind,
    levels: Sequence[Voxels],
    *,
    chunks: ZYX = (4, 16, 16),
    shards: ZYX = (8, 32, 32),
    voxel_nm: ZYX | tuple[float, float, float] = VOXEL_NM,
    steps: Sequence[ZYX] = (),
    unit: str = "nanometer",
    wide: Sequence[float] | None = None,
) -> str:
    """A bare array, or an OME group of levels s0, s1, ... at `path`. `steps`: the factor of each level to the next."""
    if not kind.ome:
        write_array(path, kind, levels[0], chunks, shards)
        return str(path)
    scale, datasets = np.array(voxel_nm, float), []
    for i, voxels in enumerate(levels):
        write_array(path / f"s{i}", kind, voxels, chunks, shards)
        transform = {"type": "scale", "scale": list(along(kind, scale.tolist(), 1.0))}
        datasets.append({"path": f"s{i}", "coordinateTransformations": [transform]})
        scale = scale * steps[i] if i < len(steps) else scale
    types = {"t": "time", "c": "channel"}
    axes = [
        {"name": d, "type": types[d]} if d in types else {"name": d, "type": "space", "unit": unit} for d in kind.dims
    ]
    entry: dict[str, Any] = {"name": "em", "axes": axes, "datasets": datasets}
    if wide is not None:
        entry["coordinateTransformations"] = [{"type": "scale", "scale": list(along(kind, wide, 1.0))}]
    write_group(path, kind, entry)
    return str(path)


def write_group(path: Path, kind: Kind, entry: dict[str, Any]) -> None:
    """The group's own documents."""
    if kind.zarr_format == 2:
        (path / ".zgroup").write_text('{"zarr_format": 2}')
        (path / ".zattrs").write_text(json.dumps({"multiscales": [{"version": "0.4", **entry}]}))
        return
    attributes = {"ome": {"version": "0.5", "multiscales": [entry]}}
    (path / "zarr.json").write_text(json.dumps({"zarr_format": 3, "node_type": "group", "attributes": attributes}))


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """A web server on loopback over a folder; yields its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
