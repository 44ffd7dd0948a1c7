"""Foreign: sources that are not Zarr, told in Zarr's words: Neuroglancer precomputed and N5. Read only.

The documents (`info`, `attributes.json`) and what is known of chunks (are they there, how large, how old) come through
`Files`, as of any volume: so absent chunks are told from black tissue, and a plan is bound to its inputs, as ever. Only
voxels come through tensorstore (`tensors`). What a slab was made from is hashed as voxels (`slab.Scene`), as of Zarr:
that is the same of any format, so a volume that is converted keeps the digests of what its slabs were made from.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.errors import VolumeError
from pipeline.files import Files
from pipeline.layout import Layout
from pipeline.ome import NANOMETRES, Image, Json, Level
from pipeline.precomputed import layout_of_scale

WRAPPED = (".gz", ".br", ".zstd")  # how CloudVolume names chunks on a disk, where no server tells their encoding


@dataclass(frozen=True, slots=True)
class Foreign:
    """One array that was found, as if Zarr told of it."""

    kind: str  # precomputed | n5
    files: Files  # of the level: its chunks lie here
    doc: Json  # in the words of zarr.json
    attributes: Json
    image: Image | None
    group: Files  # whose level it is
    level: int


def find(files: Files, level: int) -> Foreign | None:
    """The level of what lies at an address, or None where it is neither precomputed nor N5.

    Raises VolumeError: no such level, documents that cannot be understood, kinds that are not supported.
    """
    for name, parse in (("info", _precomputed), ("attributes.json", _n5)):
        if (raw := files.read(name)) is None:
            continue
        try:
            said = json.loads(raw)
            return parse(files, said, level) if isinstance(said, dict) else None
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
            if isinstance(error, VolumeError):
                raise
            where, why = files.at(name), f"{type(error).__name__}: {error}"
            do = "restore this file"
            raise VolumeError("the volume's own document cannot be understood", where=where, why=why, do=do) from error
    return None


def layout_as(kind: str, layout: Layout, doc: Json) -> Layout:
    """The layout with the names that this kind gives to chunks. Raises VolumeError (kinds of shards)."""
    return layout_of_scale(layout, doc["foreign"]["scale"]) if kind == "precomputed" else layout


# --- Neuroglancer precomputed


def _precomputed(files: Files, said: Json, level: int) -> Foreign | None:
    if "scales" not in said:
        return None  # of a skeleton, a mesh, or of something else altogether
    scales = said["scales"]
    _check_level(files, level, [f"{s['key']} ({'x'.join(f'{r:g}' for r in s['resolution'])} nm xyz)" for s in scales])
    scale = scales[level]
    shape, chunk = [*scale["size"], said["num_channels"]], [*scale["chunk_sizes"][0], said["num_channels"]]
    about = {k: v for k, v in scale.items() if k != "size"}  # which may grow, and is told as shape
    doc = _document(shape, chunk, said["data_type"], "xyzc", {"format": "precomputed", "scale": about})
    image = Image("0.5", _axes("xyzc", "nanometer"), tuple(map(_scale_level, scales)))
    found = Foreign("precomputed", files / _inside(files, scale["key"]), doc, {}, image, files, level)
    if scale.get("sharding") is None:
        _refuse_wrapped(found)
    return found


def _scale_level(scale: Json) -> Level:
    size = [float(r) for r in scale["resolution"]]
    shift = [o * r for o, r in zip(scale.get("voxel_offset", (0, 0, 0)), size, strict=True)]
    steps: list[Json] = [{"type": "scale", "scale": [*size, 1.0]}]
    steps += [{"type": "translation", "translation": [*shift, 0.0]}] if any(shift) else []
    return Level(scale["key"], (*size, 1.0), tuple(steps))


def _inside(files: Files, key: str) -> str:
    """A key of `info`, which may not lead out of the volume."""
    if key.startswith("/") or ".." in key.split("/") or "://" in key:
        do = "copy the volume whole, its levels below its info"
        raise VolumeError(f"level '{key}' lies outside the volume", where=files.at("info"), do=do)
    return key


def _refuse_wrapped(found: Foreign) -> None:
    """CloudVolume's chunks on a disk have names that no other reader knows: all of them would look absent."""
    shape, chunk = found.doc["shape"], found.doc["chunk_grid"]["configuration"]["chunk_shape"]
    offset = found.doc["foreign"]["scale"].get("voxel_offset", (0, 0, 0))
    cells = ([0, 0, 0], [n // c // 2 for n, c in zip(shape[:3], chunk[:3], strict=True)])
    spans = [[(o + i * c, o + min((i + 1) * c, n)) for i, c, n, o in zip(at, chunk, shape, offset, strict=False)]
             for at in cells]  # fmt: skip
    names = ["_".join(f"{a}-{b}" for a, b in span) + end for span in spans for end in WRAPPED]
    if found.files.local is not None and any(found.files.stats(names)):
        raise VolumeError(
            "the chunks of this volume have names of CloudVolume's own (.gz, .br)",
            where=found.files.uri,
            why="outside CloudVolume only a web server that tells their encoding can hand them out",
            do="unpack them (gunzip -r FOLDER), or write the volume with compress=False",
        )


# --- N5


def _n5(files: Files, said: Json, level: int) -> Foreign | None:
    if "dimensions" in said:
        _check_level(files, level, ["this array"])
        attributes = _zmend(_n5_size(said, {}), _n5_dims(said))
        return Foreign("n5", files, _n5_document(said), attributes, None, files, 0)
    levels = list(_n5_levels(files))
    if not levels:
        return None
    _check_level(files, level, [f"s{i}" for i in range(len(levels))])
    dims = _n5_dims(levels[0])
    sizes = [_n5_size(one, said, i) for i, one in enumerate(levels)]
    known = [s for s in sizes if s is not None]
    if len(known) < len(levels):  # of none, then, but how they relate
        known = [_factors(one, said, i, len(dims)) for i, one in enumerate(levels)]
    steps = [({"type": "scale", "scale": list(s)},) for s in known]
    image_levels = tuple(Level(f"s{i}", tuple(s), t) for i, (s, t) in enumerate(zip(known, steps, strict=True)))
    image = Image("0.5", _axes(dims, "nanometer" if None not in sizes else ""), image_levels)
    return Foreign("n5", files / f"s{level}", _n5_document(levels[level]), {}, image, files, level)


def _n5_levels(files: Files) -> Iterator[Json]:
    """The documents of s0, s1, …, as far as there are such."""
    for i in range(64):
        raw = files.read(f"s{i}/attributes.json")
        said = None if raw is None else json.loads(raw)
        if said is None or "dimensions" not in said:
            return
        yield said


def _n5_document(said: Json) -> Json:
    return _document(
        said["dimensions"], said["blockSize"], said["dataType"], _n5_dims(said),
        {"format": "n5", "compression": said.get("compression", said.get("compressionType"))},
    )  # fmt: skip


def _n5_dims(said: Json) -> str:
    """Names of the axes as they lie: x first, unless the array tells otherwise."""
    axes = said.get("axes")
    told = "".join(map(str, axes)).lower() if isinstance(axes, list) else ""
    return told if sorted(told) == sorted("xyz") else "xyz"


def _n5_size(said: Json, group: Json, level: int = 0) -> list[float] | None:
    """Nanometres of a voxel along the axes as they lie; None where the array does not say.

    `resolution` and `units` are tensorstore's, of this very array; `pixelResolution` is N5 Viewer's, of the finest.
    """
    if "resolution" in said:
        units = said.get("units") or ["nm"] * len(said["resolution"])
        return _nanometres(said["resolution"], units)
    told = said.get("pixelResolution", group.get("pixelResolution"))
    if told is None:
        return None
    sizes, unit = (told["dimensions"], told.get("unit", "nm")) if isinstance(told, dict) else (told, "nm")
    finest = _nanometres(sizes, [unit] * len(sizes))
    factors = _factors(said, group, level, len(sizes))
    return None if finest is None else [s * f for s, f in zip(finest, factors, strict=True)]


def _nanometres(sizes: Sequence[float], units: Sequence[str]) -> list[float] | None:
    found = [float(s) * NANOMETRES.get(u, math.nan) for s, u in zip(sizes, units, strict=True)]
    return found if all(math.isfinite(f) and f > 0 for f in found) else None


def _factors(said: Json, group: Json, level: int, count: int) -> list[float]:
    """How many voxels of the finest level one of this has, along each axis."""
    table = group.get("scales") or group.get("downsamplingFactors") or []
    told = said.get("downsamplingFactors") or (table[level] if level < len(table) else [1] * count)
    return [float(f) for f in told]


def _zmend(size: list[float] | None, dims: str) -> Json:
    """The voxel size as attributes of our own would tell it: z, y, x."""
    return {} if size is None else {"zmend": {"voxel_nm": [size[dims.index(d)] for d in "zyx"]}}


# --- both


def _document(shape: Sequence[int], chunk: Sequence[int], dtype: str, dims: str, about: Json) -> Json:
    """What zarr.json would say of the array. N5 names its blocks as Zarr v2 does, axes in its own order."""
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": dtype,
        "dimension_names": list(dims[: len(shape)]) if len(shape) <= len(dims) else None,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk)}},
        "chunk_key_encoding": {"name": "v2", "configuration": {"separator": "/"}},
        "codecs": [{"name": "bytes"}],
        "fill_value": 0,
        "foreign": about,
    }


def _axes(dims: str, unit: str) -> tuple[Json, ...]:
    space: Json = {"type": "space", "unit": unit} if unit else {"type": "space"}
    return tuple({"name": d, "type": "channel"} if d == "c" else {"name": d, **space} for d in dims)


def _check_level(files: Files, level: int, names: Sequence[str]) -> None:
    if not 0 <= level < len(names):
        listing = ", ".join(f"{i} ({name})" for i, name in enumerate(names))
        do = f"name one of the levels there are: {listing}"
        raise VolumeError(f"there is no level {level}", where=files.uri, do=do)
