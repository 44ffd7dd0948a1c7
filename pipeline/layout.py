"""Layout: how a Zarr array lies in its store, from its own metadata document (`zarr.json` or `.zarray`). Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import VolumeError
from pipeline.ome import ZYX_NAMES, Json


@dataclass(frozen=True, slots=True)
class Layout:
    """How an array lies in its store. Tuples are in stored axis order, which `dims` names."""

    zarr_format: Literal[2, 3]
    shape: tuple[int, ...]
    dims: tuple[str, ...]
    dtype: str  # uint8 | uint16; of a mask, any integer
    chunks: tuple[int, ...]  # what is decoded at a time (inner chunks of a sharded array)
    grain: tuple[int, ...]  # what one object holds: the shard, else the chunk
    prefix: str
    separator: str
    fill_value: int
    index_at: str | None  # where a shard keeps its index: start | end; None: not sharded
    index_crc: bool  # whether 4 bytes of crc32c follow that index

    def key(self, index: Sequence[int]) -> str:
        """Name of the object that holds grain cell `index` (stored order)."""
        return self.prefix + self.separator.join(map(str, index))

    def index(self, key: str) -> tuple[int, ...] | None:
        """The grain cell that object `key` holds, or None where it is no chunk of this array."""
        parts = key.removeprefix(self.prefix).split(self.separator) if key.startswith(self.prefix) else []
        if len(parts) != len(self.shape) or not all(p.isascii() and p.isdigit() for p in parts):
            return None
        index = tuple(map(int, parts))
        inside = all(i * g < s for i, g, s in zip(index, self.grain, self.shape, strict=True))
        return index if inside and self.key(index) == key else None

    def indices(self, folders: Sequence[tuple[str, Sequence[str]]]) -> NDArray[np.int64]:
        """(n, axes) the grain cells that the objects of some folders hold: `index` of each that is a chunk.

        A folder is the beginning of its objects' keys, and what they are named after it.
        """
        heads = self._heads([folder for folder, _ in folders]) if self.separator == "/" else None
        last = _counts([name for _, names in folders for name in names]) if heads is not None else None
        if heads is None or last is None:  # something else lies there too
            keys = (folder + name for folder, names in folders for name in names)
            one_by_one = [index for key in keys if (index := self.index(key)) is not None]
            return np.array(one_by_one, np.int64).reshape(-1, len(self.shape))
        found = np.empty((len(last), len(self.shape)), np.int64)
        found[:, :-1], found[:, -1] = heads.repeat([len(names) for _, names in folders], axis=0), last
        return found[(found * self.grain < self.shape).all(1)]

    def _heads(self, folders: Sequence[str]) -> NDArray[np.int64] | None:
        """(n, axes - 1) the numbers in the names of folders; None where one of them holds no chunks."""
        axes = len(self.shape) - 1
        parts = [folder.removeprefix(self.prefix).split("/") for folder in folders]
        if not all(f.startswith(self.prefix) and len(p) == axes + 1 for f, p in zip(folders, parts, strict=True)):
            return None
        counts = _counts([part for some in parts for part in some[:-1]])
        return None if counts is None else counts.reshape(-1, axes)


TENS = 10 ** np.arange(1, 19)


def _counts(names: Sequence[str]) -> NDArray[np.int64] | None:
    """(n,) the numbers that these are, written as Python writes them; None where one of them is not."""
    digits = "".join(names)
    if not names:
        return np.empty(0, np.int64)
    if not digits.isascii() or not digits.isdecimal() or max(map(len, names)) > 18 or not all(names):
        return None
    found = np.array(list(map(int, names)), np.int64)
    shortest = len(found) + int(np.searchsorted(TENS, found, "right").sum())
    return found if shortest == len(digits) else None  # else one of them begins with 0


MOST_VOXELS = 2**63 - 1
MOST_CHUNK_BYTES = 4 << 30

DTYPES = {"uint8": "uint8", "uint16": "uint16", "|u1": "uint8", "<u1": "uint8", "<u2": "uint16", ">u2": "uint16"}


def parse_layout(
    doc: Json, attributes: Mapping[str, Any], names: Sequence[str] | None, *, mask: bool = False
) -> Layout:
    """What an array document (`zarr.json` or `.zarray`) says; `names` are axis names from an OME group above it.

    Raises VolumeError: a data type other than uint8 and uint16, axes that are not z, y, x and length-1 others,
    a chunk grid or a sharding that is not supported.
    """
    three = doc["zarr_format"] == 3
    shape = tuple(map(int, doc["shape"]))
    own = doc.get("dimension_names") if three else attributes.get("_ARRAY_DIMENSIONS")
    dims = _dims(shape, names or own)
    stored = doc["data_type" if three else "dtype"]
    if mask and isinstance(stored, str) and _is_integer(stored):
        dtype = np.dtype(stored).newbyteorder("=").name
    elif isinstance(stored, str) and stored in DTYPES:
        dtype = DTYPES[stored]
    else:
        raise VolumeError(
            f"voxels of type {stored} are not supported",
            why="a mask is bool or integer" if mask else "zmend restores grey values of microscopes: uint8 or uint16",
            do="convert it" if mask else "convert the volume, or name the image and not a segmentation",
        )
    parts = _v3_parts(doc) if three else _v2_parts(doc)
    _refuse_absurd(shape, parts, np.dtype(dtype).itemsize)
    return Layout(doc["zarr_format"], shape, dims, dtype, fill_value=int(doc.get("fill_value") or 0), **parts)


def _refuse_absurd(shape: tuple[int, ...], parts: Json, itemsize: int) -> None:
    """Sizes that no store has, before anything of such a size is made room for: a few bytes may declare petabytes."""
    for name, sizes in (("shape", shape), ("chunks", parts["chunks"]), ("shards", parts["grain"])):
        whole = all(isinstance(n, int) and n > 0 for n in sizes)
        if not whole or len(sizes) != len(shape) or math.prod(sizes) > MOST_VOXELS:
            raise VolumeError(
                f"an array with {name} {tuple(sizes)} is refused",
                why="sizes are whole numbers above 0, one for each axis, and all voxels can be counted in 63 bits",
                do="check the array's own document: was it damaged or edited?",
            )
    if (size := math.prod(parts["chunks"]) * itemsize) > MOST_CHUNK_BYTES:
        raise VolumeError(
            f"chunks {tuple(parts['chunks'])} of {size:,} bytes are refused",
            why=f"a chunk is decoded whole, in memory; more than {MOST_CHUNK_BYTES >> 30} GiB are taken for an attack",
            do="rewrite the volume with smaller chunks (64 MiB or less)",
        )


def _is_integer(name: str) -> bool:
    try:
        return np.dtype(name).kind in "biu"
    except TypeError:
        return False


def _dims(shape: tuple[int, ...], names: Sequence[str | None] | None) -> tuple[str, ...]:
    if names is None or all(n is None for n in names):
        names = ZYX_NAMES if len(shape) == 3 else ()
    dims = tuple(str(n).lower() for n in names)
    said = f"axes {', '.join(dims) or '(unnamed)'} of shape {shape}"
    if len(dims) != len(shape) or not set(ZYX_NAMES) <= set(dims) or len(set(dims)) != len(dims):
        raise VolumeError(
            f"cannot tell z, y and x apart in {said}",
            why="axes are found by name (OME axes, dimension_names, _ARRAY_DIMENSIONS); only 3-D arrays may go unnamed",
            do="name the axes z, y, x (and t or c of length 1) in the metadata",
        )
    if long := [d for d, n in zip(dims, shape, strict=True) if d not in ZYX_NAMES and n != 1]:
        raise VolumeError(
            f"axis {long[0]} is longer than 1 in {said}",
            why="zmend restores one grey-value volume at a time",
            do=f"write one {long[0]} of the volume to an array of its own, and name that",
        )
    return dims


def _v2_parts(doc: Json) -> Json:
    chunks, separator = tuple(doc["chunks"]), doc.get("dimension_separator", ".")
    shared = {"chunks": chunks, "grain": chunks, "prefix": "", "separator": separator}
    return {**shared, "index_at": None, "index_crc": False}


def _v3_parts(doc: Json) -> Json:
    grid, encoding = doc["chunk_grid"], doc.get("chunk_key_encoding", {"name": "default"})
    if grid["name"] != "regular":
        raise VolumeError(
            f"chunk grid {grid['name']!r} is not supported", do="rewrite the volume with chunks of one shape"
        )
    grain = tuple(grid["configuration"]["chunk_shape"])
    default = encoding["name"] == "default"
    separator = encoding.get("configuration", {}).get("separator", "/" if default else ".")
    prefix = f"c{separator}" if default else ""
    return {"grain": grain, "prefix": prefix, "separator": separator, **_shards(doc, grain)}


def _shards(doc: Json, grain: tuple[int, ...]) -> Json:
    sharding = [c for c in doc["codecs"] if c["name"] == "sharding_indexed"]
    if not sharding:
        return {"chunks": grain, "index_at": None, "index_crc": False}
    own = sharding[0]["configuration"]
    index = [c["name"] for c in own.get("index_codecs", [{"name": "bytes"}, {"name": "crc32c"}])]
    if len(doc["codecs"]) != 1 or index not in (["bytes"], ["bytes", "crc32c"]):
        raise VolumeError(
            "this kind of sharding is not supported",
            why="the shard's index, which tells absent chunks from black tissue, can be read only where sharding is the"
            " one outer codec and the index is plain or crc32c",
            do="rewrite the volume with the default sharding of zarr",
        )
    at = own.get("index_location", "end")
    return {"chunks": tuple(own["chunk_shape"]), "index_at": at, "index_crc": "crc32c" in index}
